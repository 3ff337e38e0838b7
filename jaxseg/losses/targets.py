r"""Interpretation of labels by all losses: their shape and type select a softmax or sigmoids.

| labels | logits | read as |
|---|---|---|
| `[N, H, W]` integers | `[N, H, W, K]`, K >= 2 | multiclass: one softmax, labels `0..K-1` |
| `[N, H, W]` integers | `[N, H, W, 1]` | binary: one sigmoid, labels 0 and 1 |
| `[N, H, W, K]` integers or bool | `[N, H, W, K]` | multilabel: K sigmoids, entries 0 and 1 |
| `[N, H, W, K]` floating | `[N, H, W, K]`, K >= 2 | soft multiclass: a probability for each class, which sum to 1 |
| `[N, H, W]` or `[N, H, W, 1]` floating | `[N, H, W, 1]` | soft binary: the probability of label 1 |

`ignore_index` may appear anywhere: it excludes the pixel or, in multilabel targets, the single entry. It may be several
labels, or None where every pixel counts.

- Ignored pixels influence neither the value nor the gradient, even where their logits are infinite or NaN.
- A label that is neither a class nor `ignore_index` (for soft labels, a value outside `[0, 1]` by more than
  rounding, 1e-5 or two units of its type's last digit) makes the loss NaN: nothing
  can be raised under `jit`, and a plausible wrong number would go unnoticed. Data loaders and the command line check labels
  on the host.
- Losses are computed in `promote_types(float32, logits.dtype)`. Labels carry no gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored, is_ignored
from jaxseg.losses.nll import widen
from jaxseg.typing import Array

ClassWeights = Array | np.ndarray | Sequence[float]


class Targets(NamedTuple):
    """Logits and labels that every formula can be applied to.

    Attributes:
        logits: `[N, H, W, K]` in float32 or wider; 0 where ignored, NaN where the label is out of range, which makes the loss NaN.
        labels: Class ids, `[N, H, W]` int32, 0 where not in range; or `[N, H, W, K]` int32 entries of sigmoids; or soft labels,
            `[N, H, W, K]` in the type of the logits, 0 where not in range.
        valid: Bool, `[N, H, W]` for a softmax, `[N, H, W, K]` for sigmoids: whether the label is not `ignore_index`.
        in_range: Bool, the shape of `valid`: whether the label is valid and is a class or a probability.
        sigmoid: Whether each class has a sigmoid of its own; otherwise there is one softmax.
    """

    logits: Array
    labels: Array
    valid: Array
    in_range: Array
    sigmoid: bool


class SoftMasks(NamedTuple):
    """The predicted and the true mask of each class.

    Attributes:
        logits: `[N, H, W, K]` in float32 or wider; 0 where ignored, NaN where the label is out of range.
        probabilities: `[N, H, W, K]`, the predicted mask, in the type of `logits`; 0 where ignored.
        truth: `[N, H, W, K]`, the true mask in `[0, 1]`; 0 where ignored, NaN where the label is out of range.
        valid: `[N, H, W, K]` bool: whether the label is not `ignore_index`.
    """

    logits: Array
    probabilities: Array
    truth: Array
    valid: Array


def read_targets(logits: Array, labels: Array, ignore_index: Ignored) -> Targets:
    """Reads labels by the table of this module.

    Args:
        logits: `[N, H, W, K]`, floating.
        labels: One of the forms in the table.
        ignore_index: The label of ignored pixels; any integer that is not a class.

    Raises:
        InputError: If the shapes do not match or the logits are not floating.

    >>> read_targets(jnp.zeros((1, 1, 2, 3)), jnp.array([[[2, 255]]]), 255).in_range.tolist()
    [[[True, False]]]
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 4 or labels.shape not in (logits.shape, logits.shape[:-1]):
        raise InputError(
            f"logits {logits.shape} and labels {labels.shape} do not match: expected [N, H, W, K] and "
            "[N, H, W], or [N, H, W, K] for both with multilabel and soft targets"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise InputError(f"logits must be floating, not {logits.dtype}")
    num_classes, soft = logits.shape[-1], jnp.issubdtype(labels.dtype, jnp.floating)
    labels = _probabilities(labels) if soft else labels.astype(jnp.int32)
    if soft and labels.shape != logits.shape and num_classes > 1:
        raise InputError(
            f"floating labels are probabilities of classes, [N, H, W, {num_classes}], not {labels.shape}: "
            "class ids must be integers"
        )
    if num_classes == 1 or (labels.shape == logits.shape and not soft):
        return _sigmoid_targets(logits, labels.reshape(logits.shape), ignore_index)
    if soft:
        return _soft_targets(logits, labels, ignore_index)
    valid = ~is_ignored(labels, ignore_index)
    in_range = valid & (labels >= 0) & (labels < num_classes)
    labels = jnp.where(in_range, labels, 0)
    return Targets(_safe_logits(logits, valid, in_range), labels, valid, in_range, False)


def read_one_vs_rest(logits: Array, labels: Array, ignore_index: Ignored) -> Targets:
    """Reads labels for one sigmoid per class; entry c of a class id is 1 where the id is c, and 0 elsewhere.

    Args:
        logits: `[N, H, W, K]`, floating.
        labels: One of the forms in the table; floating `[N, H, W, K]` are a probability for each sigmoid.
        ignore_index: The label of ignored pixels.

    Raises:
        InputError: If `read_targets` does.
    """
    targets = read_targets(logits, labels, ignore_index)
    if targets.sigmoid:
        return targets
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if targets.labels.ndim == 4:
        return _sigmoid_targets(logits, _probabilities(labels), ignore_index)
    one_hot = jax.nn.one_hot(targets.labels, logits.shape[-1], dtype=jnp.int32)
    valid, in_range = (
        jnp.broadcast_to(x[..., None], logits.shape) for x in (targets.valid, targets.in_range)
    )
    return Targets(_safe_logits(logits, valid, in_range), one_hot, valid, in_range, True)


def read_soft_masks(logits: Array, labels: Array, ignore_index: Ignored) -> SoftMasks:
    """Reads logits and labels into the predicted and the true mask of each class.

    Args:
        logits: `[N, H, W, K]`, floating.
        labels: One of the forms in the table.
        ignore_index: The label of ignored pixels.

    Raises:
        InputError: If `read_targets` does.

    >>> masks = read_soft_masks(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]]), 255)
    >>> masks.probabilities.tolist(), masks.truth.tolist()
    ([[[[0.5, 0.5], [0.0, 0.0]]]], [[[[0.0, 1.0], [0.0, 0.0]]]])
    """
    targets = read_targets(logits, labels, ignore_index)
    logits, truth, valid, in_range, sigmoid = targets
    probabilities = jax.nn.sigmoid(logits) if sigmoid else jax.nn.softmax(logits)
    if truth.ndim < 4:
        truth = jax.nn.one_hot(truth, logits.shape[-1], dtype=logits.dtype)
    truth = truth.astype(logits.dtype)
    valid, in_range = _over_classes(valid), _over_classes(in_range)
    truth = jnp.where(in_range, truth, jnp.where(valid, jnp.nan, 0))
    valid = jnp.broadcast_to(valid, logits.shape)
    return SoftMasks(logits, jnp.where(valid, probabilities, 0), truth, valid)


def check_class_weights(class_weights: ClassWeights | None, num_classes: int, dtype) -> Array:
    """Returns `[max(K, 2)]` weights, ones by default: the class of a single sigmoid has one for each of its labels.

    Raises:
        InputError: If the shape is wrong, or a weight that is not a JAX array is negative or not finite.
    """
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
        raise InputError(f"class_weights must be finite and not negative, not {class_weights}")
    return jnp.asarray(class_weights, dtype)


def _probabilities(labels: Array) -> Array:
    """Returns soft labels in float32 or wider; those that rounding took out of `[0, 1]` are 0 and 1."""
    tolerance = max(1e-5, 2 * float(jnp.finfo(labels.dtype).eps))
    labels = lax.stop_gradient(widen(labels))
    above, below = (labels > 1) & (labels <= 1 + tolerance), (labels < 0) & (labels >= -tolerance)
    return jnp.where(above, 1, jnp.where(below, 0, labels))


def _sigmoid_targets(logits: Array, labels: Array, ignore_index: Ignored) -> Targets:
    valid = ~is_ignored(labels, ignore_index)
    in_range = valid & (labels >= 0) & (labels <= 1)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels = jnp.where(in_range, labels.astype(widen(logits).dtype), 0)
    return Targets(_safe_logits(logits, valid, in_range), labels, valid, in_range, True)


def _soft_targets(logits: Array, labels: Array, ignore_index: Ignored) -> Targets:
    valid = ~is_ignored(labels, ignore_index).any(-1)
    in_range = valid & ((labels >= 0) & (labels <= 1)).all(-1)
    labels = jnp.where(in_range[..., None], labels.astype(widen(logits).dtype), 0)
    return Targets(_safe_logits(logits, valid, in_range), labels, valid, in_range, False)


def _safe_logits(logits: Array, valid: Array, in_range: Array) -> Array:
    filler = jnp.where(valid, jnp.nan, 0)
    return jnp.where(_over_classes(in_range), widen(logits), _over_classes(filler))


def _over_classes(x: Array) -> Array:
    """Adds an axis for the classes to `[N, H, W]`."""
    return x[..., None] if x.ndim == 3 else x
