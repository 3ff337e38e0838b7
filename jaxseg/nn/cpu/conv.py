"""The forms of a convolution and of its gradients in a program for a CPU.

Each was measured on 2 cores with jax 0.10, float32 and batches of 4; docs/benchmarks.md has operations and networks.
"""

from functools import partial

import jax.numpy as jnp

from jaxseg.nn.cpu import winograd
from jaxseg.nn.cpu.conv_window import Window
from jaxseg.nn.cpu.platform import has_spatial_shards, is_disabled, noinline
from jaxseg.typing import Array


def has_forms(*arrays: Array) -> bool:
    """Returns whether a convolution of these arrays may have a form other than XLA's: all of them float32 or float64.

    >>> has_forms(jnp.ones(1), jnp.ones(1)), has_forms(jnp.ones(1), jnp.ones(1, jnp.bfloat16))
    (True, False)
    """
    types = {array.dtype for array in arrays}
    wide = len(types) == 1 and types <= {jnp.dtype("float32"), jnp.dtype("float64")}
    return wide and not has_spatial_shards() and not is_disabled()


def forward(x: Array, kernel: Array, window: Window) -> Array:
    """Returns the convolution `[N, H', W', D]` of a map `[N, H, W, C]` with a kernel `[h, w, C, D]`."""
    if uses_winograd(x, kernel, window):
        return noinline(partial(winograd.forward, dilation=window.dilation[0]))(x, kernel)
    return window.convolve(x, kernel)


def gradients(x: Array, kernel: Array, cotangent: Array, window: Window) -> tuple[Array, Array]:
    """Returns the gradients of the map and of the kernel for a cotangent of the result."""
    if uses_winograd(x, kernel, window):
        both = noinline(partial(winograd.gradients, dilation=window.dilation[0]))
        return both(x, kernel, cotangent)
    of_x = window.input_gradient(x, kernel, cotangent)
    return of_x, kernel_gradient(x, kernel, cotangent, window)


def kernel_gradient(x: Array, kernel: Array, cotangent: Array, window: Window) -> Array:
    """Returns the kernel's gradient, computed on a map whose zeros are in memory, or as a matrix product for one tap.

    Where zeros are implied by the padding XLA is slower: 64 to 64 channels on 64 x 64 pixels 10 instead of 15 ms, 32 to 32
    on 128 x 128 16 instead of 23 (AMD EPYC; equal on an Intel Xeon). ResNet-50 on 256 x 256 pixels, forward and backward,
    with matrix products 1270 and 1280 instead of 1320 and 1490 ms.
    """
    if kernel.shape[:2] == (1, 1) and window == Window(window.strides):
        x = x[:, :: window.strides[0], :: window.strides[1]]
        return jnp.einsum("nhwc,nhwd->cd", x, cotangent).reshape(kernel.shape)
    if window.strides != (1, 1):
        return window.kernel_gradient(x, kernel, cotangent)
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    return Window(dilation=window.dilation).kernel_gradient(x, kernel, cotangent)


def uses_winograd(x: Array, kernel: Array, window: Window) -> bool:
    """Returns whether the convolution and its gradients are products of transformed tiles."""
    distance = window.dilation[0]
    keeps_size = Window(padding=((distance, distance),) * 2, dilation=(distance, distance))
    divides = not (x.shape[1] % distance or x.shape[2] % distance)
    return window == keeps_size and divides and winograd.pays(x.shape, kernel.shape)
