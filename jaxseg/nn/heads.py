"""Heads: what makes logits of a decoder's map, or labels of a whole image."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn.convolution import convolution
from jaxseg.typing import Array


class Head(nn.Module):
    """One convolution with bias, from a decoder's map to logits.

    Attributes:
        features: Number of classes.
        kernel_size: Height and width of the kernel.
        dtype: Type to compute in; that of the map and parameters by default.
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
        return nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            padding=self.kernel_size // 2,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=convolution,
            name="conv",
        )(x)


class ImageHead(nn.Module):
    """Labels for the whole image: mean over the coarsest feature, dropout, one dense layer.

    Attributes:
        features: Number of labels `L`.
        dropout: Rate of dropout in training.
        dtype: Type to compute in; that of the feature and parameters by default.
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
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="dense",
        )(x)
