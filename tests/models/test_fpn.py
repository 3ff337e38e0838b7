"""Semantic FPN beyond the checks that every architecture passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import noise, random_variables

from jaxseg.errors import InputError
from jaxseg.models.fpn import FPN

STRIDES = (2, 4, 8, 16, 32)


@pytest.mark.slow
def test_levels_are_added_from_coarse_to_fine_and_summed():
    sizes = [(-(-37 // s), -(-50 // s)) for s in STRIDES]
    maps = tuple(noise(1, *size, 3 + i, seed=0) for i, size in enumerate(sizes))
    decoder = FPN(pyramid_channels=9, segmentation_channels=32)
    template = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, (37, 50)), maps)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), template)
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
    zeros = jax.tree.map(np.zeros_like, params)
    without = [
        run(
            {
                "params": params
                | {name: zeros[name] for name in params if name.startswith(f"level{i}_")}
            },
            maps,
        )
        for i in range(4)
    ]
    assert all(np.abs(y - part).max() > 0.1 for part in without)
    np.testing.assert_allclose(sum(y - part for part in without), y, rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels", [16, 48, 0])
def test_channels_that_groups_do_not_divide_are_named(channels):
    with pytest.raises(
        InputError,
        match=f"segmentation_channels={channels}: FPN's group normalization needs a multiple of 32",
    ):
        FPN(segmentation_channels=channels)


def test_dropout_drops_channels_and_needs_a_key():
    decoder = FPN(pyramid_channels=8, segmentation_channels=32, dropout=0.5)
    features = [jnp.ones((2, 4, 4, 3))]
    variables = random_variables(jax.eval_shape(decoder.init, jax.random.key(0), features, (8, 8)))
    with pytest.raises(Exception, match="dropout"):
        decoder.apply(variables, features, (8, 8), train=True)
    everything = decoder.apply(variables, features, (8, 8))[0]
    rngs = {"dropout": jax.random.key(1)}
    dropped = decoder.apply(variables, features, (8, 8), train=True, rngs=rngs)[0]
    kept = np.asarray((dropped != 0).any((1, 2)))
    assert 10 < kept.sum() < 54
    assert kept[0].tolist() != kept[1].tolist()
    np.testing.assert_allclose(
        dropped, 2 * np.asarray(everything) * kept[:, None, None], rtol=0, atol=1e-5
    )
