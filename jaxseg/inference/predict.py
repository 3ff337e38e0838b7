"""From images to class ids or probabilities: pure functions to compile once and call with any variables."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.typing import Array, Variables

Predict = Callable[[Variables, Array], Array]


def _identity(images: Array) -> Array:
    return images


def make_predict(model: Any, *, preprocess: Callable[[Array], Array] = _identity) -> Predict:
    """Makes a pure function from variables and images to the class of every pixel.

    The class is `argmax_k logits[..., k]`; a model with one logit says 1 where it is positive, that is where its
    probability exceeds 0.5. Logits are at the images' size, and so are the classes.

    Args:
        model: A Linen module that returns an `Output`, such as `jaxseg.models.unet(...)`.
        preprocess: Maps the images on the device to what the model reads, as in training.

    Returns:
        `predict(variables, images)`: images `[N, H, W, C]`, uint8 or float, to int32 `[N, H, W]`; to be wrapped in
        `jaxseg.compiler.jit`, or a `jax.jit` of your own.

    >>> import jaxseg
    >>> from flax import linen as nn
    >>> from jaxseg.typing import Output
    >>> class Brightness(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(logits=images - 0.5)
    >>> predict = jaxseg.compiler.jit(make_predict(Brightness(), preprocess=lambda x: x.astype(jnp.float32) / 255))
    >>> predict({}, jnp.array([[[[10], [200]]]], jnp.uint8)).tolist()
    [[[0, 1]]]
    """

    def predict(variables: Variables, images: Array) -> Array:
        logits = model.apply(variables, preprocess(images), train=False).logits
        if logits.shape[-1] == 1:
            return (logits[..., 0] > 0).astype(jnp.int32)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return predict


def make_probabilities(model: Any, *, preprocess: Callable[[Array], Array] = _identity) -> Predict:
    """Makes a pure function from variables and images to the probability of every class at every pixel.

    Args:
        model: A Linen module that returns an `Output`.
        preprocess: Maps the images on the device to what the model reads, as in training.

    Returns:
        `probabilities(variables, images)`: images `[N, H, W, C]`, uint8 or float, to float `[N, H, W, K]`, the softmax
        over K; for `K = 1` the sigmoid, the probability of class 1.

    >>> from flax import linen as nn
    >>> from jaxseg.typing import Output
    >>> class Same(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(logits=images)
    >>> make_probabilities(Same())({}, jnp.zeros((1, 1, 1, 4))).tolist()
    [[[[0.25, 0.25, 0.25, 0.25]]]]
    """

    def probabilities(variables: Variables, images: Array) -> Array:
        logits = model.apply(variables, preprocess(images), train=False).logits
        return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits, axis=-1)

    return probabilities
