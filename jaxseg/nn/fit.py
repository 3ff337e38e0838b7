"""From a whole factor to an exact size: what upsampling by a factor does with the rest."""

import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array, Size


def least_factor(x: Array, size: Size) -> int:
    """The least whole factor by which `[N, H, W, C]` reaches `size` in both directions.

    >>> least_factor(jnp.zeros((1, 4, 4, 1)), (8, 7)), least_factor(jnp.zeros((1, 1, 3, 1)), (1, 7))
    (2, 3)
    """
    return max(1, *(-(-out // length) for length, out in zip(x.shape[1:3], size, strict=True)))


def fit(x: Array, size: Size, factor: int) -> Array:
    """Cuts `[N, H, W, C]` to `size` at the bottom and right, or repeats its last row and column.

    Args:
        x: A map that was upsampled by `factor`.
        size: The height and width that are wanted.
        factor: Less than so many rows and columns are cut or missing.

    Returns:
        `[N, *size, C]`.

    Raises:
        InputError: More would have to be cut or repeated: the map was upsampled by a wrong factor.

    >>> fit(jnp.arange(6.0).reshape(1, 1, 6, 1), (1, 5), 2).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    missing = [out - length for length, out in zip(x.shape[1:3], size, strict=True)]
    if max(map(abs, missing)) >= factor:
        given = tuple(length // factor for length in x.shape[1:3])
        raise InputError(
            f"a map of {given} is upsampled by {factor}, which does not lead to {tuple(size)}: give "
            "the factor that does, or make the parameters with images of at least 64 x 64 pixels"
        )
    x = x[:, : size[0], : size[1]]
    more = [(0, max(0, rows)) for rows in missing]
    return jnp.pad(x, ((0, 0), *more, (0, 0)), mode="edge") if any(map(any, more)) else x
