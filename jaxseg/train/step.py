"""Training and evaluation of one batch: pure functions, the same under jit, pmap and shard_map."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix, labels_from_logits
from jaxseg.train.accumulate import accumulated
from jaxseg.train.norm import global_norm
from jaxseg.train.optimizers import Freezing
from jaxseg.train.state import TrainState
from jaxseg.train.statistics import batch_norm
from jaxseg.typing import Array, Batch, Key

Logs = dict[str, Array]
LossFn = Callable[[Any, Batch], tuple[Array, Logs]]
Preprocess = Callable[[Array], Array]
Policy = Callable[..., bool]


def _identity(image: Array) -> Array:
    return image


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn,
    *,
    preprocess: Preprocess = _identity,
    frozen_statistics: tuple[str, ...] = (),
    ema_decay: float | None = None,
    micro_batches: int = 1,
    remat: Policy | None = None,
) -> Callable[[TrainState, Batch, Key], tuple[TrainState, Logs]]:
    """A function that takes one optimizer step.

    It is pure and not compiled yet: `Parallel.compile` does that, or a `jax.jit`, `pmap` or `shard_map` of your own
    (whose axis must be called `"data"`). On several devices it gives what one device gives for the whole batch.

    Args:
        model: A Linen module with `model.apply(variables, images, train=...) -> Output`, with or without batch
            statistics.
        optimizer: Any optax transformation; that of `create_state`.
        loss_fn: `(output, batch) -> (scalar, logs)`, as of `losses.make_loss_fn`. On several devices it must return the
            global batch's loss: ratios of sums over `collective.psum`. Integers in its logs are counts, which must be of
            the global batch as well.
        preprocess: Maps `batch["image"]` to what the model takes, on the device, such as `data.normalize(...)`.
        frozen_statistics: Path prefixes of the BatchNorm layers that use and keep their running statistics, such as
            `("encoder",)`; `("",)` for all of them.
        ema_decay: How much of the averaged parameters a step keeps, in `[0, 1)`; for states that have an average.
        micro_batches: How many parts each device's images are cut into, one in memory at a time: see
            `train.accumulate`. The gradient is that of the whole batch, for every loss; batch normalisation sees parts.
        remat: What the forward pass keeps for the backward pass, a policy of `jax.checkpoint` such as
            `train.keep_products`; the rest is computed again. Everything is kept by default.

    Returns:
        `step(state, batch, key) -> (state, logs)`: `batch` holds `"image"` `[N, H, W, C]` and what the loss reads; `key`
        is the run's, the number of the step (and of the device) is folded in for dropout; the logs hold the scalars
        `"loss"`, `"gradient_norm"` (global, before any clipping) and those of the loss.

    Raises:
        InputError: When traced: the model returns a bare array, a prefix matches no BatchNorm layer, or only one of the
            state and the step knows of an average.

    >>> import flax.linen as nn
    >>> from jaxseg import losses, train
    >>> from jaxseg.typing import Output
    >>> class Pixelwise(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(nn.Dense(2)(images))
    >>> model, optimizer = Pixelwise(), optax.sgd(0.1)
    >>> batch = {"image": jnp.ones((1, 4, 4, 3)), "label": jnp.ones((1, 4, 4), jnp.uint8)}
    >>> state = train.create_state(model.init(jax.random.key(0), batch["image"]), optimizer)
    >>> step = train.make_train_step(model, optimizer, losses.make_loss_fn({"cross_entropy": 1.0}))
    >>> state, logs = jax.jit(step)(state, batch, jax.random.key(1))
    >>> int(state.step), sorted(logs)
    (1, ['cross_entropy', 'gradient_norm', 'loss'])
    """
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise InputError(f"ema_decay is {ema_decay}, it lies in [0, 1)")

    def train_step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Logs]:
        if (state.ema is None) != (ema_decay is None):
            raise InputError(
                "an average needs both create_state(..., ema=True) and make_train_step(..., ema_decay=)"
            )
        images = preprocess(batch["image"])
        dropout = collective.fold_in_device(jax.random.fold_in(key, state.step))

        def forward(params: Any, statistics: Any, images: Array, key: Key) -> tuple[Any, Any]:
            variables = state.variables | {"params": _trained(optimizer, params)}
            if statistics:
                variables["batch_stats"] = statistics
            with batch_norm(frozen_statistics):
                output, updated = model.apply(
                    variables,
                    images,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": key},
                )
            return _checked(output), updated.get("batch_stats", statistics)

        if remat is not None:
            forward = jax.checkpoint(forward, policy=remat)

        def loss_of(params: Any) -> tuple[Array, tuple[Logs, Any]]:
            output, statistics = forward(params, state.batch_stats, images, dropout)
            loss, logs = loss_fn(output, batch)
            return loss, (logs, statistics)

        if micro_batches == 1:
            differentiate = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (logs, batch_stats)), gradient = differentiate(state.params)
        else:
            (loss, logs), batch_stats, gradient = accumulated(
                forward,
                lambda output: loss_fn(output, batch),
                state.params,
                state.batch_stats,
                images,
                dropout,
                parts=micro_batches,
            )
        # Each device differentiates the same global loss through its own part of the batch; the sum's transpose has
        # added up the devices' cotangents, so that the mean is the gradient.
        counts, logs = _divided(logs)
        gradient, loss, logs = collective.pmean((gradient, loss, logs))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            norm = global_norm(gradient)
            ema = None
            if ema_decay is not None:
                ema = optax.incremental_update(params, state.ema, 1 - ema_decay)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.skipped)
        return state, {"loss": loss, "gradient_norm": norm} | logs | counts

    return train_step


@flax.struct.dataclass
class EvalTotals:
    """What evaluation adds up over a data set.

    Attributes:
        counts: The confusion matrix of every pixel that was not ignored.
        loss_sum: `[2]`: the sum over batches of loss times pixels that count, and what its rounding has lost.

    >>> totals = EvalTotals.zero(3)
    >>> totals.counts.to_numpy().sum(), totals.loss
    (np.int64(0), Array(nan, dtype=float32))
    """

    counts: ConfusionMatrix
    loss_sum: Array

    @classmethod
    def zero(cls, num_classes: int) -> "EvalTotals":
        """Totals of nothing, for K classes (1 for one sigmoid)."""
        return cls(ConfusionMatrix.zero(num_classes), jnp.zeros(2))

    @property
    def weight(self) -> Array:
        """How many pixels count, a scalar: the exact number, rounded once to floating point."""
        return self.counts.to_float().sum()

    @property
    def loss(self) -> Array:
        """The mean loss over all pixels that count, a scalar; not-a-number without any.

        For losses that are means over pixels, cross-entropy without class weights, it does not depend on how the data
        set was cut into batches. For others (Dice, class weights) it is the mean of the batches' losses, weighted by
        their pixels.
        """
        weight = self.weight
        return jnp.where(
            weight == 0, jnp.nan, self.loss_sum.sum() / jnp.where(weight == 0, 1, weight)
        )


def make_eval_step(
    model: Any,
    loss_fn: LossFn,
    *,
    preprocess: Preprocess = _identity,
    ignore_index: int = 255,
) -> Callable[[TrainState, Batch, EvalTotals], EvalTotals]:
    """A function that evaluates one batch.

    It is pure and not compiled yet; compile it with `Parallel.compile(step, donate=(2,))`: the state is still needed,
    only the totals may be given away.

    Args:
        model: A Linen module with `model.apply(variables, images, train=...) -> Output`.
        loss_fn: `(output, batch) -> (scalar, logs)`, as of `losses.make_loss_fn`.
        preprocess: Maps `batch["image"]` to what the model takes, on the device.
        ignore_index: The label of pixels that count for nothing, padding included.

    Returns:
        `step(state, batch, totals) -> totals`, where `batch` holds `"image"` `[N, H, W, C]` and `"label"` `[N, H, W]`.
        It evaluates `state.variables`; for the averaged parameters give it `state.replace(params=state.ema)`.

    Raises:
        InputError: When traced: the model returns a bare array, or the totals are of another number of classes.
    """

    def eval_step(state: TrainState, batch: Batch, totals: EvalTotals) -> EvalTotals:
        output = _checked(model.apply(state.variables, preprocess(batch["image"]), train=False))
        classes = max(output.logits.shape[-1], 2)
        if classes != totals.counts.num_classes:
            raise InputError(
                f"logits of {classes} classes, but totals of {totals.counts.num_classes}: EvalTotals.zero(K) takes "
                "the channels of the logits"
            )
        loss, _ = loss_fn(output, batch)
        counts = ConfusionMatrix.zero(totals.counts.num_classes).update(
            labels=batch["label"],
            predictions=labels_from_logits(output.logits),
            ignore_index=ignore_index,
        )
        dtype = totals.loss_sum.dtype
        addend = collective.pmean(loss).astype(dtype) * counts.to_float().sum().astype(dtype)
        return EvalTotals(totals.counts + counts, _add(totals.loss_sum, addend))

    return eval_step


def _divided(logs: Logs) -> tuple[Logs, Logs]:
    """Logs of integers, which are counts over all devices already (`train.with_counts`), and the others."""
    counts: Logs = {}
    for name, value in logs.items():
        kinds = [jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(value)]
        if all(kinds):
            counts[name] = value
    return counts, {name: value for name, value in logs.items() if name not in counts}


def _trained(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """The parameters, without a gradient for those that the optimizer leaves alone."""
    if not isinstance(optimizer, Freezing):
        return params
    return jax.tree.map(
        lambda trains, leaf: leaf if trains else jax.lax.stop_gradient(leaf),
        optimizer.trainable(params),
        params,
    )


def _checked(output: Any) -> Any:
    if isinstance(output, jax.Array):
        raise InputError(
            f"the model returned a bare array {output.shape}: return jaxseg.Output(logits=...) with logits [N, H, W, K]"
        )
    return output


def _add(total: Array, addend: Array) -> Array:
    """Adds to a sum of two terms; the second holds what rounding takes from the first (Knuth's two-sum)."""
    high, low = total
    new = high + addend
    part = new - high
    lost = (high - (new - part)) + (addend - part)
    return jnp.stack([new, low + lost])
