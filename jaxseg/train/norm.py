"""The norm of all numbers of a tree, such as a gradient's, and gradients no longer than a norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxseg.nn.platform import by_platform
from jaxseg.typing import Array

_MOST = 8  # columns of a product: 16 take as long, 32 take 1.6 times as long


def global_norm(tree: Any) -> Array:
    """The square root of `square_sum`: the norm of all arrays as one vector.

    >>> float(global_norm({"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}))
    5.0
    """
    return jnp.sqrt(square_sum(tree))


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """Scales a gradient whose `global_norm` is larger down to that norm, as optax's function of that name does.

    By one factor for all, which XLA on a CPU takes into the optimizer's kernels, where optax divides first and so writes
    the clipped gradient to memory; and the norm is the one that a train step logs, not computed again.

    Args:
        most: The largest norm.

    >>> clip = clip_by_global_norm(1.0)
    >>> clipped, _ = clip.update({"w": jnp.array([3.0, 4.0])}, clip.init({"w": jnp.zeros(2)}))
    >>> [round(float(x), 4) for x in clipped["w"]]
    [0.6, 0.8]

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2012,
        https://arxiv.org/abs/1211.5063
    """

    def clip(gradient: Any, params: Any) -> Any:
        norm = global_norm(gradient)
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda array: array * factor.astype(array.dtype), gradient)

    return optax.stateless(clip)


def square_sum(tree: Any) -> Array:
    """The sum of the squares of all numbers, a scalar in float32 or wider; not to be differentiated through.

    XLA on a CPU compiles three kernels for each shape of a sum and writes the squares to memory first: U-Net's gradient
    takes it 1.2 s of processor time to compile and 43 ms to run. Each array as a few columns times themselves takes 0.2 s
    and 13 ms, since products are compiled already, and loses less to rounding; vectors, of which a network has four for
    each normalisation, are joined.

    Args:
        tree: Floating-point arrays.

    >>> float(square_sum([jnp.arange(4.0), jnp.ones((2, 3))]))
    20.0
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = np.result_type(np.float32, *(leaf.dtype for leaf in leaves))
    if not leaves:
        return jnp.zeros((), dtype)
    return by_platform([leaf.astype(dtype) for leaf in leaves], cpu=_products, plain=_squares)


def _squares(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.square(leaf).sum() for leaf in leaves]).sum()


def _products(leaves: list[Array]) -> Array:
    vectors = [leaf.ravel() for leaf in leaves if leaf.ndim < 2]
    kernels = [leaf for leaf in leaves if leaf.ndim >= 2]
    joined = [jnp.square(jnp.concatenate(vectors)).sum()] if vectors else []
    return jnp.stack([*joined, *map(_by_product, kernels)]).sum()


def _by_product(x: Array) -> Array:
    columns = next(count for count in range(_MOST, 0, -1) if x.size % count == 0)
    x = x.reshape(x.size // columns, columns)
    return jnp.trace(lax.dot_general(x, x, (((0,), (0,)), ((), ()))))
