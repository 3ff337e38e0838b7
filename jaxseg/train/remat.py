"""What a backward pass finds in memory and what it computes once more."""

from typing import Any

_KEPT = (
    "conv_general_dilated",
    "dot_general",
    "reduce_sum",
    "reduce",
    "name",  # of what `jaxseg.nn.convolution` gives, a call with a gradient of its own
    "psum",
    "psum_invariant",
    "all_gather",
    "sharding_constraint",
)


def keep_products(primitive: Any, *args: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps what convolutions, matrix products and sums give, and computes the rest again.

    Between two convolutions lie normalisation and ReLU, which read and write several maps of the same size and cost next
    to no arithmetic; sums are small, and on several devices they are exchanges. So memory falls by what normalisation
    and ReLU would keep, and no convolution runs a third time.

    References:
        Chen, Xu, Zhang and Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016,
        https://arxiv.org/abs/1604.06174; https://docs.jax.dev/en/latest/gradient-checkpointing.html

    >>> import jax, jax.numpy as jnp
    >>> f = jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(w @ x)).sum(), policy=keep_products)
    >>> float(jax.grad(f, argnums=1)(jnp.ones((1, 1)), jnp.zeros(1))[0])
    1.0
    """
    return primitive.name in _KEPT
