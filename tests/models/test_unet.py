"""U-Net beyond the checks that every architecture passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import SIZE, fast_jit, noise, random_variables, shapes
from harness.models import OwnEncoder, create

from jaxseg import models
from jaxseg.errors import InputError
from jaxseg.models.unet import UNet
from jaxseg.nn import MERGES, UPSAMPLINGS, nearest

STRIDES = (2, 4, 8, 16, 32)


def features():
    sizes = [(-(-37 // s), -(-50 // s)) for s in STRIDES]
    return tuple(noise(1, *size, 3 + i, seed=0) for i, size in enumerate(sizes))


def variables_of(decoder, maps):
    template = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, (37, 50)), maps)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), template)


@pytest.mark.slow
def test_maps_follow_the_features_from_coarse_to_fine():
    decoder = UNet((10, 9, 8, 7, 6))
    variables = variables_of(decoder, features())
    maps = decoder.apply(variables, features(), (37, 50))
    assert [m.shape for m in maps] == [
        (1, 37, 50, 6), (1, 19, 25, 7), (1, 10, 13, 8), (1, 5, 7, 9), (1, 3, 4, 10)
    ]  # fmt: skip
    inputs = [
        variables["params"][f"block{i}"]["conv1"]["conv"]["kernel"].shape[2] for i in range(5)
    ]
    assert inputs == [7 + 6, 10 + 5, 9 + 4, 8 + 3, 7]


def test_skip_is_concatenated_after_the_decoders_map():
    """A kernel that copies channel 7, the skip's first one, returns the skip."""
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


def test_channels_for_another_depth_are_named():
    with pytest.raises(InputError, match=r"has 5 features, but UNet has channels=\(8, 8\)"):
        variables_of(UNet((8, 8)), features())


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("upsample", UPSAMPLINGS)
@pytest.mark.sample(2)
def test_upsampling_and_merge_build_their_layers(upsample, merge):
    options = {"upsample": UPSAMPLINGS[upsample], "merge": MERGES[merge], "channels": (8, 8, 8, 4)}
    model = models.unet(num_classes=2, encoder=OwnEncoder(), **options)
    by_name = options | {"upsample": upsample, "merge": merge}
    assert model == create("unet", OwnEncoder(), 2, **by_name)
    output, variables = shapes(model)
    assert output.logits.shape == (1, *SIZE, 2)
    for size in [(1, 1), (5, 2), (64, 33)]:  # with the same parameters
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        assert jax.eval_shape(model.apply, variables, images).logits.shape == (1, *size, 2)
    layers = {name.split("_")[0] for name in variables["params"]["decoder"]}
    learned = {"transposed": {"TransposedConv"}, "sub_pixel": {"SubPixelConv"}}
    assert {n for n in layers if n[0].isupper()} == (
        learned.get(upsample, set()) | ({"Conv"} if merge == "add" else set())
    )
    first = variables["params"]["decoder"]["block0"]["conv1"]["conv"]["kernel"].shape[2]
    assert first == (12 if merge == "add" else 20 + 12)


@pytest.mark.parametrize(
    "option", [{"upsample": "bilinear"}, {"upsample": "transposed"}, {"merge": "add"}]
)
@pytest.mark.sample(1)
def test_upsampling_and_merge_change_logits_and_can_be_trained(option):
    images = noise(1, 17, 18, 3, seed=0)

    def run(**options):
        model = models.unet(num_classes=2, encoder=OwnEncoder(), channels=(8, 8, 8, 4), **options)
        variables = random_variables(shapes(model)[1])

        def loss(params):
            y = model.apply({**variables, "params": params}, images).logits
            return jnp.square(y).mean(), y

        return fast_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    known = {"upsample": UPSAMPLINGS, "merge": MERGES}
    (_, logits), gradients = run(**{k: known[k][v] for k, v in option.items()})
    (_, by_default), _ = run()
    assert jnp.abs(logits - by_default).max() > 1e-3
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))
