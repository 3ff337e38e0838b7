"""Evaluation of one batch: a pure function for any task, the same under jit, pmap and shard_map."""

from collections.abc import Callable
from typing import Any

import jax

from jaxseg import collective
from jaxseg.train.state import TrainState
from jaxseg.train.step import checked_output
from jaxseg.typing import Array, Batch, LossFn

EvalStep = Callable[[TrainState, Batch, Any], tuple[Any, Any]]


def _identity(image: Array) -> Array:
    return image


def make_eval_step(
    model: Any,
    task: Any,
    loss_fn: LossFn,
    *,
    preprocess: Callable[[Array], Array] = _identity,
) -> EvalStep:
    """Returns a function that evaluates one batch.

    It is pure and not compiled yet; compile it with `Parallel.compile(step, donate=(2,))`: the state is needed again, only
    the totals may be donated.

    Args:
        model: A Linen module, or anything else with `model.apply(variables, images, train=...) -> Output`.
        task: Adds a batch to its totals, such as `jaxseg.tasks.Semantic(num_classes)`.
        loss_fn: `(output, batch) -> (scalar, logs)`, as returned by `task.make_loss`.
        preprocess: Maps `batch["image"]` to the model's input, on the device.

    Returns:
        `step(state, batch, totals) -> (totals, records)`, where `batch` holds `"image"` `[N, H, W, C]` and the task's
        targets, and `totals` begin as `task.zero()`; `records` are what `task.collect` returns, of the whole batch. It
        evaluates `state.variables`; for the averaged parameters give it `state.evaluated`.

    Raises:
        InputError: When traced: the model returns a bare array, or the totals do not fit its output.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxseg import tasks, train
    >>> from jaxseg.typing import Output
    >>> class Pixelwise(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(nn.Dense(2, kernel_init=nn.initializers.zeros)(images))
    >>> model, task = Pixelwise(), tasks.Semantic(2)
    >>> batch = {"image": jnp.ones((1, 2, 2, 3)), "label": jnp.zeros((1, 2, 2), jnp.uint8)}
    >>> state = train.create_state(model.init(jax.random.key(0), batch["image"]), optax.identity())
    >>> step = make_eval_step(model, task, task.make_loss({"cross_entropy": 1.0}))
    >>> totals, _ = step(state, batch, task.zero())
    >>> task.scores(totals)["mean_iou"]
    1.0
    """

    def eval_step(state: TrainState, batch: Batch, totals: Any) -> tuple[Any, Any]:
        output = checked_output(
            model.apply(state.variables, preprocess(batch["image"]), train=False)
        )
        loss, _ = loss_fn(output, batch)
        records = jax.tree.map(collective.gather, task.collect(output, batch))
        return task.update(totals, output, batch, loss), records

    return eval_step
