r"""What logits should be: the one place where labels are read, for every loss.

| labels | logits | read as |
|---|---|---|
| `[N, H, W]` integers | `[N, H, W, K]`, K >= 2 | multiclass: one softmax, label c of `0..K-1` |
| `[N, H, W]` integers | `[N, H, W, 1]` | binary: one sigmoid, labels 0 and 1 |
| `[N, H, W, K]` integers or bool | `[N, H, W, K]` | multilabel: K sigmoids, entries 0 and 1 |
| `[N, H, W, K]` floating | `[N, H, W, K]`, K >= 2 | soft multiclass: the share of each class, summing to 1 |
| `[N, H, W]` or `[N, H, W, 1]` floating | `[N, H, W, 1]` | soft binary: the share of label 1 |

`ignore_index` may stand anywhere: it takes out the pixel, or in multilabel targets the one entry.

- What is ignored counts for nothing, in value and gradient, even where its logits are infinite or not a number.
- A label that is neither a class nor `ignore_index` (a share outside `[0, 1]`) makes the loss not-a-number: nothing can be
  raised under jit, and a plausible wrong number would go unseen. Loaders and the command line check labels on the host.
- Losses are computed in `promote_types(float32, logits.dtype)`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.losses.nll import widen
from jaxseg.typing import Array

ClassWeights = Array | np.ndarray | Sequence[float]


class Targets(NamedTuple):
    """Labels that are safe to compute with.

    Attributes:
        logits: `[N, H, W, K]` as they were given.
        labels: `[N, H, W]` int32 for one softmax; `[N, H, W, K]` in float32 or wider, the share of each class, otherwise. 0
            where not usable.
        counted: `[N, H, W]`, or `[N, H, W, K]` for sigmoids: what is not ignored.
        usable: Likewise: what is counted and is a label at all.
        sigmoid: Whether each class has a sigmoid of its own.
    """

    logits: Array
    labels: Array
    counted: Array
    usable: Array
    sigmoid: bool


class Shares(NamedTuple):
    """Probability and truth of each class at each pixel, as losses of regions need them.

    Attributes:
        logits: `[N, H, W, K]` in float32 or wider; 0 where ignored, not-a-number where the label is none.
        probabilities: Likewise; 0 where ignored.
        truth: `[N, H, W, K]` of their type, in `[0, 1]`; 0 where ignored, not-a-number where the label is none.
        counted: `[N, H, W, K]` bool: what is not ignored.
    """

    logits: Array
    probabilities: Array
    truth: Array
    counted: Array


def read(logits: Array, labels: Array, ignore_index: int) -> Targets:
    """Reads labels by the table above.

    Args:
        logits: `[N, H, W, K]`, floating.
        labels: As in the table.
        ignore_index: The label of what counts for nothing, any integer but a class's.

    Raises:
        InputError: Shapes do not fit, or logits are not floating.

    >>> read(jnp.zeros((1, 1, 2, 3)), jnp.array([[[2, 255]]]), 255).usable.tolist()
    [[[True, False]]]
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 4 or labels.shape not in (logits.shape, logits.shape[:-1]):
        raise InputError(
            f"logits {logits.shape} and labels {labels.shape} do not fit: they are [N, H, W, K] and "
            "[N, H, W], or [N, H, W, K] both for multilabel and soft targets"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise InputError(f"logits are floating, not {logits.dtype}")
    num_classes, soft = logits.shape[-1], jnp.issubdtype(labels.dtype, jnp.floating)
    labels = widen(labels) if soft else labels.astype(jnp.int32)
    if soft and labels.shape != logits.shape and num_classes > 1:
        raise InputError(
            f"floating labels are shares of classes, [N, H, W, {num_classes}], not {labels.shape}: "
            "class ids are integers"
        )
    if num_classes == 1 or (labels.shape == logits.shape and not soft):
        return _read_sigmoids(logits, labels.reshape(logits.shape), ignore_index)
    if soft:
        return _read_shares(logits, labels, ignore_index)
    counted = labels != ignore_index
    usable = counted & (labels >= 0) & (labels < num_classes)
    return Targets(logits, jnp.where(usable, labels, 0), counted, usable, False)


def read_one_against_rest(logits: Array, labels: Array, ignore_index: int) -> Targets:
    """Reads labels for a sigmoid of each class, class ids too: entry c is whether the label is c.

    Args:
        logits: `[N, H, W, K]`, floating.
        labels: As in the table; floating `[N, H, W, K]` are shares of one sigmoid each.
        ignore_index: The label of what counts for nothing.

    Raises:
        InputError: As `read`.
    """
    targets = read(logits, labels, ignore_index)
    if targets.sigmoid:
        return targets
    if targets.labels.ndim == 4:
        return _read_sigmoids(targets.logits, widen(jnp.asarray(labels)), ignore_index)
    shape = targets.logits.shape
    entries = jax.nn.one_hot(targets.labels, shape[-1], dtype=widen(targets.logits).dtype)
    counted, usable = (
        jnp.broadcast_to(x[..., None], shape) for x in (targets.counted, targets.usable)
    )
    return Targets(targets.logits, jnp.where(usable, entries, 0), counted, usable, True)


def read_shares(logits: Array, labels: Array, ignore_index: int) -> Shares:
    """Reads labels into probabilities and truth of each class.

    Args:
        logits: `[N, H, W, K]`, floating.
        labels: As in the table.
        ignore_index: The label of what counts for nothing.

    Raises:
        InputError: As `read`.

    >>> shares = read_shares(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]]), 255)
    >>> shares.probabilities.tolist(), shares.truth.tolist()
    ([[[[0.5, 0.5], [0.0, 0.0]]]], [[[[0.0, 1.0], [0.0, 0.0]]]])
    """
    targets = read(logits, labels, ignore_index)
    shape = targets.logits.shape
    wide = widen(targets.logits)
    usable = targets.usable[..., None] if targets.usable.ndim < 4 else targets.usable
    counted = targets.counted[..., None] if targets.counted.ndim < 4 else targets.counted
    filler = jnp.where(counted & ~usable, jnp.nan, 0).astype(wide.dtype)
    wide = jnp.where(usable, wide, filler)
    probabilities = jax.nn.sigmoid(wide) if targets.sigmoid else jax.nn.softmax(wide)
    truth = targets.labels
    if truth.ndim < 4:
        truth = jax.nn.one_hot(truth, shape[-1], dtype=wide.dtype)
    truth = jnp.where(usable, truth, filler)
    counted = jnp.broadcast_to(counted, shape)
    return Shares(wide, jnp.where(counted, probabilities, 0), truth, counted)


def check_class_weights(class_weights: ClassWeights | None, num_classes: int, dtype) -> Array:
    """`[max(K, 2)]`, ones by default: a sigmoid's single class has a weight for each of its two labels."""
    expected = (max(num_classes, 2),)
    if class_weights is None:
        return jnp.ones(expected, dtype)
    if np.shape(class_weights) != expected:
        raise InputError(
            f"class_weights have shape {np.shape(class_weights)}, {num_classes} classes need {expected}"
        )
    if (
        not isinstance(class_weights, jax.Array)
        and not (np.isfinite(class_weights) & (np.asarray(class_weights) >= 0)).all()
    ):
        raise InputError(f"class_weights are finite and not negative, not {class_weights}")
    return jnp.asarray(class_weights, dtype)


def checked_class_weights(class_weights: ClassWeights | None, logits: Array) -> Array | None:
    """As `check_class_weights`, as an array, in which values can no longer be checked; None stays None."""
    if class_weights is None:
        return None
    return check_class_weights(class_weights, logits.shape[-1], widen(logits).dtype)


def _read_sigmoids(logits: Array, labels: Array, ignore_index: int) -> Targets:
    counted = labels != ignore_index
    usable = counted & (labels >= 0) & (labels <= 1)
    labels = jnp.where(usable, labels, 0).astype(widen(logits).dtype)
    return Targets(logits, labels, counted, usable, True)


def _read_shares(logits: Array, labels: Array, ignore_index: int) -> Targets:
    counted = (labels != ignore_index).all(-1)
    usable = counted & ((labels >= 0) & (labels <= 1)).all(-1)
    labels = jnp.where(usable[..., None], labels.astype(widen(logits).dtype), 0)
    return Targets(logits, labels, counted, usable, False)
