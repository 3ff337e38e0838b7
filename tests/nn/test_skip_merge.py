"""Skips by concatenation and by sum."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxseg.nn import MERGES, add, concatenate


class Joined(nn.Module):
    """What a decoder does: joins twice in one scope."""

    merge: object

    @nn.compact
    def __call__(self, x, skips):
        for skip in skips:
            x = self.merge(x, skip)
        return x


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_concatenation_has_the_skip_behind():
    x, skip = noise(1, 2, 3, 4), noise(1, 2, 3, 5, seed=1)
    np.testing.assert_array_equal(concatenate(x, skip), np.concatenate([x, skip], -1))
    assert {"concatenate": concatenate, "add": add} == MERGES


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sum_leaves_the_skip_as_it_is(dtype):
    x, skips = noise(1, 2, 3, 4), (noise(1, 2, 3, 5, seed=1), noise(1, 2, 3, 5, seed=2))
    x, skips = jax.tree.map(lambda a: jax.numpy.asarray(a, dtype), (x, skips))
    y, variables = Joined(add).init_with_output(jax.random.key(0), x, skips)
    assert set(variables["params"]) == {"Conv_0"}  # channels agree the second time
    kernel = variables["params"]["Conv_0"]["kernel"]
    assert (y.dtype, kernel.dtype, kernel.shape) == (x.dtype, np.float32, (1, 1, 4, 5))
    expected = np.asarray(x, np.float32) @ np.asarray(kernel[0, 0]) + sum(
        np.asarray(s, np.float32) for s in skips
    )
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=0, atol=tolerance)
