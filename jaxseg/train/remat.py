"""Rematerialization: what the forward pass saves for the backward pass, and what is computed again."""

from typing import Any

_SAVED = (
    "conv_general_dilated",
    "dot_general",
    "reduce_sum",
    "reduce",
    "name",  # the result of `jaxseg.nn.conv`, whose convolution is inside of a custom gradient
    "psum",
    "psum_invariant",
    "all_gather",
    "sharding_constraint",
)


def save_convolutions(primitive: Any, *args: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint` that saves convolutions, matrix products and sums, and recomputes everything else.

    Normalization and ReLU between two convolutions read and write several maps of the same size with little arithmetic, so
    recomputing them saves much memory for little time. Sums are small, and on several devices they are communicated.

    References:
        Chen, Xu, Zhang and Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016,
        https://arxiv.org/abs/1604.06174; https://docs.jax.dev/en/latest/gradient-checkpointing.html

    >>> import jax, jax.numpy as jnp
    >>> f = jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(w @ x)).sum(), policy=save_convolutions)
    >>> float(jax.grad(f, argnums=1)(jnp.ones((1, 1)), jnp.zeros(1))[0])
    1.0
    """
    return primitive.name in _SAVED
