"""Types that all packages share: arrays, batches, variables, a model's output, and the functions of training."""

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
"""`merge(x, skip)`: `[N, H, W, C]` and `[N, H, W, D]` to `[N, H, W, _]`; see `jaxseg.nn.skip_merge`."""
Logs = dict[str, Any]
"""Scalars by name, returned by a loss or a train step. Integers are counts of the global batch."""
LossFn = Callable[[Any, Batch], tuple[Array, Logs]]
"""`loss_fn(output, batch) -> (scalar, logs)`; see `jaxseg.losses.make_loss_fn`."""
Preprocess = Callable[[Array], Array]
"""`preprocess(images) -> images`: from the loaded images to the model's input; see `jaxseg.data.normalize`."""
Step = Callable[[Any, Batch, Key], tuple[Any, Logs]]
"""`step(state, batch, key) -> (state, logs)`: one optimizer step; see `jaxseg.train.make_train_step`."""
Feed = Callable[[Any, Mapping[str, Array], Key], Batch]
"""`feed(dataset, schedule, key) -> batch`: makes a batch on the device; see `jaxseg.data.make_feed`."""
MultiStep = Callable[[Any, Mapping[str, Any], Any, Key], tuple[Any, Logs]]
"""`run(state, schedule, dataset, key) -> (state, logs)`: several steps; see `jaxseg.train.make_multi_step`."""


class Output(NamedTuple):
    """The output of every model of semantic segmentation.

    Attributes:
        logits: `[N, H, W, K]` at the size of the image; `K = 1` is one sigmoid, `K >= 2` a softmax.
        aux_logits: One `[N, H, W, K]` for each auxiliary head; an empty tuple without such heads.
        image_logits: `[N, L]` of the image classification head; None without one.
    """

    logits: Array
    aux_logits: tuple[Array, ...] = ()
    image_logits: Array | None = None
