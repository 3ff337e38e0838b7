"""One step of training: a pure function, the same under jit, pmap and shard_map."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.train.batch_norm import intercept_batch_norm
from jaxseg.train.gradient_norm import global_norm
from jaxseg.train.microbatch import microbatch_gradient
from jaxseg.train.param_groups import stop_frozen_gradients
from jaxseg.train.state import TrainState
from jaxseg.typing import Array, Batch, Key, Logs, LossFn, Preprocess, Step


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
    remat: Callable[..., bool] | None = None,
) -> Step:
    """Returns a pure function that computes one optimizer step.

    It is not compiled; compile it by `Parallel.compile`, or by `jax.jit`, `pmap` or `shard_map` with an axis named `"data"`. On
    several devices it computes the result of one device for the whole batch.

    Args:
        model: A Linen module with `model.apply(variables, images, train=...) -> Output`, with or without batch statistics.
        optimizer: The optax transformation that the state was created with.
        loss_fn: `(output, batch) -> (scalar, logs)`, from `losses.make_loss_fn`. On several devices it must return the loss of
            the global batch, as ratios of sums by `collective.psum`. Integers in its logs are counts of the global batch.
        preprocess: Maps `batch["image"]` to the input of the model, on the device, such as `data.normalize(...)`.
        frozen_statistics: Prefixes of the paths of BatchNorm layers that use their running statistics and do not update
            them, such as `("encoder",)`; `("",)` for all layers.
        ema_decay: The decay of the averaged parameters, in `[0, 1)`, for states with an average. Step t has the decay
            `min(ema_decay, (1 + t) / (10 + t))`, as in TensorFlow, so that short runs do not end near their random start.
        micro_batches: The number of parts of each device's images, of which one is in memory at a time. The gradient is that of
            the whole batch, for every loss; batch normalization sees micro-batches.
        remat: A policy of `jax.checkpoint` that says what the forward pass saves for the backward pass, such as
            `train.save_convolutions`; everything else is computed again. None saves everything.

    Returns:
        `step(state, batch, key) -> (state, logs)`. `batch` contains `"image"` `[N, H, W, C]` and the targets that the loss
        reads. `key` is the same in all steps; the step folds in its number. `nn.Dropout` and `nn.DropPath` draw for each image of the
        global batch; Flax's own Dropout repeats its mask on every device and in every micro-batch. The logs contain the scalars
        `"loss"`, `"gradient_norm"` (before clipping) and those of the loss.

    Raises:
        InputError: `ema_decay` is not in `[0, 1)`. When traced: the model returns a bare array, a prefix matches no BatchNorm
            layer, or only one of state and step averages the parameters.

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
        raise InputError(f"ema_decay is {ema_decay}: it must be in [0, 1)")

    def train_step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Logs]:
        if (state.ema is None) != (ema_decay is None):
            raise InputError(
                "an average needs both create_state(..., ema=True) and make_train_step(..., ema_decay=)"
            )
        images = preprocess(batch["image"])
        dropout_key = jax.random.fold_in(key, state.step)

        def forward(
            params: Any, statistics: Any, images: Array, part: Array | int
        ) -> tuple[Any, Any]:
            variables = state.variables | {"params": stop_frozen_gradients(optimizer, params)}
            if statistics:
                variables["batch_stats"] = statistics
            with (
                intercept_batch_norm(frozen_statistics),
                collective.micro_batch(part, micro_batches),
            ):
                output, updated = model.apply(
                    variables,
                    images,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": dropout_key},
                )
            return checked_output(output), updated.get("batch_stats", statistics)

        if remat is not None:
            forward = jax.checkpoint(forward, policy=remat)

        def loss_of_params(params: Any) -> tuple[Array, tuple[Logs, Any]]:
            output, statistics = forward(params, state.batch_stats, images, 0)
            loss, logs = loss_fn(output, batch)
            return loss, (logs, statistics)

        if micro_batches == 1:
            differentiate = jax.value_and_grad(loss_of_params, has_aux=True)
            (loss, (logs, batch_stats)), gradient = differentiate(state.params)
        else:
            (loss, logs), batch_stats, gradient = microbatch_gradient(
                forward,
                lambda output: loss_fn(output, batch),
                state.params,
                state.batch_stats,
                images,
                micro_batches=micro_batches,
            )
        # Each device differentiates the global loss through its own part of the batch. The transpose of psum has added up
        # the cotangents of all devices, so that the mean is the gradient.
        counts, logs = _split_counts(logs)
        gradient, loss, logs = collective.pmean((gradient, loss, logs))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            norm = global_norm(gradient)
            ema = None
            if ema_decay is not None:
                ema = _average(state.ema, params, state.step, ema_decay)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.skipped)
        return state, {"loss": loss, "gradient_norm": norm} | logs | counts

    return train_step


def _average(average: Any, params: Any, step: Array, decay: float) -> Any:
    """Returns the average with new parameters; the decay rises from 0.1, so that the random start is soon forgotten."""
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: a + rate.astype(p.dtype) * (p - a), average, params)


def _split_counts(logs: Logs) -> tuple[Logs, Logs]:
    """Splits logs into integers, which are counts over all devices already, and the others."""
    counts: Logs = {}
    for name, value in logs.items():
        kinds = [jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(value)]
        if all(kinds):
            counts[name] = value
    return counts, {name: value for name, value in logs.items() if name not in counts}


def checked_output(output: Any) -> Any:
    """Returns a model's output; raises an `InputError` where it is a bare array."""
    if isinstance(output, jax.Array):
        raise InputError(
            f"the model returned a bare array {output.shape}: return jaxseg.Output(logits=...) with logits [N, H, W, K]"
        )
    return output
