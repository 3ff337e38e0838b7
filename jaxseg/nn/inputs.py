"""The check of a network's images, and the type of its logits."""

import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.typing import Array


def checked(images: Array) -> Array:
    """Returns images `[N, H, W, C]` in float32 or wider; layers that compute in bfloat16 cast them back.

    Raises:
        InputError: They do not have four axes, or are not floating point.

    >>> checked(jnp.ones((1, 2, 2, 3), jnp.bfloat16)).dtype
    dtype('float32')
    """
    if images.ndim != 4:
        raise InputError(f"images of shape {images.shape}: a model takes [N, H, W, C]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images of type {images.dtype}: a model takes floating point images that are "
            "normalised (jaxseg.data.normalize makes them of uint8 ones)"
        )
    return wide(images)


def wide(x: Array) -> Array:
    """Returns `x` in float32 or wider, the type of logits.

    >>> wide(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(np.promote_types(np.float32, x.dtype))
