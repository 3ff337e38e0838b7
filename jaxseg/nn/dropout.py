"""Dropout and stochastic depth, whose masks depend on an image's index in the global batch alone.

Each image has its own key, so that a step drops the same values on one device, on several, under every strategy, and in one or
several micro-batches.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key


class Dropout(nn.Module):
    """Sets values to zero at random in training, and divides the others by the probability of keeping them.

    The key is that of `rngs={"dropout": key}`.

    Attributes:
        rate: Probability of dropping a value, from 0 up to but not including 1.
        broadcast_dims: Axes along which a mask is constant; `(1, 2)` drops whole channels of `[N, H, W, C]`, as
            `torch.nn.Dropout2d` does.

    Raises:
        InputError: The rate is out of range.

    References:
        Srivastava et al., Dropout, 2014, https://jmlr.org/papers/v15/srivastava14a.html

    >>> y = Dropout(0.5).apply({}, jnp.ones((1, 4, 4, 8)), train=True, rngs={"dropout": jax.random.key(0)})
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    """

    rate: float
    broadcast_dims: tuple[int, ...] = ()

    def __post_init__(self):
        _check_rate(self.rate)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[N, ...]` to the same shape and type."""
        if not train or self.rate == 0:
            return x
        shape = [1 if axis in self.broadcast_dims else size for axis, size in enumerate(x.shape)]
        return _drop(x, self.rate, self.make_rng("dropout"), shape)


class DropPath(nn.Module):
    """Stochastic depth: sets a residual branch to zero for some images of a batch in training.

    The branches that stay are divided by the probability of staying, so that the mean is unchanged. The key is that of
    `rngs={"dropout": key}`.

    Attributes:
        rate: Probability of dropping an image's branch, from 0 up to but not including 1.

    Raises:
        InputError: The rate is out of range.

    References:
        Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382

    >>> y = DropPath(0.5).apply({}, jnp.ones((8, 2, 2, 3)), train=True, rngs={"dropout": jax.random.key(0)})
    >>> sorted(set(y.mean((1, 2, 3)).tolist()))
    [0.0, 2.0]
    """

    rate: float

    def __post_init__(self):
        _check_rate(self.rate)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[N, ...]` to the same shape and type."""
        if not train or self.rate == 0:
            return x
        return _drop(x, self.rate, self.make_rng("dropout"), [len(x), *[1] * (x.ndim - 1)])


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise InputError(f"rate={rate}: a rate of dropout lies in [0, 1)")


def _drop(x: Array, rate: float, key: Key, shape: Any) -> Array:
    """`x / (1 - rate)` where a mask of `shape` that broadcasts to `x` keeps it, zero elsewhere."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(collective.image_index(len(x)))
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
