import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize
from jaxseg.errors import InputError


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalize_equals_formula_in_float32(dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(dtype)
    out = jax.jit(normalize())(jnp.asarray(images))
    expected = (images / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


def test_normalize_other_numbers_of_channels():
    out = normalize((0.5,), (0.5,))(jnp.zeros((1, 2, 2, 1), jnp.uint8))
    assert out.tolist() == [[[[-1.0], [-1.0]]] * 2]
    with pytest.raises(InputError, match="4 channels, but mean and std have 3"):
        normalize()(jnp.zeros((1, 2, 2, 4), jnp.uint8))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.5, 0.5)), ((), ()), ((0.5,), (0.0,)), ((0.5,), (-1.0,))]
)
def test_normalize_invalid_statistics_raise(mean, std):
    with pytest.raises(InputError):
        normalize(mean, std)
