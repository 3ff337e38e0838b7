"""Everything that a training step changes, as one frozen pytree."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxseg.errors import InputError
from jaxseg.typing import Array, Variables


@flax.struct.dataclass
class TrainState:
    """The state of a training run.

    Attributes:
        step: Scalar int32, the number of steps taken.
        params: The trained parameters, as in `variables["params"]`.
        batch_stats: The running statistics, as in `variables["batch_stats"]`; empty for models without.
        opt_state: The optimizer's state.
        ema: The exponential moving average of the parameters, or None where none is kept.
        skipped: int32 `[2]`, how many updates `skip_nonfinite` has skipped, in all and just now in a row.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = None
    skipped: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes: the parameters as trained, and the running statistics."""
        return {"params": self.params} | (
            {"batch_stats": self.batch_stats} if self.batch_stats else {}
        )

    @property
    def ema_variables(self) -> dict[str, Any]:
        """What `model.apply` takes: the averaged parameters, and the running statistics.

        Raises:
            InputError: No average is kept.
        """
        if self.ema is None:
            raise InputError(
                "this state keeps no average of its parameters: create_state(..., ema=True)"
            )
        return self.variables | {"params": self.ema}

    @property
    def evaluated(self) -> "TrainState":
        """The state to evaluate: with the averaged parameters in place of the trained ones where an average is kept."""
        return self if self.ema is None else dataclasses.replace(self, params=self.ema, ema=None)


def create_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """The state before the first step.

    Args:
        variables: As of `model.init` (or `pretrained.load`): `{"params": ..., "batch_stats": ...}`, the latter where the
            model has any.
        optimizer: Any optax transformation.
        ema: Whether an exponential moving average of the parameters is kept, starting from them.

    Returns:
        A state with copies: neither `variables` nor one another is lost when a step's buffers are donated.

    Raises:
        InputError: A collection other than these two.

    >>> state = create_state({"params": {"w": jnp.ones(3)}}, optax.sgd(0.1))
    >>> int(state.step), sorted(state.variables)
    (0, ['params'])
    """
    other = sorted(set(variables) - {"params", "batch_stats"})
    if other or "params" not in variables:
        raise InputError(
            f"variables hold {sorted(variables)}; a training state takes params and batch_stats"
        )
    # At once: one operation after the other, XLA would compile a program for each shape.
    return jax.jit(functools.partial(_new, optimizer, ema))(dict(variables))


def _new(optimizer: optax.GradientTransformation, ema: bool, variables: Variables) -> TrainState:
    variables = jax.tree.map(jnp.array, variables)
    params = variables["params"]
    with jax.numpy_dtype_promotion("standard"):
        opt_state = optimizer.init(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=opt_state,
        ema=jax.tree.map(jnp.array, params) if ema else None,
        skipped=jnp.zeros(2, jnp.int32),
    )
