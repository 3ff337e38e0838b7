import jax
import numpy as np
import pytest

from jaxseg.decoders import FPN, FCN8s, FCN16s, FCN32s, UNet
from jaxseg.errors import InputError
from jaxseg.nn import bilinear, nearest

STRIDES = (2, 4, 8, 16, 32)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def features(size=(37, 50), channels=(3, 4, 5, 6, 7)):
    return tuple(
        noise(1, -(-size[0] // s), -(-size[1] // s), c)
        for s, c in zip(STRIDES, channels, strict=True)
    )


def variables_of(decoder, maps, seed=1):
    template = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, (37, 50)), maps)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), template)


def conv(x, params):
    y = np.einsum("nhwc,cf->nhwf", x, params["kernel"][0, 0])
    return y + params.get("bias", 0)


def test_fcn_sums_scores_from_coarse_to_fine():
    maps = features((147, 195))
    decoder = FCN8s(num_classes=2, strides=STRIDES)
    variables = variables_of(decoder, maps)
    params = variables["params"]
    assert set(params) == {"score32", "up16", "score16", "up8", "score8"}
    for level in (
        "up16",
        "up8",
    ):  # as initialised: bilinear, so inside of the map it can be checked by resizing
        tent = np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25])
        params[level]["kernel"] = np.float32(np.multiply.outer(tent, np.eye(2)))
    (y,) = decoder.apply(variables, maps, (37, 50))

    def double(x, size):
        return np.asarray(bilinear(x, (2 * x.shape[1], 2 * x.shape[2])))[:, : size[1], : size[2]]

    x = conv(maps[4], params["score32"])
    for feature, name in ((maps[3], "score16"), (maps[2], "score8")):
        x = double(x, feature.shape) + conv(feature, params[name])
    assert y.shape == (1, 19, 25, 2)
    np.testing.assert_allclose(y[:, 6:-6, 6:-6], x[:, 6:-6, 6:-6], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "names", "shape"),
    [
        (FCN32s, {"score32"}, (1, 2, 2, 4)),
        (FCN16s, {"score32", "up16", "score16"}, (1, 3, 4, 4)),
        (FCN8s, {"score32", "up16", "score16", "up8", "score8"}, (1, 5, 7, 4)),
    ],
)
def test_fcn_uses_what_its_name_says_and_starts_at_zero(make, names, shape):
    decoder = make(num_classes=4, strides=STRIDES)
    variables = jax.jit(decoder.init, static_argnums=2)(jax.random.key(0), features(), (37, 50))
    assert set(variables["params"]) == names
    (y,) = decoder.apply(variables, features(), (37, 50))
    assert y.shape == shape
    assert np.abs(y).max() == 0


@pytest.mark.parametrize(
    ("make", "strides", "needed"),
    [
        (FCN32s, (2, 4, 8, 16), "strides 32, but"),
        (FCN16s, (2, 4, 8, 16, 16), "strides 16, 32, but"),
        (FCN8s, (4, 8, 16), "strides 8, 16, 32, but the encoder's are 4, 8, 16"),
        (FCN8s, (16, 32), "strides 8, 16, 32"),
    ],
)
def test_fcn_names_the_strides_it_needs(make, strides, needed):
    with pytest.raises(InputError, match=needed):
        make(num_classes=2, strides=strides)


def test_fcn_has_three_depths():
    with pytest.raises(InputError, match="stride=4: an FCN's finest feature"):
        FCN8s(num_classes=2, stride=4, strides=STRIDES)


def test_unet_concatenates_from_coarse_to_fine():
    maps = features()
    decoder = UNet((10, 9, 8, 7, 6))
    variables = variables_of(decoder, maps)
    result = decoder.apply(variables, maps, (37, 50))
    assert [m.shape for m in result] == [
        (1, 37, 50, 6), (1, 19, 25, 7), (1, 10, 13, 8), (1, 5, 7, 9), (1, 3, 4, 10)
    ]  # fmt: skip
    inputs = [
        variables["params"][f"block{i}"]["conv1"]["conv"]["kernel"].shape[2] for i in range(5)
    ]
    assert inputs == [7 + 6, 10 + 5, 9 + 4, 8 + 3, 7]


def test_unet_feeds_skips_behind_what_comes_from_below():
    """A kernel that copies channel 7, the skip's first one, gives the skip."""
    maps = features()[-2:]
    decoder = UNet((1, 1))
    variables = variables_of(decoder, maps)
    kernel = np.zeros((3, 3, 13, 1), np.float32)
    kernel[1, 1, 7] = 1
    copy = np.zeros((3, 3, 1, 1), np.float32)
    copy[1, 1] = 1
    params, statistics = variables["params"], variables["batch_stats"]
    for block, first in (("block0", kernel), ("block1", copy)):
        for name, k in (("conv1", first), ("conv2", copy)):
            params[block][name] = {
                "conv": {"kernel": k},
                "norm": {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)},
            }
            statistics[block][name] = {
                "norm": {
                    "mean": np.zeros(1, np.float32),
                    "var": np.ones(1, np.float32) - np.float32(1e-5),
                }
            }
    fine, coarse = decoder.apply(variables, maps, (37, 50))
    skip = np.maximum(maps[0][..., :1], 0)
    np.testing.assert_allclose(coarse, skip, rtol=0, atol=1e-5)
    np.testing.assert_allclose(fine, nearest(skip, (37, 50)), rtol=0, atol=1e-5)


def test_unet_wants_one_number_of_channels_per_feature():
    with pytest.raises(InputError, match=r"has 5 features, but UNet has channels=\(8, 8\)"):
        variables_of(UNet((8, 8)), features())


def test_fpn_adds_from_coarse_to_fine_and_sums_all_levels():
    maps = features()
    decoder = FPN(pyramid_channels=9, segmentation_channels=32)
    variables = variables_of(decoder, maps)
    params = variables["params"]
    assert params["lateral0"]["kernel"].shape == (1, 1, 7, 9)
    assert params["lateral3"]["kernel"].shape == (1, 1, 4, 9)
    convolutions = [sum(name.startswith(f"level{i}_") for name in params) for i in range(4)]
    assert convolutions == [3, 2, 1, 1]
    (y,) = decoder.apply(variables, maps, (37, 50))
    assert y.shape == (1, 10, 13, 32)
    run = jax.jit(lambda variables, maps: decoder.apply(variables, maps, (37, 50))[0])
    for i in range(5):
        moved = run(variables, (*maps[:i], maps[i] + 1, *maps[i + 1 :]))
        assert (np.abs(moved - y).max() > 1e-4) == (i > 0)
    silent = jax.tree.map(np.zeros_like, params)
    without = [
        run(
            {
                "params": params
                | {name: silent[name] for name in params if name.startswith(f"level{i}_")}
            },
            maps,
        )
        for i in range(4)
    ]
    assert all(np.abs(y - part).max() > 0.1 for part in without)
    np.testing.assert_allclose(sum(y - part for part in without), y, rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels", [16, 48, 0])
def test_fpn_wants_whole_groups(channels):
    with pytest.raises(
        InputError,
        match=f"segmentation_channels={channels}: FPN's group normalisation needs a multiple of 32",
    ):
        FPN(segmentation_channels=channels)
