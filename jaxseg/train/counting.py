"""Confusion counts of what is trained on, among a step's logs."""

from collections.abc import Callable
from typing import Any

from jaxseg.metrics import ConfusionMatrix, labels_from_logits
from jaxseg.typing import Array, Batch

LossFn = Callable[[Any, Batch], tuple[Array, dict[str, Any]]]


def with_counts(loss_fn: LossFn, num_classes: int, *, ignore_index: int = 255) -> LossFn:
    """A loss whose logs also hold `"counts"`, the confusion matrix of the batch, over all devices.

    They are counted on the predictions that the gradient is taken of: with augmentation and batch statistics, before the
    update. Where many steps run as one program they come back with a first axis of steps, whose sum,
    `logs["counts"].to_numpy().sum(0)`, is an epoch's.

    Args:
        loss_fn: `(output, batch) -> (scalar, logs)`, as of `losses.make_loss_fn`.
        num_classes: K; 1 for one sigmoid.
        ignore_index: The label of pixels that are not counted.

    >>> import jax.numpy as jnp
    >>> from jaxseg import losses
    >>> from jaxseg.typing import Output
    >>> loss_fn = with_counts(losses.make_loss_fn({"cross_entropy": 1.0}), 2)
    >>> output = Output(jnp.array([[[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]]))
    >>> loss_fn(output, {"label": jnp.array([[[0, 0, 255]]])})[1]["counts"].to_numpy().tolist()
    [[1, 1], [0, 0]]
    """

    def counted(output: Any, batch: Batch) -> tuple[Array, dict[str, Any]]:
        loss, logs = loss_fn(output, batch)
        counts = ConfusionMatrix.zero(num_classes).update(
            labels=batch["label"],
            predictions=labels_from_logits(output.logits),
            ignore_index=ignore_index,
        )
        return loss, {**logs, "counts": counts}

    return counted
