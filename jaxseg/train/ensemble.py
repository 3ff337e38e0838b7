"""Ensembles: members of one architecture with different seeds and settings, trained by one program."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.train.eval_step import EvalStep
from jaxseg.train.state import TrainState
from jaxseg.typing import Array, Batch, Key, Logs, Step

Tree = TypeVar("Tree")


def make_ensemble_step(make_step: Callable[[Any], Step], settings: Any) -> Step:
    """Returns a step of all members on one batch, with the result of training each member alone.

    Args:
        make_step: A function from the settings of a member to its step, from `make_train_step`. Settings are arrays on the
            device: pass a learning rate to `train.adamw` as it is, or as `lambda t: rate * train.poly(1.0, steps)(t)`.
        settings: A pytree of arrays whose first axis is the axis of members, such as `{"rate": jnp.array([1e-3, 3e-4])}`.
            For members that differ only in their seeds, use `jnp.arange(num_members)`.

    Returns:
        `step(states, batch, key) -> (states, logs)` for `Parallel.compile`; states and logs have a first axis of members. The
        index of the member is folded into the key, so that members sample different dropout masks. Create the states by
        `jax.vmap(lambda key: create_state(model.init(key, images), optimizer))(keys)`.

    Raises:
        InputError: `settings` has no arrays, or arrays with different numbers of members.

    >>> import flax.linen as nn
    >>> from jaxseg import losses, train
    >>> from jaxseg.typing import Output
    >>> class Pixelwise(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(nn.Dense(2)(images))
    >>> model, loss_fn = Pixelwise(), losses.make_loss_fn({"cross_entropy": 1.0})
    >>> batch = {"image": jnp.ones((1, 4, 4, 3)), "label": jnp.ones((1, 4, 4), jnp.uint8)}
    >>> def create(key):
    ...     return train.create_state(model.init(key, batch["image"]), train.adamw(1.0))
    >>> states = jax.vmap(create)(jax.random.split(jax.random.key(0), 3))
    >>> step = train.make_ensemble_step(
    ...     lambda rate: train.make_train_step(model, train.adamw(rate), loss_fn), jnp.array([1e-3, 1e-2, 1e-1])
    ... )
    >>> states, logs = jax.jit(step)(states, batch, jax.random.key(1))
    >>> logs["loss"].shape, train.select_member(states, 2).params["Dense_0"]["kernel"].shape
    ((3,), (3, 2))

    References:
        Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, 2017, https://arxiv.org/abs/1612.01474
    """
    settings = jax.tree.map(jnp.asarray, settings)
    counts = {x.shape[0] if x.ndim else None for x in jax.tree.leaves(settings)}
    if len(counts) != 1 or None in counts:
        raise InputError(
            f"settings are arrays with a first axis of members, not {jax.tree.map(jnp.shape, settings)}"
        )
    (num_members,) = counts

    def ensemble_step(states: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Logs]:
        def member_step(settings: Any, state: TrainState, index: Array) -> tuple[TrainState, Logs]:
            return make_step(settings)(state, batch, jax.random.fold_in(key, index))

        return jax.vmap(member_step)(settings, states, jnp.arange(num_members))

    return ensemble_step


def make_ensemble_eval_step(step: EvalStep) -> EvalStep:
    """Returns an evaluation step of all members on one batch.

    Args:
        step: An evaluation step, from `make_eval_step`.

    Returns:
        `step(states, batch, totals) -> (totals, records)`; states, totals and records have a first axis of members. The first
        totals are `repeat_for_members(task.zero(), num_members)`; `select_member(totals, i)` are those of one member.
    """
    return jax.vmap(step, (0, None, 0))


def repeat_for_members(tree: Tree, num_members: int) -> Tree:
    """Repeats every array of a tree along a new first axis of members.

    >>> repeat_for_members({"w": jnp.zeros(3)}, 2)["w"].shape
    (2, 3)
    """
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], num_members, 0), tree)


def select_member(tree: Tree, index: int) -> Tree:
    """Returns one member of states, variables, logs or totals.

    >>> select_member({"w": jnp.arange(6).reshape(2, 3)}, 1)["w"].tolist()
    [3, 4, 5]
    """
    return jax.tree.map(lambda x: x[index], tree)
