"""Batch normalization folded into convolutions: the same network with fewer parameters and operations."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxseg.images import channels_of
from jaxseg.nn import BatchNorm
from jaxseg.nn.norm import per_channel
from jaxseg.typing import Array, Variables


def fold_batch_norm(model: nn.Module, variables: Variables) -> dict[str, Any]:
    """Folds batch normalizations into the convolutions before them, for inference.

    With running statistics a normalization is one factor and one offset per channel, so that

        kernel' = kernel * f,  bias' = (bias - mean) * f + offset,  f = scale / sqrt(var + epsilon)

    computes the same map. `jaxseg.nn.ConvNorm`, of which the encoders and decoders of jaxseg are built, leaves out the
    normalization if its variables are folded. Folded variables cannot be trained: their statistics are gone.

    Args:
        model: One of `jaxseg.models`, an encoder or another module of images, whose normalizations tell their epsilon.
        variables: Its variables, `{"params": ..., "batch_stats": ...}`. Normalizations outside of a `ConvNorm` stay as
            they are.

    Returns:
        New variables, in the type of the parameters; the argument is not changed. Logits agree up to rounding, 1e-5 of
        the largest in float32.

    References:
        Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2017, https://arxiv.org/abs/1712.05877, section 3.2

    >>> from jaxseg.nn import ConvNorm
    >>> block, images = ConvNorm(4), jnp.ones((1, 8, 8, 3))
    >>> variables = block.init(jax.random.key(0), images, train=False)
    >>> folded = fold_batch_norm(block, variables)
    >>> jax.tree.map(jnp.shape, folded)
    {'params': {'conv': {'bias': (4,), 'kernel': (3, 3, 3, 4)}}}
    >>> same = block.apply(variables, images, train=False), block.apply(folded, images, train=False)
    >>> bool(jnp.allclose(*same, atol=1e-6))
    True
    """
    params: dict[Any, Any] = flatten_dict(variables["params"])
    statistics: dict[Any, Any] = flatten_dict(variables.get("batch_stats", {}))
    for norm, epsilon in _epsilons(model, variables).items():
        *parents, name = norm
        conv = (*parents, "conv")
        if name != "norm" or (*conv, "kernel") not in params:
            continue
        kernel, mean = params[(*conv, "kernel")], statistics.pop((*norm, "mean"))
        inverse = jax.lax.rsqrt(statistics.pop((*norm, "var")) + epsilon)
        factor = params.pop((*norm, "scale")) * inverse
        bias = (params.get((*conv, "bias"), 0.0) - mean) * factor + params.pop((*norm, "bias"))
        params[(*conv, "kernel")] = (kernel * per_channel(factor, kernel.ndim)).astype(kernel.dtype)
        params[(*conv, "bias")] = bias.astype(kernel.dtype)
    rest = {"batch_stats": unflatten_dict(statistics)} if statistics else {}
    others = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    return others | {"params": unflatten_dict(params)} | rest


def _epsilons(model: nn.Module, variables: Variables) -> dict[tuple[str, ...], float]:
    """Returns the epsilon of each batch normalization that a model calls, by its path."""
    found = {}

    def record(function: Callable[..., Array], args: Any, kwargs: Any, context: Any) -> Array:
        if isinstance(context.module, BatchNorm):
            found[context.module.path] = context.module.epsilon
        return function(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, 64, 64, channels_of(model)), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(model.apply, variables, images)
    return found
