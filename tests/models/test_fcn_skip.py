"""FCN-32s, FCN-16s and FCN-8s beyond the checks that every architecture passes."""

import jax
import numpy as np
import pytest
from harness.encoders import noise

from jaxseg.errors import InputError
from jaxseg.models.fcn_skip import FCNSkip
from jaxseg.nn import bilinear

STRIDES = (2, 4, 8, 16, 32)


def features(size=(37, 50), channels=(3, 4, 5, 6, 7)):
    return tuple(
        noise(1, -(-size[0] // s), -(-size[1] // s), c, seed=0)
        for s, c in zip(STRIDES, channels, strict=True)
    )


def score(x, params):
    return np.einsum("nhwc,cf->nhwf", x, params["kernel"][0, 0]) + params["bias"]


def test_scores_are_summed_from_coarse_to_fine():
    maps = features((147, 195))
    decoder = FCNSkip(num_classes=2, stride=8, strides=STRIDES)
    template = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, (37, 50)), maps)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), template)
    params = variables["params"]
    assert set(params) == {"score32", "up16", "score16", "up8", "score8"}
    for level in ("up16", "up8"):  # bilinear, so that inside of the map resizing gives the same
        tent = np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25])
        params[level]["kernel"] = np.float32(np.multiply.outer(tent, np.eye(2)))
    (y,) = decoder.apply(variables, maps, (37, 50))

    def double(x, size):
        return np.asarray(bilinear(x, (2 * x.shape[1], 2 * x.shape[2])))[:, : size[1], : size[2]]

    x = score(maps[4], params["score32"])
    for feature, name in ((maps[3], "score16"), (maps[2], "score8")):
        x = double(x, feature.shape) + score(feature, params[name])
    assert y.shape == (1, 19, 25, 2)
    np.testing.assert_allclose(y[:, 6:-6, 6:-6], x[:, 6:-6, 6:-6], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("stride", "names", "shape"),
    [
        (32, {"score32"}, (1, 2, 2, 4)),
        (16, {"score32", "up16", "score16"}, (1, 3, 4, 4)),
        (8, {"score32", "up16", "score16", "up8", "score8"}, (1, 5, 7, 4)),
    ],
)
def test_stride_names_its_features_and_scores_start_at_zero(stride, names, shape):
    decoder = FCNSkip(num_classes=4, stride=stride, strides=STRIDES)
    variables = jax.jit(decoder.init, static_argnums=2)(jax.random.key(0), features(), (37, 50))
    assert set(variables["params"]) == names
    (y,) = decoder.apply(variables, features(), (37, 50))
    assert y.shape == shape
    assert np.abs(y).max() == 0


@pytest.mark.parametrize(
    ("stride", "strides", "message"),
    [
        (32, (2, 4, 8, 16), "strides 32, but"),
        (16, (2, 4, 8, 16, 16), "strides 16, 32, but"),
        (8, (4, 8, 16), "strides 8, 16, 32, but the encoder's are 4, 8, 16"),
        (8, (16, 32), "strides 8, 16, 32"),
        (4, STRIDES, "stride=4: an FCN's finest feature"),
    ],
)
def test_impossible_strides_are_named(stride, strides, message):
    with pytest.raises(InputError, match=message):
        FCNSkip(num_classes=2, stride=stride, strides=strides)
