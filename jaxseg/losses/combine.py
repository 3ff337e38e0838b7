"""Weighted sums of losses by name, as a train step takes them: `(output, batch) -> (scalar, logs)`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxseg.errors import InputError, unknown
from jaxseg.losses.boundary import boundary_loss, hausdorff_loss
from jaxseg.losses.cldice import soft_cldice_loss
from jaxseg.losses.focal import focal_loss, poly_loss
from jaxseg.losses.generalized_dice import generalized_dice_loss
from jaxseg.losses.lovasz import lovasz_hinge_loss, lovasz_softmax_loss
from jaxseg.losses.mcc import mcc_loss
from jaxseg.losses.ohem import ohem_cross_entropy, topk_cross_entropy
from jaxseg.losses.pixelwise import cross_entropy
from jaxseg.losses.region import (
    dice_loss,
    focal_tversky_loss,
    jaccard_loss,
    log_cosh_dice_loss,
    tversky_loss,
)
from jaxseg.losses.targets import ClassWeights
from jaxseg.typing import Array, Batch, Output

LossFn = Callable[[Output, Batch], tuple[Array, dict[str, Array]]]

_LOSSES: dict[str, Callable[..., Array]] = {
    "boundary": boundary_loss,
    "cross_entropy": cross_entropy,
    "dice": dice_loss,
    "focal": focal_loss,
    "focal_tversky": focal_tversky_loss,
    "generalized_dice": generalized_dice_loss,
    "hausdorff": hausdorff_loss,
    "jaccard": jaccard_loss,
    "log_cosh_dice": log_cosh_dice_loss,
    "lovasz_hinge": lovasz_hinge_loss,
    "lovasz_softmax": lovasz_softmax_loss,
    "mcc": mcc_loss,
    "ohem": ohem_cross_entropy,
    "poly": poly_loss,
    "soft_cldice": soft_cldice_loss,
    "topk": topk_cross_entropy,
    "tversky": tversky_loss,
}


def names() -> list[str]:
    """The losses that `make_loss_fn` knows.

    >>> names()[:4]
    ['boundary', 'cross_entropy', 'dice', 'focal']
    """
    return sorted(_LOSSES)


def make_loss_fn(
    weights: Mapping[str, float],
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    aux_weight: float = 0.4,
    aux_weights: Sequence[float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> LossFn:
    r"""A weighted sum of losses, of the main logits and of every auxiliary head.

    $$ L = \sum_j \omega_j\, l_j(z) + \sum_h \alpha_h \sum_j \omega_j\, l_j(z_h) $$

    Args:
        weights: $\omega_j$ by name of the loss, such as `{"cross_entropy": 1.0, "dice": 0.5}`.
        ignore_index: The label of pixels that count for nothing.
        class_weights: `[max(K, 2)]` for every loss; ones by default.
        aux_weight: $\alpha_h$, the weight of each auxiliary head.
        aux_weights: $\alpha_h$ of each auxiliary head in turn (deep supervision), instead of one for all.
        options: More keyword arguments of a loss, by its name, such as `{"tversky": {"alpha": 0.2}}`.

    Returns:
        `loss_fn(output, batch) -> (scalar, logs)`; the logs hold each loss of the main logits by its name, unweighted,
        and `"aux"`, the sum over auxiliary heads before $\alpha_h$, where the model has any.

    Raises:
        InputError: No loss at all, an unknown name or option, or a weight that is negative or not finite; when called,
            as many auxiliary weights as the model has heads are not there.

    What is absent or ignored altogether is a matter of each loss by itself.

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
    for name, weight in weights.items():
        if name not in _LOSSES:
            raise unknown("loss", name, names())
        if not 0 <= weight < float("inf"):
            raise InputError(
                f"the weight of {name} is {weight}: it must be finite and not negative"
            )
    for weight in aux_weights or ():
        if not 0 <= weight < float("inf"):
            raise InputError(f"an auxiliary weight is {weight}: it must be finite and not negative")
    options = options or {}
    _check_options(options, weights)
    terms = {
        name: functools.partial(
            _LOSSES[name],
            ignore_index=ignore_index,
            class_weights=class_weights,
            **options.get(name, {}),
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
            heads = [evaluate(logits, batch["label"])[0] for logits in output.aux_logits]
            shares = [aux_weight] * len(heads) if aux_weights is None else aux_weights
            if len(shares) != len(heads):
                raise InputError(
                    f"{len(shares)} auxiliary weights for {len(heads)} auxiliary heads"
                )
            loss = loss + sum(share * head for share, head in zip(shares, heads, strict=True))
            logs = {**logs, "aux": jnp.asarray(sum(heads))}
        return loss, logs

    return loss_fn


def _check_options(options: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]) -> None:
    for name, given in options.items():
        if name not in weights:
            raise InputError(
                f"options for {name}, which is none of the losses: {', '.join(weights)}"
            )
        known = [
            option
            for option, parameter in inspect.signature(_LOSSES[name]).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
            and option not in ("ignore_index", "class_weights")
        ]
        for option in given:
            if option not in known:
                raise unknown(f"option of {name}", option, known)
