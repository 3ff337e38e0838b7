"""Which form a convolution and its gradients get in a program for CPUs, each with the times that it is chosen for.

Times are of 2 cores, jax 0.10, float32 and a batch of 4. `docs/benchmarks.md` has whole networks and their operations.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.nn import winograd
from jaxseg.nn.platform import apart, in_bands
from jaxseg.nn.window import Window
from jaxseg.typing import Array


def has_forms(*arrays: Array, lhs_dilation: Any = None, precision: Any = None, **_: Any) -> bool:
    """Whether a convolution of such arrays and options of `lax.conv_general_dilated` may have a form of its own.

    In half precision, of a stretched map (`lhs_dilation`), of a wanted precision and in bands it is XLA's.

    >>> has_forms(jnp.ones(1), jnp.ones(1)), has_forms(jnp.ones(1), jnp.ones(1, jnp.bfloat16))
    (True, False)
    """
    types = {array.dtype for array in arrays}
    wide = len(types) == 1 and types <= {jnp.dtype("float32"), jnp.dtype("float64")}
    plain = set(lhs_dilation or (1,)) == {1} and precision is None
    return wide and plain and not in_bands()


def forward(x: Array, kernel: Array, window: Window) -> Array:
    """The convolution."""
    if by_winograd(x, kernel, window):
        return apart(partial(winograd.forward, dilation=window.dilation[0]))(x, kernel)
    return window.convolve(x, kernel)


def gradient(x: Array, kernel: Array, cotangent: Array, window: Window) -> tuple[Array, Array]:
    """What the map and the kernel get of the result's cotangent."""
    if by_winograd(x, kernel, window):
        of_both = apart(partial(winograd.gradient, dilation=window.dilation[0]))
        return of_both(x, kernel, cotangent)
    if _by_blocks(x, kernel, window):
        return _gradient_by_blocks(x, kernel, cotangent, window)
    return window.of_map(x, kernel, cotangent), of_kernel(x, kernel, cotangent, window)


def of_kernel(x: Array, kernel: Array, cotangent: Array, window: Window) -> Array:
    """The kernel's gradient with the map's zeros in memory: XLA slides over a map whose zeros are implied more slowly.

    64 to 64 channels on 64 x 64 pixels: 10 instead of 15 ms, 32 to 32 on 128 x 128 16 instead of 23. Of one tap it is a
    matrix product: a ResNet-50 on 256 x 256 pixels forward and backward 1270 and 1280 instead of 1320 and 1490 ms, FPN's
    decoder on it 510 and 520 instead of 530 and 540.
    """
    if kernel.shape[:2] == (1, 1) and window == Window(window.strides):
        x = x[:, :: window.strides[0], :: window.strides[1]]
        return jnp.einsum("nhwc,nhwd->cd", x, cotangent).reshape(kernel.shape)
    if window.strides != (1, 1):
        return window.of_kernel(x, kernel, cotangent)
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    return Window(dilation=window.dilation).of_kernel(x, kernel, cotangent)


def by_winograd(x: Array, kernel: Array, window: Window) -> bool:
    """Whether the convolution and its gradients are products of transformed tiles."""
    distance = window.dilation[0]
    plain = window == Window(padding=((distance, distance),) * 2, dilation=(distance, distance))
    divides = not (x.shape[1] % distance or x.shape[2] % distance)
    return plain and divides and winograd.pays(x.shape, kernel.shape)


def _by_blocks(x: Array, kernel: Array, window: Window) -> bool:
    few = x.shape[-1] <= 32 and min(kernel.shape[:2]) > 1
    return few and window.strides == (2, 2) and window.dilation == (1, 1)


def _gradient_by_blocks(
    x: Array, kernel: Array, cotangent: Array, window: Window
) -> tuple[Array, Array]:
    """Gradients of a stride of 2 as those of a stride of 1: over a map whose pixels are blocks of 2 x 2, half as many taps.

    A stem's 7 x 7 taps, 3 to 64 channels on 256 x 256 pixels: 14 to 16 instead of 18 to 28 ms towards the kernel, 21
    instead of 33 towards the map.
    """
    taps = [-(-length // 2) for length in kernel.shape[:2]]
    sizes = [size + tap - 1 for size, tap in zip(cotangent.shape[1:3], taps, strict=True)]

    def blocks(x: Array) -> Array:
        sides = [
            (before, 2 * size - length - before, 0)
            for (before, _), size, length in zip(window.padding, sizes, x.shape[1:3], strict=True)
        ]
        x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *sides, (0, 0, 0)))
        x = x.reshape(x.shape[0], sizes[0], 2, sizes[1], 2, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], *sizes, -1)

    def of_blocks(kernel: Array) -> Array:
        ends = [(0, 2 * tap - length) for tap, length in zip(taps, kernel.shape[:2], strict=True)]
        k = jnp.pad(kernel, (*ends, (0, 0), (0, 0)))
        k = k.reshape(taps[0], 2, taps[1], 2, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
        return k.reshape(*taps, -1, kernel.shape[3])

    y, k = blocks(x), of_blocks(kernel)
    of_map = Window().of_map(y, k, cotangent)
    of_kernel = Window().of_kernel(y, k, cotangent)
    return (
        jax.linear_transpose(blocks, x)(of_map)[0],
        jax.linear_transpose(of_blocks, kernel)(of_kernel)[0],
    )
