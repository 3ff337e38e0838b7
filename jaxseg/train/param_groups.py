"""Parts of a model that train at another learning rate, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxseg.errors import InputError
from jaxseg.tree_paths import check_prefixes, path_name, under, under_any


def scale_learning_rates(
    optimizer: optax.GradientTransformation, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Trains parts of a model at a multiple of the learning rate, such as a pretrained encoder at a tenth.

    It scales the updates of the optimizer, weight decay included, like the parameter groups of torch.

    Args:
        optimizer: Any optax transformation, clipping and schedule included.
        factors: Factors by prefixes of whole names of paths, such as `{"encoder": 0.1, "encoder/stem": 0.01}`. The longest
            matching prefix applies; parameters without one keep the learning rate.

    Returns:
        An optax transformation with the state of the optimizer.

    Raises:
        InputError: A factor is negative or not finite; when initialized, if a prefix matches no parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = scale_learning_rates(optax.sgd(1.0), {"encoder": 0.25})
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
        check_prefixes(longest_first, _names(params), "parameter")
        return inner.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params, **extra)

        def scale(path: tuple[Any, ...], leaf: Any) -> Any:
            matching = (p for p in longest_first if under(path_name(path), p))
            prefix = next(matching, None)
            return leaf if prefix is None else leaf * factors[prefix]

        return jax.tree.map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


class FreezingOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer that does not change some of the parameters.

    Attributes:
        trainable: A function from parameters to a pytree of booleans, true for those that are trained. A train step computes
            no gradient of the others.
    """

    trainable: Callable[[Any], Any]


def freeze(optimizer: optax.GradientTransformation, prefixes: Sequence[str]) -> FreezingOptimizer:
    """Freezes the parameters under some prefixes of their paths.

    Args:
        optimizer: The optimizer of all other parameters; a global norm is that of their gradients.
        prefixes: Prefixes of whole names, such as `("encoder",)` or `("encoder/stem", "decoder")`.

    Returns:
        An optimizer without state for frozen parameters. The running statistics of BatchNorm are no parameters; see
        `make_train_step(..., frozen_statistics=)`.

    Raises:
        InputError: `prefixes` is a string; when initialized, if a prefix matches no parameter.

    >>> import jax.numpy as jnp
    >>> params = {"encoder": jnp.ones(2), "head": jnp.ones(2)}
    >>> optimizer = freeze(optax.sgd(1.0), ("encoder",))
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> updates["encoder"].tolist(), updates["head"].tolist()
    ([0.0, 0.0], [-1.0, -1.0])
    """
    if isinstance(prefixes, str):
        raise InputError(f"prefixes are a tuple of names: use ({prefixes!r},), not {prefixes!r}")

    def trainable(params):
        names = _names(params)
        check_prefixes(prefixes, names, "parameter")
        return jax.tree.unflatten(
            jax.tree.structure(params), [not under_any(name, prefixes) for name in names]
        )

    def labels(params):
        return jax.tree.map(lambda trains: "train" if trains else "freeze", trainable(params))

    inner = optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)
    freezing = FreezingOptimizer(inner.init, inner.update)
    freezing.trainable = trainable
    return freezing


def stop_frozen_gradients(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """Returns the parameters, with `lax.stop_gradient` for those that the optimizer freezes."""
    if not isinstance(optimizer, FreezingOptimizer):
        return params
    return jax.tree.map(
        lambda trains, leaf: leaf if trains else jax.lax.stop_gradient(leaf),
        optimizer.trainable(params),
        params,
    )


def _names(params: Any) -> list[str]:
    return [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
