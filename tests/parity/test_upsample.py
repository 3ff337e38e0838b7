"""Every kind of upsampling equals torch's, its gradients too, in float32 and bfloat16, at random shapes.

torch computes in float32, of inputs rounded to the type: its own bfloat16 is not always right (PyTorch 2.13 through oneDNN
on processors with AMX: the gradient of `conv_transpose2d` towards its input).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import fast_jit

from jaxseg.nn import (
    UPSAMPLINGS,
    SubPixelConv,
    TransposedConv,
    max_pool_with_indices,
    max_unpool,
    pixel_shuffle,
    transposed_convolution,
)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TYPES = {"float32": 2e-6, "bfloat16": 2**-7}
"""Tolerance in units of the largest result: a few roundings of the type."""
INTERPOLATE = {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear_aligned": {"mode": "bilinear", "align_corners": True},
}


class Sides:
    """Random arrays for both sides, rounded to a type first so that both start with the same numbers."""

    def __init__(self, torch, dtype, seed):
        self.torch, self.dtype = torch, dtype
        self.rng = np.random.default_rng(seed)

    def noise(self, *shape):
        values = self.rng.normal(size=shape).astype(np.float32)
        return jnp.asarray(values, self.dtype)

    def to_torch(self, x, order=(0, 3, 1, 2)):
        x = np.asarray(x.astype(jnp.float32))
        x = np.ascontiguousarray(x.transpose(order) if x.ndim == 4 else x)
        return self.torch.from_numpy(x).requires_grad_()

    def compare(self, ours, theirs, arguments, orders):
        """The results of two functions, and the gradients of a random sum of them, are equal.

        `orders` brings each argument from jaxseg's layout to torch's.
        """
        tensors = [self.to_torch(x, o) for x, o in zip(arguments, orders, strict=True)]
        expected = theirs(*tensors)
        weight = self.noise(*np.moveaxis(np.empty(expected.shape), 1, -1).shape)
        (expected * self.to_torch(weight).detach()).sum().backward()
        wrong = [x.dtype for x in (ours(*arguments),) if x.dtype != jnp.dtype(self.dtype)]
        assert not wrong

        @fast_jit
        def run(*arguments):
            y, pull = jax.vjp(ours, *arguments)
            return y, pull(weight)

        y, gradients = run(*arguments)
        self.close(y, expected, (0, 3, 1, 2))
        for gradient, tensor, order in zip(gradients, tensors, orders, strict=True):
            self.close(gradient, tensor.grad, order)

    def close(self, ours, theirs, order):
        ours = np.asarray(ours.astype(jnp.float32))
        ours = ours.transpose(order) if ours.ndim == 4 else ours
        theirs = theirs.detach().numpy()
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=TYPES[self.dtype])


MAP, KERNEL, VECTOR = (0, 3, 1, 2), (2, 3, 0, 1), None
"""Orders of axes: `[N, H, W, C]`, the kernel `[k, k, C, F]` of a transposed convolution, a bias."""


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", INTERPOLATE)
def test_interpolation(torch, kind, dtype):
    for seed in range(3):
        sides = Sides(torch, dtype, seed)
        given, size = sides.rng.integers(1, 12, 2), sides.rng.integers(1, 40, 2)
        size = tuple((3 * given if seed == 0 else size).tolist())
        sides.compare(
            lambda x, size=size: UPSAMPLINGS[kind](x, size),
            lambda x, size=size: torch.nn.functional.interpolate(x, size, **INTERPOLATE[kind]),
            [sides.noise(2, *given.tolist(), 3)],
            [MAP],
        )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 3)])
def test_unpooling_to_the_size_that_was_pooled(torch, window, stride, dtype):
    sides = Sides(torch, dtype, seed=window + stride)
    size = tuple(sides.rng.integers(5, 14, 2).tolist())
    values, places = max_pool_with_indices(sides.noise(2, *size, 3), window, stride)
    indices = torch.from_numpy(np.asarray(places, np.int64).transpose(0, 3, 1, 2).copy())
    unpool = torch.nn.functional.max_unpool2d
    sides.compare(
        lambda x: functools.partial(max_unpool, indices=places)(x, size),
        lambda x: unpool(x, indices, window, stride, output_size=size),
        [values],
        [MAP],
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("k", "stride", "padding", "more"),
    [
        (2, 2, 0, 0),  # U-Net's
        (4, 2, 0, 0),  # FCN's
        (4, 2, 1, 0),
        (3, 2, 1, 1),
        (5, 2, 0, 1),
        (1, 2, 0, 1),
        (3, 3, 0, 0),
        (2, 3, 1, 2),
        (7, 3, 2, 1),
        (3, 1, 1, 0),
        (16, 8, 4, 0),
    ],
)
def test_transposed_convolution(torch, k, stride, padding, more, dtype):
    sides = Sides(torch, dtype, seed=k)
    height, width = sides.rng.integers(2, 7, 2).tolist()
    sides.compare(
        lambda x, kernel: transposed_convolution(
            x, kernel, stride, padding=padding, output_padding=more
        ),
        lambda x, kernel: torch.nn.functional.conv_transpose2d(
            x, kernel, None, stride, padding, more
        ),
        [sides.noise(2, height, width, 5), sides.noise(k, k, 5, 4)],
        [MAP, KERNEL],
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("factor", "k"), [(1, 1), (2, 4), (3, 5), (4, 8), (2, 2), (3, 3), (2, 3)])
def test_layer_of_transposed_convolution(torch, factor, k, dtype):
    sides = Sides(torch, dtype, seed=factor)
    layer = TransposedConv(6, factor, k, dtype=dtype)
    padding = -(-(k - factor) // 2)
    more = 2 * padding - (k - factor)
    sides.compare(
        lambda x, kernel, bias: layer.apply({"params": {"kernel": kernel, "bias": bias}}, x),
        lambda x, kernel, bias: torch.nn.functional.conv_transpose2d(
            x, kernel, bias, factor, padding, more
        ),
        [sides.noise(2, 3, 5, 4), sides.noise(k, k, 4, 6), sides.noise(6)],
        [MAP, KERNEL, VECTOR],
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_pixel_shuffle(torch, factor, dtype):
    sides = Sides(torch, dtype, seed=factor)
    height, width = sides.rng.integers(1, 8, 2).tolist()
    sides.compare(
        lambda x: pixel_shuffle(x, (factor * height, factor * width)),
        torch.nn.PixelShuffle(factor),
        [sides.noise(2, height, width, 3 * factor**2)],
        [MAP],
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factor", [2, 3])
def test_sub_pixel_convolution(torch, factor, dtype):
    sides = Sides(torch, dtype, seed=factor)
    layer = SubPixelConv(5, factor, dtype=dtype)
    channels = 5 * factor**2
    sides.compare(
        lambda x, kernel, bias: layer.apply({"params": {"kernel": kernel, "bias": bias}}, x),
        lambda x, kernel, bias: torch.nn.functional.pixel_shuffle(
            torch.nn.functional.conv2d(x, kernel, bias, padding=1), factor
        ),
        [sides.noise(2, 4, 7, 3), sides.noise(3, 3, 3, channels), sides.noise(channels)],
        [MAP, (3, 2, 0, 1), VECTOR],
    )
