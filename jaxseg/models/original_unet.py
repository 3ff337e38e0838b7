"""The original U-Net, with valid and with padded convolutions."""

from typing import Any

import jax.numpy as jnp

from jaxseg.models.checks import at_least_one
from jaxseg.networks.unet import CHANNELS, OriginalUNet, PlainUNet


def original_unet(
    *,
    num_classes: int,
    channels: tuple[int, ...] = CHANNELS,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> OriginalUNet:
    """The U-Net of the paper: valid convolutions on the mirrored image; it has no encoder to choose.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        channels: Channels of each level, fine to coarse.
        dropout: Rate of dropout in training, on the last two levels of the contracting path.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters.

    Raises:
        InputError: No level, or one without channels.

    References:
        Ronneberger, Fischer and Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597

    >>> import jax
    >>> model = original_unet(num_classes=2)
    >>> images = jax.ShapeDtypeStruct((1, 572, 572, 1), jnp.float32)
    >>> logits, variables = jax.eval_shape(
    ...     lambda x: model.body.init_with_output(jax.random.key(0), x), images
    ... )
    >>> logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
    ((1, 388, 388, 2), 31030658)
    """
    return _build(num_classes, channels, 0, dropout, dtype, param_dtype)


def original_unet_padded(
    *,
    num_classes: int,
    channels: tuple[int, ...] = CHANNELS,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> OriginalUNet:
    """The U-Net of the paper with padded convolutions; arguments as in `original_unet`.

    Less to compute, and zeros instead of the mirrored image around it.

    >>> original_unet_padded(num_classes=2).body.padding
    1
    """
    return _build(num_classes, channels, 1, dropout, dtype, param_dtype)


def _build(
    num_classes: int,
    channels: tuple[int, ...],
    padding: int,
    dropout: float,
    dtype: Any,
    param_dtype: Any,
) -> OriginalUNet:
    body = PlainUNet(
        at_least_one(num_classes), tuple(channels), padding, dropout, dtype, param_dtype
    )
    return OriginalUNet(body)
