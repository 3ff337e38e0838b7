"""Heads: logits of a decoder's map, and of labels for the whole image."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn.conv import Conv
from jaxseg.nn.dropout import Dropout
from jaxseg.typing import Array


class Head(nn.Module):
    """A convolution with bias from a decoder's map to logits.

    Attributes:
        features: Number of classes.
        kernel_size: Height and width of the kernel.
        dtype: Type to compute in; by default that of the map and parameters.
        param_dtype: Type of parameters.

    >>> import jax
    >>> y, _ = Head(5).init_with_output(jax.random.key(0), jnp.ones((1, 4, 6, 8)))
    >>> y.shape
    (1, 4, 6, 5)
    """

    features: int
    kernel_size: int = 3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`."""
        return Conv(
            self.features,
            self.kernel_size,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(x)


class ImageHead(nn.Module):
    """Logits of labels for the whole image: mean over the coarsest feature, dropout, a dense layer.

    Attributes:
        features: Number of labels `L`.
        dropout: Rate of dropout in training.
        dtype: Type to compute in; by default that of the feature and parameters.
        param_dtype: Type of parameters.

    >>> import jax
    >>> y, _ = ImageHead(5).init_with_output(jax.random.key(0), jnp.ones((1, 4, 6, 8)), train=False)
    >>> y.shape
    (1, 5)
    """

    features: int
    dropout: float = 0.2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[N, H, W, C]` to `[N, features]`."""
        x = x.mean((1, 2))
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="dense",
        )(x)
