"""Batch normalisation folded into convolutions: the same network with fewer numbers and fewer operations."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.typing import Array, Variables


def fold_batch_norm(variables: Variables, *, epsilon: float = 1e-5) -> dict[str, Any]:
    """Variables of the same model whose convolutions do what the normalisations behind them did.

    With running statistics a normalisation is one factor and one shift a channel, so that

        kernel' = kernel * f,  bias' = (bias - mean) * f + shift,  f = scale / sqrt(var + epsilon)

    gives the same map. `jaxseg.nn.ConvNorm`, of which every encoder and decoder here is built, sees by its variables
    that they are folded. Such variables are for inference: there are no statistics left to train with.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of a model. Normalisations that do not stand in a `ConvNorm`,
            such as those of a network of your own, stay as they are.
        epsilon: What the normalisations add to the variance.

    Returns:
        New variables, in the type of the parameters; those given are not changed. Logits agree but for rounding, 1e-5
        of the largest in float32.

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
    params, kept = _folded(variables["params"], statistics, epsilon)
    others = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    return others | {"params": params} | ({"batch_stats": kept} if kept else {})


def _folded(params: Any, statistics: Any, epsilon: float) -> tuple[Any, Any]:
    """A branch of the parameters, and of the statistics what is left."""
    if not isinstance(params, Mapping):
        return params, statistics
    if {"conv", "norm"} <= set(params) and {"mean", "var"} <= set(statistics.get("norm", {})):
        others = {name: tree for name, tree in params.items() if name not in ("conv", "norm")}
        convolution = _fold(params["conv"], params["norm"], statistics["norm"], epsilon)
        return others | {"conv": convolution}, {}
    branches = {
        name: _folded(tree, statistics.get(name, {}), epsilon) for name, tree in params.items()
    }
    rest = {name: tree for name, tree in statistics.items() if name not in params}
    return (
        {name: tree for name, (tree, _) in branches.items()},
        rest | {name: kept for name, (_, kept) in branches.items() if kept},
    )


def _fold(
    convolution: Mapping[str, Array],
    norm: Mapping[str, Array],
    statistics: Mapping[str, Array],
    epsilon: float,
) -> dict[str, Array]:
    kernel, mean = convolution["kernel"], statistics["mean"]
    factor = norm["scale"] * jax.lax.rsqrt(statistics["var"] + epsilon)
    bias = convolution.get("bias", jnp.zeros_like(mean))
    per_channel = factor.reshape((1,) * (kernel.ndim - 1) + factor.shape)
    return {
        "kernel": (kernel * per_channel).astype(kernel.dtype),
        "bias": ((bias - mean) * factor + norm["bias"]).astype(kernel.dtype),
    }
