"""Normalisation with PyTorch's semantics, over the global batch, in float32 or wider."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.typing import Array


class BatchNorm(nn.Module):
    """Batch normalisation with the statistics of the global batch.

    `y = (x - mean) / sqrt(var + epsilon) * scale + bias`, each channel by itself. In training, mean
    and variance are those of the whole batch over all devices (`jaxseg.collective`), and the
    running ones move towards them; the running variance is the unbiased one, as in PyTorch. Moments
    are computed in float32 or wider, the variance from the deviations (the difference of two large
    squares would cancel).

    A batch of one with a 1x1 map has variance zero: its output is `bias`, and nothing fails.

    Attributes:
        momentum: How much of the running statistics a step keeps (1 - momentum in PyTorch's sense).
        epsilon: Added to the variance.
        dtype: Type of the result; that of the input by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Ioffe and Szegedy, Batch Normalization, 2015, https://arxiv.org/abs/1502.03167

    >>> norm = BatchNorm()
    >>> x = jnp.ones((2, 4, 4, 8))
    >>> variables = norm.init(jax.random.key(0), x, train=False)
    >>> y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    >>> float(updated["batch_stats"]["mean"][0])
    0.10000000149011612
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Normalises `x`, `[..., C]`, over all axes but the last."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)

        result = jnp.dtype(self.dtype or x.dtype)
        wide = np.promote_types(np.float32, x.dtype)
        x = x.astype(wide)
        if train:
            mean, var, count = moments(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self._move(running_mean.value, mean)
                running_var.value = self._move(running_var.value, unbiased)
        else:
            mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        factor = jax.lax.rsqrt(var + self.epsilon) * scale.astype(wide)
        return (affine(x, factor, mean) + per_channel(bias.astype(wide), x.ndim)).astype(result)

    def _move(self, running: Array, new: Array) -> Array:
        new = jax.lax.stop_gradient(new).astype(running.dtype)
        return self.momentum * running + (1.0 - self.momentum) * new


def per_channel(vector: Array, ndim: int) -> Array:
    """`[C]` with leading axes of one, so that nothing depends on implicit rank promotion."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def affine(x: Array, factor: Array, centre: Array) -> Array:
    """`(x - centre) * factor` per channel; subtracting first keeps the digits of a large mean."""
    return (x - per_channel(centre, x.ndim)) * per_channel(factor, x.ndim)


def moments(x: Array) -> tuple[Array, Array, int]:
    """Mean and biased variance of each channel over the global batch, and how many values it has."""
    axes = tuple(range(x.ndim - 1))
    count = collective.psum(x.size // x.shape[-1])
    mean = collective.psum(x.sum(axes)) / count
    var = collective.psum(jnp.square(x - per_channel(mean, x.ndim)).sum(axes)) / count
    return mean, var, count


class GroupNorm(nn.Module):
    """Group normalisation: mean and variance of each image and group of channels.

    Attributes:
        groups: How many groups the channels are cut into, a divisor of their number.
        epsilon: Added to the variance.
        dtype: Type of the result; that of the input by default.
        param_dtype: Type of parameters.

    References:
        Wu and He, Group Normalization, 2018, https://arxiv.org/abs/1803.08494

    >>> y, _ = GroupNorm(2).init_with_output(jax.random.key(0), jnp.arange(8.0).reshape(1, 2, 1, 4))
    >>> [round(v, 2) for v in y[0, 0, 0].tolist()]
    [-1.21, -0.73, -1.21, -0.73]
    """

    groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises `x`, `[N, H, W, C]`."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        result = jnp.dtype(self.dtype or x.dtype)
        wide = np.promote_types(np.float32, x.dtype)
        grouped = x.astype(wide).reshape(*x.shape[:3], self.groups, -1)
        grouped = grouped - grouped.mean((1, 2, 4), keepdims=True)
        var = jnp.square(grouped).mean((1, 2, 4), keepdims=True)
        y = (grouped * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        y = y * per_channel(scale.astype(wide), 4) + per_channel(bias.astype(wide), 4)
        return y.astype(result)
