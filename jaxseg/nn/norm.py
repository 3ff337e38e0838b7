"""Normalization layers with PyTorch's semantics, computed in float32 or wider.

All of them are called as `norm(x, train=train, activation=activation)`, so that `ConvNorm` takes any of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.nn.cpu.channel_sums import channel_sums
from jaxseg.nn.cpu.platform import is_disabled
from jaxseg.typing import Array

Activation = Callable[[Array], Array]


class BatchNorm(nn.Module):
    """Batch normalization with the statistics of the global batch.

    `y = (x - mean) / sqrt(var + epsilon) * scale + bias` for each channel. In training, mean and variance are those of
    the batch over all devices (`jaxseg.collective`), and the running statistics move towards them; the running variance
    is the unbiased one, as in PyTorch. Moments are computed in float32 or wider, and the variance from deviations,
    because the difference of two large squares would cancel.

    A batch of one with a 1x1 map has variance zero; its output is `bias`.

    Attributes:
        momentum: Weight of the old running statistics in an update (1 - momentum in PyTorch's sense).
        epsilon: Added to the variance.
        dtype: Type of the result; by default that of the input.
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
    def __call__(self, x: Array, *, train: bool, activation: Activation | None = None) -> Array:
        """Normalizes `[..., C]` over all axes but the last, then applies an elementwise activation."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)

        result = jnp.dtype(self.dtype or x.dtype)
        wide = np.promote_types(np.float32, x.dtype)
        scale, bias = scale.astype(wide), bias.astype(wide)
        if train:
            y, mean, var = normalize(x, scale, bias, self.epsilon, activation)
            count = collective.psum(x.size // x.shape[-1])
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self._update(running_mean.value, mean)
                running_var.value = self._update(running_var.value, unbiased)
            return y.astype(result)
        mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        y = affine(x.astype(wide), factor, mean) + per_channel(bias, x.ndim)
        return _activate(y, activation).astype(result)

    def _update(self, running: Array, new: Array) -> Array:
        new = jax.lax.stop_gradient(new).astype(running.dtype)
        return self.momentum * running + (1.0 - self.momentum) * new


class GroupNorm(nn.Module):
    """Group normalization: mean and variance of each image and group of channels.

    Attributes:
        groups: Number of groups of consecutive channels, a divisor of the number of channels.
        epsilon: Added to the variance.
        dtype: Type of the result; by default that of the input.
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
    def __call__(
        self, x: Array, *, train: bool = False, activation: Activation | None = None
    ) -> Array:
        """Normalizes `[N, H, W, C]`, then applies an elementwise activation; `train` changes nothing."""
        del train
        wide = np.promote_types(np.float32, x.dtype)
        groups = x.astype(wide).reshape(*x.shape[:3], self.groups, -1)
        groups = groups - groups.mean((1, 2, 4), keepdims=True)
        var = jnp.square(groups).mean((1, 2, 4), keepdims=True)
        y = (groups * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        y = _activate(_scale_and_bias(self, y, self.param_dtype), activation)
        return y.astype(self.dtype or x.dtype)


class LayerNorm(nn.Module):
    """Layer normalization of each pixel (or token): mean and variance over its channels.

    Equal to `torch.nn.LayerNorm(C)` on channels-last maps, and to timm's `LayerNorm2d` on maps with channels first.

    Attributes:
        epsilon: Added to the variance; ConvNeXt and transformers usually have 1e-6.
        dtype: Type of the result; by default that of the input.
        param_dtype: Type of parameters.

    References:
        Ba, Kiros and Hinton, Layer Normalization, 2016, https://arxiv.org/abs/1607.06450

    >>> y, _ = LayerNorm().init_with_output(jax.random.key(0), jnp.arange(6.0).reshape(1, 1, 2, 3))
    >>> [round(v, 2) for v in y[0, 0, 0].tolist()]
    [-1.22, 0.0, 1.22]
    """

    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, activation: Activation | None = None
    ) -> Array:
        """Normalizes `[..., C]` over the last axis, then applies an elementwise activation; `train` changes nothing."""
        del train
        deviation = x.astype(np.promote_types(np.float32, x.dtype))
        deviation = deviation - deviation.mean(-1, keepdims=True)
        var = jnp.square(deviation).mean(-1, keepdims=True)
        y = deviation * jax.lax.rsqrt(var + self.epsilon)
        y = _activate(_scale_and_bias(self, y, self.param_dtype), activation)
        return y.astype(self.dtype or x.dtype)


def _scale_and_bias(module: nn.Module, y: Array, param_dtype: Any) -> Array:
    """`y * scale + bias` with parameters of `module`, in the type of `y`."""
    shape = (y.shape[-1],)
    scale = module.param("scale", nn.initializers.ones, shape, param_dtype)
    bias = module.param("bias", nn.initializers.zeros, shape, param_dtype)
    return y * per_channel(scale.astype(y.dtype), y.ndim) + per_channel(
        bias.astype(y.dtype), y.ndim
    )


def _activate(y: Array, activation: Activation | None) -> Array:
    return y if activation is None else activation(y)


def per_channel(vector: Array, ndim: int) -> Array:
    """Returns `[C]` as `[1, ..., 1, C]` of `ndim` axes, to combine with maps without implicit rank promotion."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def affine(x: Array, factor: Array, center: Array) -> Array:
    """Returns `(x - center) * factor` per channel; subtracting first keeps the digits of a large mean."""
    return (x - per_channel(center, x.ndim)) * per_channel(factor, x.ndim)


def normalize(
    x: Array, scale: Array, bias: Array, epsilon: float, activation: Activation | None = None
) -> tuple[Array, Array, Array]:
    """Normalizes by the moments of the global batch, then applies an elementwise activation.

    `y = activation((x - mean) / sqrt(var + epsilon) * scale + bias)`. Its gradient rule saves the input alone and
    computes the rest again; it reads the maps twice, once for the sums of the cotangent and of its product with the
    deviations, once for the result.

    Args:
        x: `[..., C]`, floating point.
        scale: `[C]` in float32 or wider, as are all results.
        bias: `[C]`.
        epsilon: Added to the variance.
        activation: An elementwise function, or None.

    Returns:
        The result `[..., C]`, and the mean and biased variance `[C]` for running statistics; no gradient goes through
        the latter two.

    >>> y, mean, var = normalize(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1), 0.0)
    >>> y.ravel().tolist(), mean.tolist(), var.tolist()
    ([-1.0, 1.0], [2.0], [1.0])
    """
    if is_disabled():
        return _forward(x, scale, bias, epsilon, activation)[0]
    return _normalize(x, scale, bias, epsilon, activation)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(
    x: Array, scale: Array, bias: Array, epsilon: float, activation: Activation | None
) -> Any:
    return _forward(x, scale, bias, epsilon, activation)[0]


@partial(jax.jit, static_argnums=(3, 4))
def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, activation: Activation | None
) -> tuple[Any, Any]:
    wide = x.astype(scale.dtype)
    mean, var = moments(wide)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = affine(wide, inverse * scale, mean) + per_channel(bias, x.ndim)
    return (_activate(y, activation), mean, var), (x, scale, bias, mean, inverse)


@partial(jax.jit, static_argnums=(0, 1))
def _backward(
    epsilon: float, activation: Activation | None, saved: Any, cotangents: Any
) -> tuple[Array, ...]:
    x, scale, bias, mean, inverse = saved
    gradient = cotangents[0]
    factor = inverse * scale
    deviation = x.astype(scale.dtype) - per_channel(mean, x.ndim)
    if activation is not None:
        y = deviation * per_channel(factor, x.ndim) + per_channel(bias, x.ndim)
        (gradient,) = jax.vjp(activation, y)[1](gradient)
    of_bias, of_product = channel_sums(gradient), channel_sums(gradient * deviation)
    count = collective.psum(x.size // x.shape[-1])
    slope = collective.psum(of_product) * jnp.square(inverse) / count
    center = collective.psum(of_bias) / count
    of_x = gradient - per_channel(center, x.ndim) - deviation * per_channel(slope, x.ndim)
    of_x = of_x * per_channel(factor, x.ndim)
    return of_x.astype(x.dtype), of_product * inverse, of_bias


_normalize.defvjp(_forward, _backward)


def moments(x: Array) -> tuple[Array, Array]:
    """Returns mean and biased variance of the global batch over all axes but the last, `[..., C]` to `[C]` each.

    Each device computes those of its part, and both are exchanged at once. Deviations from the global mean would need
    two exchanges, one after the other, and squares without a mean would cancel where the mean is large.

    >>> [x.tolist() for x in moments(jnp.array([[1.0], [3.0]]))]
    [[2.0], [1.0]]

    References:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983,
        https://doi.org/10.1080/00031305.1983.10483115, for parts of equal size.
    """
    count = collective.num_shards(len(x))
    if count == 1:
        local = _local_moments(x)[None]
    else:
        local = jax.vmap(_local_moments)(x.reshape(count, -1, *x.shape[1:]))
    of_parts = collective.gather(local)  # [parts, 2, C]
    mean = of_parts[:, 0].mean(0)
    return mean, (of_parts[:, 1] + jnp.square(of_parts[:, 0] - mean[None])).mean(0)


def _local_moments(x: Array) -> Array:
    count = x.size // x.shape[-1]
    mean = channel_sums(x) / count
    var = channel_sums(jnp.square(x - per_channel(mean, x.ndim))) / count
    return jnp.stack([mean, var])
