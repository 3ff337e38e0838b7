"""Weighted sums of losses by name, as a train step takes them: `(output, batch) -> (scalar, logs)`."""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from jaxseg.errors import InputError, unknown
from jaxseg.losses.pixelwise import ClassWeights, cross_entropy
from jaxseg.losses.region import dice_loss, jaccard_loss
from jaxseg.typing import Array, Batch, Output

LossFn = Callable[[Output, Batch], tuple[Array, dict[str, Array]]]

_LOSSES = {"cross_entropy": cross_entropy, "dice": dice_loss, "jaccard": jaccard_loss}


def names() -> list[str]:
    """The losses that `make_loss_fn` knows.

    >>> names()
    ['cross_entropy', 'dice', 'jaccard']
    """
    return sorted(_LOSSES)


def make_loss_fn(
    weights: Mapping[str, float],
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    aux_weight: float = 0.4,
) -> LossFn:
    r"""A weighted sum of losses, of the main logits and of every auxiliary head.

    $$ L = \sum_j \omega_j\, l_j(z) + \alpha \sum_h \sum_j \omega_j\, l_j(z_h) $$

    Args:
        weights: $\omega_j$ by name of the loss, such as `{"cross_entropy": 1.0, "dice": 0.5}`.
        ignore_index: The label of pixels that count for nothing.
        class_weights: `[max(K, 2)]` for every loss; ones by default.
        aux_weight: $\alpha$, the weight of each auxiliary head.

    Returns:
        `loss_fn(output, batch) -> (scalar, logs)`; the logs hold each loss of the main logits by its name, unweighted,
        and `"aux"`, the sum over auxiliary heads before $\alpha$, where the model has any.

    Raises:
        InputError: No loss at all, an unknown name, or a weight that is negative or not finite.

    >>> loss_fn = make_loss_fn({"cross_entropy": 1.0, "dice": 2.0})
    >>> output, batch = Output(jnp.zeros((1, 1, 2, 2))), {"label": jnp.array([[[0, 1]]])}
    >>> loss, logs = loss_fn(output, batch)
    >>> {name: round(float(value), 2) for name, value in logs.items()}, round(float(loss), 2)
    ({'cross_entropy': 0.69, 'dice': 0.5}, 1.69)
    """
    if not weights:
        raise InputError(f"no loss was given; known: {', '.join(names())}")
    for name, weight in weights.items():
        if name not in _LOSSES:
            raise unknown("loss", name, names())
        if not 0 <= weight < float("inf"):
            raise InputError(
                f"the weight of {name} is {weight}: it must be finite and not negative"
            )
    terms = {
        name: functools.partial(
            _LOSSES[name], ignore_index=ignore_index, class_weights=class_weights
        )
        for name in weights
    }

    def evaluate(logits: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
        values = {name: term(logits, labels) for name, term in terms.items()}
        total = sum(weights[name] * value for name, value in values.items())
        return jnp.asarray(total), values

    def loss_fn(output: Output, batch: Batch) -> tuple[Array, dict[str, Array]]:
        loss, logs = evaluate(output.logits, batch["label"])
        if output.aux_logits:
            heads = (evaluate(logits, batch["label"])[0] for logits in output.aux_logits)
            aux = jnp.asarray(sum(heads))
            loss, logs = loss + aux_weight * aux, {**logs, "aux": aux}
        return loss, logs

    return loss_fn
