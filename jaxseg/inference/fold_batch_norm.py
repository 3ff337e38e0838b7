"""Batch normalization folded into convolutions: the same network with fewer parameters and operations."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.typing import Array, Variables


def fold_batch_norm(variables: Variables, *, epsilon: float = 1e-5) -> dict[str, Any]:
    """Folds batch normalizations into the convolutions before them, for inference.

    With running statistics a normalization is one factor and one offset per channel, so that

        kernel' = kernel * f,  bias' = (bias - mean) * f + offset,  f = scale / sqrt(var + epsilon)

    computes the same map. `jaxseg.nn.ConvNorm`, of which the encoders and decoders of jaxseg are built, leaves out the
    normalization if its variables are folded. Folded variables cannot be trained: their statistics are gone.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of a model. Normalizations outside of a `ConvNorm` stay as they
            are.
        epsilon: Added to the variance by the normalizations.

    Returns:
        New variables, in the type of the parameters; the argument is not changed. Logits agree up to rounding, 1e-5 of
        the largest in float32.

    References:
        Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2017, https://arxiv.org/abs/1712.05877, section 3.2

    >>> from jaxseg.nn import ConvNorm
    >>> block, images = ConvNorm(4), jnp.ones((1, 8, 8, 3))
    >>> variables = block.init(jax.random.key(0), images, train=False)
    >>> folded = fold_batch_norm(variables)
    >>> jax.tree.map(jnp.shape, folded)
    {'params': {'conv': {'bias': (4,), 'kernel': (3, 3, 3, 4)}}}
    >>> same = block.apply(variables, images, train=False), block.apply(folded, images, train=False)
    >>> bool(jnp.allclose(*same, atol=1e-6))
    True
    """
    statistics = variables.get("batch_stats", {})
    params, remaining = _fold_tree(variables["params"], statistics, epsilon)
    others = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    return others | {"params": params} | ({"batch_stats": remaining} if remaining else {})


def _fold_tree(params: Any, statistics: Any, epsilon: float) -> tuple[Any, Any]:
    """Returns folded parameters, and the statistics that are not folded."""
    if not isinstance(params, Mapping):
        return params, statistics
    if {"conv", "norm"} <= set(params) and {"mean", "var"} <= set(statistics.get("norm", {})):
        others = {name: tree for name, tree in params.items() if name not in ("conv", "norm")}
        conv = _fold(params["conv"], params["norm"], statistics["norm"], epsilon)
        return others | {"conv": conv}, {}
    branches = {
        name: _fold_tree(tree, statistics.get(name, {}), epsilon) for name, tree in params.items()
    }
    rest = {name: tree for name, tree in statistics.items() if name not in params}
    return (
        {name: tree for name, (tree, _) in branches.items()},
        rest | {name: remaining for name, (_, remaining) in branches.items() if remaining},
    )


def _fold(
    conv: Mapping[str, Array],
    norm: Mapping[str, Array],
    statistics: Mapping[str, Array],
    epsilon: float,
) -> dict[str, Array]:
    kernel, mean = conv["kernel"], statistics["mean"]
    factor = norm["scale"] * jax.lax.rsqrt(statistics["var"] + epsilon)
    bias = conv.get("bias", jnp.zeros_like(mean))
    per_channel = factor.reshape((1,) * (kernel.ndim - 1) + factor.shape)
    return {
        "kernel": (kernel * per_channel).astype(kernel.dtype),
        "bias": ((bias - mean) * factor + norm["bias"]).astype(kernel.dtype),
    }
