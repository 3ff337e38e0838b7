"""What every network asks of its images, and the type of its logits."""

import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.typing import Array


def checked(images: Array) -> Array:
    """`images`, `[N, H, W, C]`, in float32 or wider; what computes in bfloat16 casts them back.

    Raises:
        InputError: If they do not have four axes or are of integer type.

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
    """`x` in float32 or wider, as logits are."""
    return x.astype(np.promote_types(np.float32, x.dtype))
