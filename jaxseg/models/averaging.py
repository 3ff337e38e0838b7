"""Means of outputs for the same images: of their probabilities, of their logits, or with their uncertainty."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.typing import Array, Output

Total = Any


class Averaging(NamedTuple):
    """A mean of outputs that come one by one: `finish(add(start(a), start(b)), 2)`.

    Attributes:
        start: Maps an output to a total.
        add: Adds two totals.
        empty: The number of which a total of no outputs consists.
        finish: Maps a total and the number of outputs to their mean.
    """

    start: Callable[[Any], Total]
    add: Callable[[Total, Total], Total]
    empty: float
    finish: Callable[[Total, int], Any]

    def accumulate(self, run: Callable[[Array], Any], inputs: Array, total: Total = None) -> Total:
        """Adds the outputs `run(x)` of all `x` along the first axis of `inputs`; one of them is in memory at a time."""

        def start(x: Array) -> Total:
            return self.start(run(x))

        if total is None:
            like = jax.eval_shape(start, inputs[0])
            total = jax.tree.map(lambda x: jnp.full(x.shape, self.empty, x.dtype), like)
        return lax.scan(lambda total, x: (self.add(total, start(x)), None), total, inputs)[0]


class UncertainOutput(NamedTuple):
    r"""An output with the uncertainty of its classes, in nats.

    Attributes:
        logits: `[N, H, W, K]`, of which the softmax, or sigmoid for one class, is the mean $\bar p$ of probabilities $p$.
        entropy: `[N, H, W]`, the entropy $H(\bar p)$: all uncertainty, that of the data included.
        mutual_information: `[N, H, W]`, $H(\bar p) - \overline{H(p)}$: what outputs disagree about.

    References:
        Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, 2018,
        https://arxiv.org/abs/1710.07283
    """

    logits: Array
    entropy: Array
    mutual_information: Array


def _log_probabilities(output: Output) -> tuple[Array, ...]:
    """Returns the logarithms of all probabilities; a sigmoid's and its complement's as two arrays."""
    logits = output.logits
    if logits.shape[-1] == 1:
        return jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return (jax.nn.log_softmax(logits),)


def _add_logs(a: Total, b: Total) -> Total:
    return jax.tree.map(jnp.logaddexp, a, b)


def _mean_log(log_sum: Array, count: int) -> Array:
    return log_sum - jnp.log(jnp.asarray(count, log_sum.dtype))


def _mean_logs(log_sums: tuple[Array, ...], count: int) -> tuple[Array, ...]:
    return tuple(_mean_log(x, count) for x in log_sums)


def _logits(log_probabilities: tuple[Array, ...]) -> Array:
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    return log_probabilities[0] - log_probabilities[1]


def _entropy(log_probabilities: tuple[Array, ...]) -> Array:
    terms = (jnp.where(x > -jnp.inf, -jnp.exp(x) * x, 0.0).sum(-1) for x in log_probabilities)
    return sum(terms, jnp.zeros(log_probabilities[0].shape[:-1], log_probabilities[0].dtype))


def _log_entropy_too(output: Output) -> Total:
    logs = _log_probabilities(output)
    return logs, jnp.log(_entropy(logs))


def _uncertain(total: Total, count: int) -> UncertainOutput:
    log_sums, log_entropy = total
    logs = _mean_logs(log_sums, count)
    entropy = _entropy(logs)
    information = jnp.maximum(entropy - jnp.exp(_mean_log(log_entropy, count)), 0.0)
    return UncertainOutput(_logits(logs), entropy, information)


PROBABILITIES = Averaging(
    _log_probabilities,
    _add_logs,
    float("-inf"),
    lambda total, count: Output(_logits(_mean_logs(total, count))),
)
"""The mean of probabilities: logits whose softmax, or sigmoid for one class, is that mean."""

UNCERTAINTY = Averaging(_log_entropy_too, _add_logs, float("-inf"), _uncertain)
"""The mean of probabilities with entropy and mutual information, an `UncertainOutput`."""

OUTPUTS = Averaging(
    lambda output: output,
    lambda a, b: jax.tree.map(jnp.add, a, b),
    0.0,
    lambda total, count: jax.tree.map(lambda x: x / count, total),
)
"""The mean of outputs themselves, such as logits or depths."""
