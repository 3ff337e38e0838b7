"""One signature for every kind of upsampling; tests/parity/test_upsample.py compares with torch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.nn import (
    UPSAMPLINGS,
    SubPixelConv,
    TransposedConv,
    depth_to_space,
    max_pool_with_indices,
    max_unpool,
    nearest,
    pixel_shuffle,
    sub_pixel,
    transposed,
    transposed_convolution,
)
from jaxseg.typing import Upsample

KINDS = {**UPSAMPLINGS, "pixel_shuffle": pixel_shuffle}
LEARNED = {"transposed": "TransposedConv", "sub_pixel": "SubPixelConv"}


class Twice(nn.Module):
    """Whatever a decoder might do with an upsampling: two steps, of sizes it is told."""

    upsample: Upsample
    sizes: tuple

    @nn.compact
    def __call__(self, x):
        for size in self.sizes:
            x = self.upsample(x, size)
        return x


def noise(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_reaches_whole_factors_and_exact_sizes(name):
    x = noise(2, 3, 4, 144)
    for sizes in [((6, 8), (18, 24)), ((5, 7), (9, 14)), ((3, 4), (11, 16))]:
        model = Twice(KINDS[name], sizes)
        y, variables = jax.eval_shape(
            lambda x, m=model: m.init_with_output(jax.random.key(0), x), x
        )
        factors = [2, 3] if sizes[0] == (6, 8) else [2, 2] if sizes[0] == (5, 7) else [1, 4]
        channels = 144 // np.prod(factors) ** 2 if name == "pixel_shuffle" else 144
        assert y.shape == (2, *sizes[1], channels)
        layers = {f"{LEARNED[name]}_{i}" for i in range(2)} if name in LEARNED else set()
        assert set(variables.get("params", {})) == layers
        half = jax.eval_shape(lambda v, x, m=model: m.apply(v, x), variables, x.astype("bfloat16"))
        assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.sample(2)
def test_what_is_too_much_is_cut_or_interpolated(name):
    x, one = noise(1, 2, 3, 4), Twice(KINDS[name], ((4, 6),))
    variables = one.init(jax.random.key(0), x)
    whole = one.apply(variables, x)
    less = Twice(KINDS[name], ((4, 5),)).apply(variables, x)
    assert (np.asarray(less == whole[:, :, :5]).all()) == (not name.startswith("bilinear"))


def test_unpooling_is_an_upsampling_once_the_places_are_bound():
    x = noise(1, 5, 7, 2)
    values, places = max_pool_with_indices(x, 2)
    upsample: Upsample = partial(max_unpool, indices=places)
    y = np.asarray(Twice(upsample, ((5, 7),)).apply({}, values))
    np.testing.assert_array_equal(y[y != 0], np.asarray(x)[y != 0])
    assert (y != 0).sum() == values.size


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.sample(1)
def test_the_factor_stays_as_the_parameters_were_made(name):
    """A map of one pixel does not tell by which factor it is to be upsampled."""
    variables = Twice(UPSAMPLINGS[name], ((8, 8), (32, 32))).init(
        jax.random.key(0), noise(1, 4, 4, 3)
    )
    for given, *sizes in [((1, 1), (1, 1), (2, 3)), ((2, 1), (3, 1), (9, 1))]:
        y = Twice(UPSAMPLINGS[name], tuple(sizes)).apply(variables, noise(1, *given, 3))
        assert y.shape == (1, *sizes[-1], 3)
    with pytest.raises(InputError, match=r"\(4, 4\) is upsampled by 2, which does not lead to \("):
        Twice(UPSAMPLINGS[name], ((12, 12),)).apply(variables, noise(1, 4, 4, 3))
    with pytest.raises(InputError, match=r"\(4, 4\) is upsampled by 2, which does not lead to \("):
        Twice(UPSAMPLINGS[name], ((4, 4),)).apply(variables, noise(1, 4, 4, 3))


@pytest.mark.parametrize("upsample", [transposed, sub_pixel])
def test_a_factor_can_be_given(upsample):
    x = noise(1, 1, 2, 3)
    shapes = Twice(partial(upsample, factor=4), ((2, 7),)).init(jax.random.key(0), x)
    kernel = jax.tree.leaves(shapes)[-1]
    assert kernel.shape in {(8, 8, 3, 3), (3, 3, 3, 48)}


def test_kernels_of_a_chosen_size():
    x = noise(1, 2, 3, 4)
    kind = partial(transposed, factor=2, kernel_size=2, kernel_init=nn.initializers.he_normal())
    y, variables = Twice(kind, ((4, 6),)).init_with_output(jax.random.key(0), x)
    kernel = variables["params"]["TransposedConv_0"]["kernel"]
    assert kernel.shape == (2, 2, 4, 4)
    for i, j in np.ndindex(2, 2):
        expected = np.einsum("nhwc,cf->nhwf", x, kernel[i, j])
        np.testing.assert_allclose(y[:, i::2, j::2], expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="kernel_size=2 with factor=None"):
        TransposedConv(3, None, 2)
    with pytest.raises(InputError, match="factor=0"):
        TransposedConv(3, 0)


@pytest.mark.parametrize(("k", "stride"), [(2, 2), (3, 3), (1, 2), (4, 2), (3, 2), (7, 3)])
def test_pixels_lay_down_the_kernel(k, stride):
    x, kernel = noise(1, 2, 3, 4), noise(k, k, 4, 5)
    expected = np.zeros((1, stride + k, 2 * stride + k, 5), np.float32)
    for i, j in np.ndindex(2, 3):
        stamp = np.einsum("nc,hwcf->nhwf", x[:, i, j], kernel)
        expected[:, stride * i : stride * i + k, stride * j : stride * j + k] += stamp
    y = transposed_convolution(x, kernel, stride)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    cut = transposed_convolution(x, kernel, stride, output_padding=1)
    np.testing.assert_allclose(cut[:, :-1, :-1], expected, rtol=0, atol=1e-5)


def test_sub_pixel_convolution_starts_without_a_chessboard():
    x = noise(1, 3, 4, 5)
    y, variables = SubPixelConv(6, 3).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, nearest(y[:, ::3, ::3], (9, 12)))
    assert y.std() > 0.1
    assert variables["params"]["kernel"].shape == (3, 3, 5, 54)


def test_channels_that_cannot_be_spread():
    with pytest.raises(InputError, match="3 channels are not a multiple of factor 2 squared"):
        pixel_shuffle(jnp.zeros((1, 2, 2, 3)), (4, 4))
    np.testing.assert_array_equal(
        pixel_shuffle(noise(1, 2, 3, 8), (4, 5)), depth_to_space(noise(1, 2, 3, 8), 2)[:, :, :5]
    )


@pytest.mark.parametrize("layer", [TransposedConv(2, None), SubPixelConv(2, None)])
def test_neither_factor_nor_size(layer):
    with pytest.raises(InputError, match="needs a factor or a size"):
        layer.init(jax.random.key(0), noise(1, 2, 2, 2))
