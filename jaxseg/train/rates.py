"""Learning rates of a model's parts."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxseg.errors import InputError
from jaxseg.train.paths import check_prefixes, path_name, under


def scale_rates(
    optimizer: optax.GradientTransformation, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Trains parts of a model at a multiple of the learning rate, such as a pretrained encoder at a tenth.

    What the optimizer would subtract is multiplied, its weight decay included, as with torch's parameter groups.

    Args:
        optimizer: Any optax transformation, clipping and schedule included.
        factors: Multiples by path prefix of whole names, such as `{"encoder": 0.1, "encoder/stem": 0.01}`; the longest
            prefix counts, and what none fits has the optimizer's own rate.

    Returns:
        An optax transformation with the optimizer's own state.

    Raises:
        InputError: A factor is negative or not finite; when initialised, if a prefix matches no parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = scale_rates(optax.sgd(1.0), {"encoder": 0.25})
    >>> params = {"encoder": jnp.ones(1), "head": jnp.ones(1)}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> float(updates["encoder"][0]), float(updates["head"][0])
    (-0.25, -1.0)
    """
    for prefix, factor in factors.items():
        if not 0 <= factor < float("inf"):
            raise InputError(
                f"the factor of {prefix!r} is {factor}: it must be finite and not negative"
            )
    longest_first = sorted(factors, key=len, reverse=True)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        check_prefixes(longest_first, names, "parameter")
        return inner.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params, **extra)

        def scaled(path: tuple[Any, ...], leaf: Any) -> Any:
            fitting = (p for p in longest_first if under(path_name(path), p))
            prefix = next(fitting, None)
            return leaf if prefix is None else leaf * factors[prefix]

        return jax.tree.map_with_path(scaled, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
