"""Upsampling that is learned, and the rearrangement that it rests on."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from jaxseg.errors import InputError
from jaxseg.typing import Array, Size


def bilinear_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The kernel `[k, k, C, F]` of a transposed convolution that interpolates bilinearly.

    >>> bilinear_kernel(jax.random.key(0), (4, 4, 1, 1))[0, :, 0, 0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    del key
    size, _, channels, features = shape
    factor = (size + 1) // 2
    tent = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
    kernel = np.multiply.outer(np.outer(tent, tent), np.eye(channels, features))
    return jnp.asarray(kernel, dtype)


class TransposedConv(nn.Module):
    """Transposed convolution that upsamples by a whole factor and starts as bilinear interpolation.

    Equal to `torch.nn.ConvTranspose2d(C, features, kernel_size=2f - f % 2, stride=f, padding=f //
    2)` (for odd `f` `(f - 1) // 2`), whose result is exactly `f` times as large. It is computed as
    a 3x3 convolution to `f * f * features` channels whose blocks are then spread out: XLA's own
    strided form is many times slower on a CPU.

    Attributes:
        features: Channels of the result.
        factor: How many times larger the result is.
        use_bias: Whether a bias is added.
        kernel_init: Of the `[k, k, C, features]` kernel.
        dtype: Type to compute in; that of inputs and parameters by default.
        param_dtype: Type of parameters.

    >>> layer = TransposedConv(3, 2, use_bias=False)
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 3)), size=(7, 8))
    >>> y.shape, float(y[0, 3, 3, 0])
    ((1, 7, 8, 3), 1.0)
    """

    features: int
    factor: int = 2
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = bilinear_kernel
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Size | None = None) -> Array:
        """Maps `[N, H, W, C]` to `[N, factor * H, factor * W, features]`, or to `size`.

        What is too much is cut at the bottom and at the right; what is missing repeats the last row
        and column.
        """
        f = self.factor
        k = 2 * f - f % 2
        shape = (k, k, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = (
            self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            if self.use_bias
            else None
        )
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = upsampling_convolution(x, kernel, f)
        if bias is not None:
            y = y + bias.reshape(1, 1, 1, -1)
        return y if size is None else fit(y, size)


def upsampling_convolution(x: Array, kernel: Array, factor: int) -> Array:
    """The transposed convolution of `x` with `[k, k, C, F]`, `factor <= k <= 3 * factor`.

    Output pixel `factor * q + r` gathers input pixels `q + 1`, `q` and `q - 1`, each weighted by
    another third of the (padded) kernel, so the phases `r` are channels of one 3x3 convolution.
    """
    n, h, w, _ = x.shape
    k, _, channels, features = kernel.shape
    pad = (3 * factor - k) // 2
    kernel = jnp.pad(kernel, ((pad, pad), (pad, pad), (0, 0), (0, 0)))
    kernel = kernel.reshape(3, factor, 3, factor, channels, features)[::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, channels, -1)
    layout = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)
    y = y.reshape(n, h, w, factor, factor, features).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h * factor, w * factor, features)


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Spreads blocks of channels over space, as `torch.nn.PixelShuffle` does.

    Args:
        x: `[N, H, W, C * factor**2]`; channel `c * factor**2 + i * factor + j` becomes pixel `(i, j)` of its block in
            channel `c`.
        factor: How many times larger the result is.

    Returns:
        `[N, factor * H, factor * W, C]`.

    Raises:
        InputError: `factor**2` does not divide the channels.

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
        Network, 2016, https://arxiv.org/abs/1609.05158

    >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 1, 4), 2)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    n, h, w, channels = x.shape
    if factor < 1 or channels % factor**2:
        raise InputError(f"{channels} channels are not a multiple of factor {factor} squared")
    x = x.reshape(n, h, w, -1, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, h * factor, w * factor, -1)


def fit(x: Array, size: Size) -> Array:
    """Cuts `[N, H, W, C]` to `size` at the bottom and right, or repeats its last row and column."""
    x = x[:, : size[0], : size[1]]
    missing = [(0, size[0] - x.shape[1]), (0, size[1] - x.shape[2])]
    return jnp.pad(x, ((0, 0), *missing, (0, 0)), mode="edge") if any(map(any, missing)) else x
