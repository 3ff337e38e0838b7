"""Upsampling to an exact size: the whole factor that reaches it, and what is cropped or padded afterwards."""

import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array, Size


def smallest_factor(x: Array, size: Size) -> int:
    """Returns the smallest whole factor by which `[N, H, W, C]` reaches `size` in both directions.

    >>> x = jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 1, 3, 1))
    >>> smallest_factor(x[0], (8, 7)), smallest_factor(x[1], (1, 7))
    (2, 3)
    """
    return max(1, *(-(-out // length) for length, out in zip(x.shape[1:3], size, strict=True)))


def crop_or_pad(x: Array, size: Size, factor: int) -> Array:
    """Crops `[N, H, W, C]` to `size` at the bottom and right, or repeats its last row and column.

    Args:
        x: A map that was upsampled by `factor`.
        size: Height and width of the result.
        factor: The factor; fewer rows and columns than that are cropped or repeated.

    Returns:
        `[N, *size, C]`.

    Raises:
        InputError: More would have to be cropped or repeated: the map was upsampled by a wrong factor.

    >>> crop_or_pad(jnp.arange(6.0).reshape(1, 1, 6, 1), (1, 5), 2).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    missing = [out - length for length, out in zip(x.shape[1:3], size, strict=True)]
    if max(map(abs, missing)) >= factor:
        smaller = tuple(length // factor for length in x.shape[1:3])
        raise InputError(
            f"a map of {smaller} is upsampled by {factor}, which does not lead to {tuple(size)}: give "
            "the factor that does, or make the parameters with images of at least 64 x 64 pixels"
        )
    x = x[:, : size[0], : size[1]]
    more = [(0, max(0, rows)) for rows in missing]
    return jnp.pad(x, ((0, 0), *more, (0, 0)), mode="edge") if any(map(any, more)) else x
