"""How a kernel goes over a map, and XLA's convolution and gradients of it."""

from dataclasses import dataclass

import jax
from jax import lax

from jaxseg.typing import Array


@dataclass(frozen=True)
class Window:
    """How a kernel goes over a map: strides, zeros around the map, and the taps' distance, in rows and columns."""

    strides: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)

    def sizes(self, x: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
        """Height and width of the result for the shapes of a map and a kernel.

        >>> Window((2, 2), ((1, 1), (1, 1))).sizes((1, 5, 8, 3), (3, 3, 3, 4))
        [3, 4]
        """
        return [
            (length + sum(pad) - dilation * (taps - 1) - 1) // stride + 1
            for length, pad, dilation, taps, stride in zip(
                x[1:3], self.padding, self.dilation, kernel[:2], self.strides, strict=True
            )
        ]

    def convolve(self, x: Array, kernel: Array) -> Array:
        """XLA's convolution."""
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def gradient(self, x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        """Its gradients: what the map and the kernel get of the result's cotangent."""
        return self.of_map(x, kernel, cotangent), self.of_kernel(x, kernel, cotangent)

    def of_map(self, x: Array, kernel: Array, cotangent: Array) -> Array:
        """The map's gradient."""
        return jax.linear_transpose(lambda x: self.convolve(x, kernel), x)(cotangent)[0]

    def of_kernel(self, x: Array, kernel: Array, cotangent: Array) -> Array:
        """The kernel's gradient."""
        return jax.linear_transpose(lambda k: self.convolve(x, k), kernel)(cotangent)[0]
