"""The geometry of a convolution, with XLA's convolution and its gradients."""

from dataclasses import dataclass

import jax
from jax import lax

from jaxseg.typing import Array


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution, each in rows and columns.

    Attributes:
        strides: Steps of the window.
        padding: Zeros before and after the map.
        dilation: Distances of the kernel's taps.
    """

    strides: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)

    def sizes(self, x: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
        """Returns height and width of the result for the shapes of a map and a kernel.

        >>> Window((2, 2), ((1, 1), (1, 1))).sizes((1, 5, 8, 3), (3, 3, 3, 4))
        [3, 4]
        """
        return [
            (length + sum(pad) - dilation * (taps - 1) - 1) // stride + 1
            for length, pad, dilation, taps, stride in zip(
                x[1:3], self.padding, self.dilation, kernel[:2], self.strides, strict=True
            )
        ]

    def convolve(self, x: Array, kernel: Array, groups: int = 1) -> Array:
        """Returns XLA's convolution of `[N, H, W, C]` with `[h, w, C / groups, D]`."""
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def gradients(self, x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        """Returns the gradients of the map and of the kernel for a cotangent of the result."""
        return (
            self.input_gradient(x, kernel, cotangent),
            self.kernel_gradient(x, kernel, cotangent),
        )

    def input_gradient(self, x: Array, kernel: Array, cotangent: Array) -> Array:
        """Returns the map's gradient."""
        return jax.linear_transpose(lambda x: self.convolve(x, kernel), x)(cotangent)[0]

    def kernel_gradient(self, x: Array, kernel: Array, cotangent: Array) -> Array:
        """Returns the kernel's gradient."""
        return jax.linear_transpose(lambda k: self.convolve(x, k), kernel)(cotangent)[0]
