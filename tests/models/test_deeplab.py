"""DeepLabV3 and DeepLabV3+ beyond the checks that every architecture passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import noise, random_variables, shapes
from harness.models import OwnEncoder, create

from jaxseg import pretrained
from jaxseg.errors import InputError
from jaxseg.models.deeplab_v3_plus import DeepLabV3Plus


def test_options_reach_the_pyramid_and_its_convolutions():
    model = create("deeplab_v3", rates=[2, 4], separable=True, channels=16, dropout=0.1)
    params = shapes(model)[1]["params"]["decoder"]
    assert sorted(params["aspp"]) == ["branch0", "branch1", "branch2", "pool", "project"]
    assert params["aspp"]["branch2"]["depthwise"]["kernel"].shape == (3, 3, 1, 512)
    assert params["aspp"]["project"]["conv"]["kernel"].shape == (1, 1, 4 * 16, 16)
    assert params["refine"]["conv"]["kernel"].shape == (3, 3, 16, 16)
    assert model.decoder.dropout == 0.1
    plus = shapes(create("deeplab_v3_plus", separable=False))[1]["params"]["decoder"]
    assert plus["aspp"]["branch1"]["conv"]["kernel"].shape == (3, 3, 512, 256)


def test_plus_merges_the_feature_of_stride_4():
    assert create("deeplab_v3_plus").decoder.skip == 1
    assert create("deeplab_v3_plus", OwnEncoder()).decoder.skip == 0
    features = tuple(noise(1, *size, 3 + i) for i, size in enumerate([(10, 13), (5, 7), (3, 4)]))
    decoder = DeepLabV3Plus(skip=0, channels=8)
    template = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, (37, 50)), features)
    variables = random_variables(template)

    @jax.jit
    def run(features):
        return decoder.apply(variables, features, (37, 50))[0]

    y = run(features)
    assert y.shape == (1, 10, 13, 8)
    for i in range(3):
        moved = run((*features[:i], features[i] + 1, *features[i + 1 :]))
        assert (np.abs(moved - y).max() > 1e-4) == (i != 1)


def test_weights_of_more_rates_than_smp_has_are_refused():
    model = create("deeplab_v3", rates=(1, 2, 3, 4))
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes(model)[1])
    with pytest.raises(InputError, match=r"branch4/conv/kernel \(no rule for it\)"):
        pretrained.to_torch(model, variables)
