"""The vocabulary that every room shares: arrays, batches, variables and a model's output."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
Batch = Mapping[str, Array]
"""`{"image": [N, H, W, C], "label": [N, H, W]}`: images uint8 or float, labels class ids or `ignore_index`."""
Variables = Mapping[str, Any]
"""Flax variables: `{"params": ..., "batch_stats": ...}`."""
Size = tuple[int, int]
"""Height and width in pixels."""
Upsample = Callable[[Array, Size], Array]
"""`upsample(x, size)`: `[N, H, W, C]` to `[N, *size, C]`; `jaxseg.nn.upsample` has every kind."""
Merge = Callable[[Array, Array], Array]
"""`merge(x, skip)`: `[N, H, W, C]` and `[N, H, W, D]` to `[N, H, W, _]`; see `jaxseg.nn.merge`."""
Convolve = Callable[..., Array]
"""`lax.conv_general_dilated` as `flax.linen.Conv` calls it; see `jaxseg.nn.convolution`."""


class Output(NamedTuple):
    """What every semantic model returns, whatever its options.

    Attributes:
        logits: `[N, H, W, K]` at the image's size; `K = 1` stands for one sigmoid, `K >= 2` for a softmax.
        aux_logits: One `[N, H, W, K]` for each auxiliary head, an empty tuple without them.
        image_logits: `[N, L]` of the image classification head, or None without one.
    """

    logits: Array
    aux_logits: tuple[Array, ...] = ()
    image_logits: Array | None = None
