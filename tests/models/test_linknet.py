"""LinkNet beyond the checks that every architecture passes."""

import jax
import numpy as np
from harness.encoders import fast_jit, noise, random_variables, shapes
from harness.models import OwnEncoder, create

from jaxseg.models.linknet import LinkNet


def test_factors_are_those_between_the_strides():
    assert create("linknet").decoder.factors == (2, 2, 2, 2, 2)
    own = create("linknet", OwnEncoder(), channels=8)
    assert own.decoder.factors == (2, 2, 2, 4)
    params = shapes(own)[1]["params"]["decoder"]
    assert params["block3"]["upsample"]["conv"]["kernel"].shape == (8, 8, 1, 1)
    assert params["block3"]["expand"]["conv"]["kernel"].shape == (1, 1, 1, 8)
    dilated = create("linknet", encoder_options={"output_stride": 16})
    assert dilated.decoder.factors == (1, 2, 2, 2, 2)


def test_parameters_do_not_depend_on_the_size_of_the_images():
    one, many = (shapes(create("linknet"), (1, *size, 3))[1] for size in ((1, 1), (64, 64)))
    assert one == many


def test_each_feature_is_added():
    features = tuple(noise(1, *size, 4 + i) for i, size in enumerate([(19, 25), (10, 13), (5, 7)]))
    decoder = LinkNet((2, 2, 2), channels=6)
    template = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, (37, 50)), features)
    variables = random_variables(template)

    @fast_jit
    def run(features):
        return decoder.apply(variables, features, (37, 50))[0]

    y = run(features)
    assert y.shape == (1, 37, 50, 6)
    for i in range(3):
        moved = run((*features[:i], features[i] + 1, *features[i + 1 :]))
        assert np.abs(moved - y).max() > 1e-4
