"""Weighted sums of losses by name, as a train step takes them: `(output, batch) -> (scalar, logs)`."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxseg import registry
from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.losses.registry import LOSSES, names
from jaxseg.losses.targets import ClassWeights
from jaxseg.typing import Array, Batch, Logs, LossFn, Output


def make_loss_fn(
    weights: Mapping[str, float],
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    aux_weight: float = 0.4,
    aux_weights: Sequence[float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> LossFn:
    r"""Returns a weighted sum of losses, of the main logits and of every auxiliary head.

    $$ L = \sum_j \omega_j\, l_j(z) + \sum_h \alpha_h \sum_j \omega_j\, l_j(z_h) $$

    Args:
        weights: $\omega_j$ by name of the loss, such as `{"cross_entropy": 1.0, "dice": 0.5}`. A name is one of `names()`, or
            `"package.module:function"` for a loss of your own: `(logits, labels, *, ignore_index, class_weights) -> scalar`.
        ignore_index: The label of pixels that are not counted, several, or None for none.
        class_weights: `[max(K, 2)]` for every loss; ones by default.
        aux_weight: $\alpha_h$, the weight of each auxiliary head.
        aux_weights: $\alpha_h$ of each auxiliary head in turn (deep supervision), instead of one for all.
        options: Further keyword arguments of a loss, by its name, such as `{"tversky": {"alpha": 0.2}}`.

    Returns:
        `loss_fn(output, batch) -> (scalar, logs)`; the logs hold each loss of the main logits by its name, unweighted,
        and `"aux"`, the sum over auxiliary heads before $\alpha_h$, where the model has any.

    Raises:
        InputError: No loss is named, a name or an option is unknown, or a weight is negative or not finite; when called, if
            `aux_weights` and the model's auxiliary heads differ in number.

    Each loss decides by itself what absent classes and ignored images contribute.

    >>> loss_fn = make_loss_fn({"cross_entropy": 1.0, "dice": 2.0})
    >>> output, batch = Output(jnp.zeros((1, 1, 2, 2))), {"label": jnp.array([[[0, 1]]])}
    >>> loss, logs = loss_fn(output, batch)
    >>> {name: round(float(value), 2) for name, value in logs.items()}, round(float(loss), 2)
    ({'cross_entropy': 0.69, 'dice': 0.5}, 1.69)

    References:
        Zhao, Shi, Qi, Wang and Jia, Pyramid Scene Parsing Network, 2017, https://arxiv.org/abs/1612.01105, for auxiliary
        heads and their weight of 0.4.
    """
    if not weights:
        raise InputError(f"no loss was given; known: {', '.join(names())}")
    functions = {name: registry.find("loss", name, LOSSES) for name in weights}
    for name, weight in weights.items():
        _check_weight(f"the weight of {name}", weight)
    for weight in aux_weights or ():
        _check_weight("an auxiliary weight", weight)
    options = options or {}
    for name, values in options.items():
        if name not in weights:
            raise InputError(
                f"options for {name}, which is none of the losses: {', '.join(weights)}"
            )
        # Positions and what every loss takes are no options.
        bound = {"logits": None, "labels": None, "ignore_index": None, "class_weights": None}
        registry.check_options(name, functools.partial(functions[name], **bound), values)
    common = {"ignore_index": ignore_index, "class_weights": class_weights}
    terms = {
        name: functools.partial(function, **common, **options.get(name, {}))
        for name, function in functions.items()
    }

    def evaluate(logits: Array, labels: Array) -> tuple[Array, Logs]:
        values = {name: term(logits, labels) for name, term in terms.items()}
        total = sum(weights[name] * value for name, value in values.items())
        return jnp.asarray(total), values

    def loss_fn(output: Output, batch: Batch) -> tuple[Array, Logs]:
        loss, logs = evaluate(output.logits, batch["label"])
        if output.aux_logits:
            heads = [evaluate(logits, batch["label"])[0] for logits in output.aux_logits]
            factors = [aux_weight] * len(heads) if aux_weights is None else aux_weights
            if len(factors) != len(heads):
                raise InputError(
                    f"{len(factors)} auxiliary weights for {len(heads)} auxiliary heads"
                )
            loss = loss + sum(f * head for f, head in zip(factors, heads, strict=True))
            logs = {**logs, "aux": jnp.asarray(sum(heads))}
        return loss, logs

    return loss_fn


def _check_weight(what: str, weight: float) -> None:
    if not (weight >= 0 and math.isfinite(weight)):
        raise InputError(f"{what} is {weight}: it must be finite and not negative")
