"""The state of training: everything that a step changes, as one frozen pytree."""

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
        step: The number of steps taken, an int32 scalar.
        params: The parameters, `variables["params"]`.
        batch_stats: The running statistics, `variables["batch_stats"]`; empty for models without them.
        opt_state: The state of the optimizer.
        ema: The exponential moving average of the parameters; None without averaging.
        skipped: int32 `[2]`: the number of updates that `skip_nonfinite` has skipped, in total and consecutively up to now.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = None
    skipped: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the model: parameters and running statistics."""
        return {"params": self.params} | (
            {"batch_stats": self.batch_stats} if self.batch_stats else {}
        )

    @property
    def ema_variables(self) -> dict[str, Any]:
        """The variables of the model with the averaged parameters.

        Raises:
            InputError: The state has no average.
        """
        if self.ema is None:
            raise InputError(
                "this state has no average of its parameters: use create_state(..., ema=True)"
            )
        return self.variables | {"params": self.ema}

    @property
    def evaluated(self) -> "TrainState":
        """The state to evaluate: its parameters are the average where the state has one."""
        return self if self.ema is None else dataclasses.replace(self, params=self.ema, ema=None)


def create_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Creates the state before the first step.

    Args:
        variables: The variables of the model, from `init` or `pretrained.load`: `{"params": ...}` and, for models with
            batch normalization, `"batch_stats"`.
        optimizer: Any optax transformation.
        ema: Whether to average the parameters exponentially, starting from their initial values.

    Returns:
        A state of copies, so that a step may donate it without deleting `variables`.

    Raises:
        InputError: There are other collections than these two, or no parameters.

    >>> state = create_state({"params": {"w": jnp.ones(3)}}, optax.sgd(0.1))
    >>> int(state.step), sorted(state.variables)
    (0, ['params'])
    """
    other = sorted(set(variables) - {"params", "batch_stats"})
    if other or "params" not in variables:
        raise InputError(
            f"variables hold {sorted(variables)}; a training state consists of params and batch_stats"
        )
    # One program: outside of jit, XLA would compile a program for each shape.
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
