"""Atrous spatial pyramid pooling beyond its comparison with smp inside of DeepLab."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import fast_jit, noise, random_variables

from jaxseg.errors import InputError
from jaxseg.nn import ASPP, ConvNorm, SeparableConv


def variables_of(block, x):
    return random_variables(jax.eval_shape(block.init, jax.random.key(0), x))


@pytest.mark.parametrize("conv", [ConvNorm, SeparableConv])
def test_each_branch_sees_the_pixels_at_its_rate(conv):
    x = noise(1, 11, 9, 3)
    block = ASPP(4, rates=(2, 3), conv=conv)
    variables = variables_of(block, x)

    @fast_jit
    def slope_of_the_center(state, x):
        return jax.grad(lambda x: block.apply(state, x)[0, 5, 4].sum())(x)

    def pixels_seen_by(branch):
        """Returns the pixels of the image that move the center of a branch."""
        kernel = np.zeros((1, 1, 16, 4), np.float32)
        kernel[0, 0, 4 * branch : 4 * branch + 4] = 1
        project = variables["params"]["project"] | {"conv": {"kernel": jnp.asarray(kernel)}}
        params = variables["params"] | {"project": project}
        # Bias makes every ReLU active, so that a change is seen.
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf + 50.0 if path[-1].key == "bias" else leaf, params
        )
        state = variables | {"params": params}
        slope = slope_of_the_center(state, x)
        return {tuple(index) for index in np.argwhere(np.abs(slope[0]).max(-1) > 1e-6).tolist()}

    assert pixels_seen_by(0) == {(5, 4)}
    for branch, rate in ((1, 2), (2, 3)):
        steps = (-rate, 0, rate)
        assert pixels_seen_by(branch) == {(5 + i, 4 + j) for i in steps for j in steps}
    assert len(pixels_seen_by(3)) == 11 * 9


def test_dropout_zeroes_single_values_in_training():
    x = noise(2, 6, 5, 3)
    block = ASPP(8, rates=(1,), dropout=0.5)
    variables = variables_of(block, x)

    @fast_jit
    def run(variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return block.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    without = block.clone(dropout=0.0)
    kept, _ = without.apply(variables, x, train=True, mutable=["batch_stats"])
    y = np.asarray(run(variables, x))
    dropped = (y == 0) & (np.asarray(kept) > 0)
    assert 0 < dropped.mean() < 0.5
    np.testing.assert_allclose(y[y > 0], 2 * np.asarray(kept)[y > 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rates", [(), (6, 0)])
def test_impossible_rates_are_named(rates):
    with pytest.raises(InputError, match="ASPP needs at least one rate"):
        ASPP(rates=rates)
