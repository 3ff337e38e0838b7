"""Many models at once: members of one shape with seeds and settings of their own, trained by one program."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.train.state import TrainState
from jaxseg.train.step import EvalTotals
from jaxseg.typing import Array, Batch, Key, Output, Variables

Tree = TypeVar("Tree")
Step = Callable[[TrainState, Batch, Key], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[TrainState, Batch, EvalTotals], EvalTotals]


def make_ensemble_step(make_step: Callable[[Any], Step], settings: Any) -> Step:
    """A step of every member, on one batch: what each gets is what it would get alone.

    Args:
        make_step: From one member's settings to its step, as of `make_train_step`. Settings are numbers on the device: a
            rate goes into `train.adamw` as it is, or as `lambda t: rate * train.poly(1.0, steps)(t)`.
        settings: A pytree of arrays whose first axis is the members', such as `{"rate": jnp.array([1e-3, 3e-4])}`; for
            members that differ in their seeds alone, `jnp.arange(members)`.

    Returns:
        `step(states, batch, key) -> (states, logs)` for `Parallel.compile`: states and logs have one more axis, the
        first. The number of the member is folded into the key, so that members draw masks of their own. States come from
        a `vmap` as well: `jax.vmap(lambda key: create_state(model.init(key, images), optimizer))(keys)`.

    Raises:
        InputError: Settings without arrays, or of unequal numbers of members.

    >>> import flax.linen as nn
    >>> from jaxseg import losses, train
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
    >>> logs["loss"].shape, train.member(states, 2).params["Dense_0"]["kernel"].shape
    ((3,), (3, 2))

    References:
        Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, 2017, https://arxiv.org/abs/1612.01474
    """
    settings = jax.tree.map(jnp.asarray, settings)
    counts = {x.shape[0] if x.ndim else None for x in jax.tree.leaves(settings)}
    if len(counts) != 1 or None in counts:
        raise InputError(
            f"settings are arrays whose first axis is the members', not {jax.tree.map(jnp.shape, settings)}"
        )
    (members,) = counts

    def ensemble_step(states: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Any]:
        def one(settings: Any, state: TrainState, index: Array) -> tuple[TrainState, Any]:
            return make_step(settings)(state, batch, jax.random.fold_in(key, index))

        return jax.vmap(one)(settings, states, jnp.arange(members))

    return ensemble_step


def make_ensemble_eval_step(step: EvalStep) -> EvalStep:
    """An evaluation of every member, on one batch.

    Args:
        step: As of `make_eval_step`.

    Returns:
        `step(states, batch, totals) -> totals`: states and totals have one more axis, the first. `member(totals, i)` are
        those of one, for any metric of its counts; totals begin as `every_member(EvalTotals.zero(K), members)`.
    """
    return jax.vmap(step, (0, None, 0))


def every_member(tree: Tree, members: int) -> Tree:
    """The same for each member: one more axis, the first.

    >>> every_member({"w": jnp.zeros(3)}, 2)["w"].shape
    (2, 3)
    """
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], members, 0), tree)


def member(tree: Tree, index: int) -> Tree:
    """What belongs to one member, of states, variables, logs or totals.

    >>> member({"w": jnp.arange(6).reshape(2, 3)}, 1)["w"].tolist()
    [3, 4, 5]
    """
    return jax.tree.map(lambda x: x[index], tree)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    r"""Members that answer as one model: with the mean of their probabilities.

    `make_eval_step`, `make_predict` and whatever else calls `model.apply` take it as a model; variables are the members',
    such as `states.variables`.

    Attributes:
        model: The members' Linen module.

    >>> import flax.linen as nn
    >>> class Bias(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(images + self.param("bias", nn.initializers.zeros, (1, 1, 1, 2)))
    >>> variables = {"params": {"bias": jnp.array([0.0, 2.0, 0.0, -2.0]).reshape(2, 1, 1, 1, 2)}}
    >>> Ensemble(Bias()).apply(variables, jnp.zeros((1, 1, 1, 2))).logits.round(2)
    Array([[[[-0.69, -0.69]]]], dtype=float32)

    References:
        Lakshminarayanan et al., 2017, https://arxiv.org/abs/1612.01474
    """

    model: Any

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Output:
        """Logits whose softmax (of one class, sigmoid) is the mean of the members'; auxiliary ones are left out.

        Args:
            variables: With one more axis, the members'.
            images: `[N, H, W, C]`.
            train: Must be false: members are trained one by one.

        Raises:
            InputError: `train` is true.
        """
        if train:
            raise InputError("an ensemble is not trained as one: see make_ensemble_step")
        every = jax.vmap(lambda own: self.model.apply(own, images, train=False).logits)(variables)
        if every.shape[-1] == 1:
            there, not_there = (
                jax.nn.logsumexp(jax.nn.log_sigmoid(sign * every), axis=0) for sign in (1, -1)
            )
            return Output(there - not_there)
        logits = jax.nn.logsumexp(jax.nn.log_softmax(every), axis=0)
        return Output(logits - jnp.log(jnp.asarray(len(every), logits.dtype)))
