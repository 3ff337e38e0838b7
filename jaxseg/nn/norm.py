"""Normalisation with PyTorch's semantics, over the global batch, in float32 or wider."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.nn.platform import by_platform
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
    def __call__(self, x: Array, *, train: bool, relu: bool = False) -> Array:
        """Normalises `x`, `[..., C]`, over all axes but the last; a ReLU may follow at once."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)

        result = jnp.dtype(self.dtype or x.dtype)
        wide = np.promote_types(np.float32, x.dtype)
        scale, bias = scale.astype(wide), bias.astype(wide)
        if train:
            normalized: Any = normalize(x, scale, bias, self.epsilon, relu)
            y, mean, var = normalized
            count = collective.psum(x.size // x.shape[-1])
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self._move(running_mean.value, mean)
                running_var.value = self._move(running_var.value, unbiased)
            return y.astype(result)
        mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        y = affine(x.astype(wide), factor, mean) + per_channel(bias, x.ndim)
        return (nn.relu(y) if relu else y).astype(result)

    def _move(self, running: Array, new: Array) -> Array:
        new = jax.lax.stop_gradient(new).astype(running.dtype)
        return self.momentum * running + (1.0 - self.momentum) * new


def per_channel(vector: Array, ndim: int) -> Array:
    """`[C]` with leading axes of one, so that nothing depends on implicit rank promotion."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def affine(x: Array, factor: Array, centre: Array) -> Array:
    """`(x - centre) * factor` per channel; subtracting first keeps the digits of a large mean."""
    return (x - per_channel(centre, x.ndim)) * per_channel(factor, x.ndim)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: Array, scale: Array, bias: Array, epsilon: float, relu: bool
) -> tuple[Array, Array, Array]:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` by the moments of the global batch, perhaps with a ReLU.

    Its own gradient keeps the input alone, not also what the ReLU lets through, and reads the maps twice: once for the
    sums of the cotangent and of its product with the deviations, once for the result.

    Args:
        x: `[..., C]`, floating point.
        scale: `[C]` in float32 or wider, as all that follows.
        bias: `[C]`.
        epsilon: Added to the variance.
        relu: Whether negative results become zero.

    Returns:
        The result `[..., C]`, and the mean and biased variance `[C]`, for running statistics: no gradient goes through
        these two.
    """
    return _forward(x, scale, bias, epsilon, relu)[0]


@partial(jax.jit, static_argnums=(3, 4))
def _forward(x: Array, scale: Array, bias: Array, epsilon: float, relu: bool) -> tuple[Any, Any]:
    wide = x.astype(scale.dtype)
    mean, var = moments(wide)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = affine(wide, inverse * scale, mean) + per_channel(bias, x.ndim)
    return (nn.relu(y) if relu else y, mean, var), (x, scale, bias, mean, inverse)


@partial(jax.jit, static_argnums=(0, 1))
def _backward(epsilon: float, relu: bool, saved: Any, cotangents: Any) -> tuple[Array, ...]:
    x, scale, bias, mean, inverse = saved
    gradient = cotangents[0]
    factor = inverse * scale
    deviation = x.astype(scale.dtype) - per_channel(mean, x.ndim)
    if relu:
        y = deviation * per_channel(factor, x.ndim) + per_channel(bias, x.ndim)
        gradient = jnp.where(y > 0, gradient, 0)
    of_bias, of_product = sum_pixels(gradient), sum_pixels(gradient * deviation)
    count = collective.psum(x.size // x.shape[-1])
    slope = collective.psum(of_product) * jnp.square(inverse) / count
    centre = collective.psum(of_bias) / count
    of_x = gradient - per_channel(centre, x.ndim) - deviation * per_channel(slope, x.ndim)
    of_x = of_x * per_channel(factor, x.ndim)
    return of_x.astype(x.dtype), of_product * inverse, of_bias


normalize.defvjp(_forward, _backward)


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of the global batch over all axes but the last, `[..., C]` to `[C]` each.

    Devices take those of their own parts and tell each other both at once. Deviations from the mean of all would be two
    exchanges, one after the other; squares without a mean would cancel where it is large.

    >>> [x.tolist() for x in moments(jnp.array([[1.0], [3.0]]))]
    [[2.0], [1.0]]

    References:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983,
        https://doi.org/10.1080/00031305.1983.10483115, for parts of one size.
    """
    count = collective.parts(len(x))
    if count == 1:
        own = _own_moments(x)[None]
    else:
        own = jax.vmap(_own_moments)(x.reshape(count, -1, *x.shape[1:]))
    of_parts = collective.gather(own)  # [parts, 2, C]
    mean = of_parts[:, 0].mean(0)
    return mean, (of_parts[:, 1] + jnp.square(of_parts[:, 0] - mean[None])).mean(0)


def _own_moments(x: Array) -> Array:
    count = x.size // x.shape[-1]
    mean = sum_pixels(x) / count
    var = sum_pixels(jnp.square(x - per_channel(mean, x.ndim))) / count
    return jnp.stack([mean, var])


def sum_pixels(x: Array) -> Array:
    """The sum over all axes but the last; not to be differentiated through.

    XLA on a CPU turns a long sum into windows of 16, without vector instructions: 4 x 128 x 128 x 64 numbers take 4.5 ms
    of processor time (jax 0.10). Adding the second half to the first until little is left takes 0.8 ms, and as a
    pairwise sum loses a tenth of the digits.

    >>> sum_pixels(jnp.ones((2, 3, 5, 4))).tolist()
    [30.0, 30.0, 30.0, 30.0]
    """
    return by_platform(x, cpu=_sum_halves, plain=lambda x: x.sum(tuple(range(x.ndim - 1))))


def _sum_halves(x: Array) -> Array:
    x = x.reshape(x.shape[0], -1, x.shape[-1])  # images stay apart: devices may have their own
    odd = []
    while x.shape[1] > 16:
        half = x.shape[1] // 2
        odd += [x[:, 2 * half]] if x.shape[1] % 2 else []
        x = x[:, :half] + x[:, half : 2 * half]
    return sum([rest.sum(0) for rest in odd], x.sum((0, 1)))


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
