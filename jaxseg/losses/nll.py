"""Negative logarithms of probabilities, the base of every pixelwise loss, with derivatives that keep nothing in memory.

Automatic differentiation of a log-softmax keeps the exponentials of all logits, which are as large as the logits. Written
as below, the derivative is computed again from the logits, in the one pass that writes the gradient. Rules are
`custom_jvp`, so both directions and second derivatives work. `jaxseg.losses.columns` is where means keep no maps at all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.typing import Array


def widen(x: Array) -> Array:
    """In `promote_types(float32, dtype)`, the type that losses are computed in."""
    return x.astype(np.promote_types(np.float32, x.dtype))


def nll_of_labels(logits: Array, labels: Array, valid: Array) -> Array:
    r"""$-\log p_y$ of a softmax.

    Args:
        logits: `[..., K]`, floating; anything at all where not valid.
        labels: `[...]` int32 in `0..K-1`, everywhere.
        valid: `[...]` bool; elsewhere value and derivative are 0.

    Returns:
        `[...]`, float32 or wider.

    >>> nll_of_labels(jnp.zeros((1, 3)), jnp.array([1]), jnp.array([True])).round(2)
    Array([1.1], dtype=float32)
    """
    if logits.shape[-1] > 2:
        return _nll_of_labels(logits, labels, valid)
    rise = _rise(logits, valid)
    return jnp.where(valid, softplus(jnp.where(labels == 1, -rise, rise)), 0)


def nll_of_distribution(logits: Array, target: Array, valid: Array) -> Array:
    r"""$-\sum_c t_c \log p_c$ of a softmax; the target carries no gradient.

    Args:
        logits: `[..., K]`, floating; anything at all where not valid.
        target: `[..., K]`, float32 or wider, not negative; it need not sum to 1.
        valid: `[...]` bool; elsewhere value and derivative are 0.

    Returns:
        `[...]`, float32 or wider.

    >>> nll_of_distribution(jnp.zeros((1, 2)), jnp.array([[0.5, 0.5]]), jnp.array([True])).round(2)
    Array([0.69], dtype=float32)
    """
    target = lax.stop_gradient(jnp.broadcast_to(target, logits.shape))
    if logits.shape[-1] > 2:
        return _nll_of_distribution(logits, target, valid)
    rise = _rise(logits, valid)
    loss = target[..., 0] * softplus(rise) + target[..., 1] * softplus(-rise)
    return jnp.where(valid, loss, 0)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    r"""$\log(1 + e^x)$, which is $-\log \sigma(-x)$.

    >>> float(softplus(jnp.array(-200.0))), float(softplus(jnp.array(1e4)))
    (0.0, 10000.0)
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]


def power(base: Array, exponent: float) -> Array:
    """`base ** exponent` of what is not negative, with no gradient at 0, where exponents below 1 have an infinite one.

    >>> float(jax.grad(lambda x: power(x, 0.5))(jnp.array(0.0)))
    0.0
    """
    nothing = base <= 0
    return jnp.where(nothing, 0, jnp.where(nothing, 1, base) ** exponent)


def _rise(logits: Array, valid: Array) -> Array:
    """The second logit above the first: a softmax of two is the sigmoid of it."""
    wide = widen(logits)
    return jnp.where(valid, wide[..., 1] - wide[..., 0], 0)


@jax.custom_jvp
def _nll_of_labels(logits: Array, labels: Array, valid: Array) -> Array:
    return _label_nll(*_label_sums(logits, labels), valid)


@_nll_of_labels.defjvp
def _nll_of_labels_jvp(primals, tangents):
    logits, labels, valid = primals
    top, total, own = _label_sums(logits, labels)
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=top.dtype)
    slope = jnp.where(valid[..., None], _softmax(logits, top, total) - truth, 0)
    # The value from the same sums: were one of the two not used here, XLA would take the other apart again.
    return _label_nll(top, total, own, valid), (slope * widen(tangents[0])).sum(-1)


@jax.custom_jvp
def _nll_of_distribution(logits: Array, target: Array, valid: Array) -> Array:
    return _target_nll(*_target_sums(logits, target), target, valid)


@_nll_of_distribution.defjvp
def _nll_of_distribution_jvp(primals, tangents):
    logits, target, valid = primals
    top, total, below = _target_sums(logits, target)
    slope = target.sum(-1, keepdims=True) * _softmax(logits, top, total) - target
    slope = jnp.where(valid[..., None], slope, 0)
    return _target_nll(top, total, below, target, valid), (slope * widen(tangents[0])).sum(-1)


def _label_nll(top: Array, total: Array, own: Array, valid: Array) -> Array:
    return jnp.where(valid, jnp.log(total) + (top - own), 0)


def _target_nll(top: Array, total: Array, below: Array, target: Array, valid: Array) -> Array:
    return jnp.where(valid, target.sum(-1) * jnp.log(total) + below, 0)


def _softmax(logits: Array, top: Array, total: Array) -> Array:
    # Not exp(z - top) / total: XLA would keep the exponentials that were summed for it.
    return jnp.exp((widen(logits) - top[..., None]) - jnp.log(total)[..., None])


def _label_sums(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """`[...]` each: the largest logit, the sum of exponentials of all logits below it, the label's logit."""
    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return _sums(logits, jnp.where(chosen, widen(logits), 0))


def _target_sums(logits: Array, target: Array) -> tuple[Array, Array, Array]:
    """`[...]` each: the largest logit, the sum of exponentials below it, how far the target's mean lies below it."""
    below = widen(logits.max(-1, keepdims=True)) - widen(logits)
    return _sums(logits, target * below)


def _sums(logits: Array, others: Array) -> tuple[Array, Array, Array]:
    """The largest logit, the sum of exponentials of all logits below it, and the sum of others."""
    top = widen(logits.max(-1))
    exponentials = jnp.exp(widen(logits) - top[..., None])
    total, other = _sum_pair((exponentials, others))
    return top, total, other


@jax.custom_jvp
def _sum_pair(pair: tuple[Array, Array]) -> tuple[Array, Array]:
    """The sums of both over classes, in one pass, which XLA on a CPU fuses with what computes the summands."""
    zero = jnp.zeros((), pair[0].dtype)
    total, other = lax.reduce(
        pair, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (pair[0].ndim - 1,)
    )
    return total, other


@_sum_pair.defjvp
def _sum_pair_jvp(primals, tangents):
    return _sum_pair(*primals), tuple(x.sum(-1) for x in tangents[0])
