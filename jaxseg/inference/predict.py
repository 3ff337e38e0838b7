"""From images to predictions: pure functions to compile once and call with any variables."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseg import compiler
from jaxseg.data.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize
from jaxseg.errors import InputError
from jaxseg.tasks.semantic import class_ids
from jaxseg.typing import Array, Variables

Predict = Callable[[Variables, Array], Any]


def _identity(images: Array) -> Array:
    return images


def make_predict(
    model: Any,
    predictions: Callable[[Any], Any] = class_ids,
    *,
    preprocess: Callable[[Array], Array] = _identity,
) -> Predict:
    """Returns a pure function from variables and images to predictions.

    Args:
        model: Anything with `apply(variables, images, train=False) -> Output`, such as `jaxseg.models.unet(...)`.
        predictions: Maps the model's output to predictions, such as `task.predictions` or `tasks.semantic.probabilities`;
            the class of every pixel by default.
        preprocess: Maps the images to the model's input on the device, as in training.

    Returns:
        `predict(variables, images)`: images `[N, H, W, C]`, uint8 or float, to int32 `[N, H, W]` by default; to be wrapped
        in `jaxseg.compiler.jit`, or in `jax.jit`.

    >>> import jax.numpy as jnp
    >>> import jaxseg
    >>> from flax import linen as nn
    >>> from jaxseg.typing import Output
    >>> class Brightness(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(images - 0.5)
    >>> predict = jaxseg.compiler.jit(make_predict(Brightness(), preprocess=lambda x: x.astype(jnp.float32) / 255))
    >>> predict({}, jnp.array([[[[10], [200]]]], jnp.uint8)).tolist()
    [[[0, 1]]]
    """

    def predict(variables: Variables, images: Array) -> Any:
        return predictions(model.apply(variables, preprocess(images), train=False))

    return predict


def predict(
    model: Any,
    variables: Variables,
    images: np.ndarray | Array,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> np.ndarray:
    """Returns the class of every pixel of one image or of a batch.

    Each size of images is compiled once. For many images of many sizes, or other predictions, see `make_predict`.

    Args:
        model: A Linen module for semantic segmentation, such as `jaxseg.create("unet", num_classes=21)`.
        variables: Its variables.
        images: uint8 `[H, W, C]` or `[N, H, W, C]`.
        mean: Mean of each channel in 0..1 that inputs are normalised with; ImageNet's by default.
        std: Standard deviation of each channel in 0..1; ImageNet's by default.

    Returns:
        int32 `[H, W]` or `[N, H, W]`, at the images' size.

    Raises:
        InputError: Images of another dtype or rank.

    >>> import jax
    >>> import jaxseg
    >>> model = jaxseg.create("unet", encoder="resnet18", num_classes=3)
    >>> variables = jaxseg.init(model, jax.random.key(0))
    >>> predict(model, variables, np.zeros((33, 40, 3), np.uint8)).shape
    (33, 40)
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(
            f"images are {images.dtype} {list(images.shape)}: give uint8 [H, W, C] or [N, H, W, C]"
        )
    statistics = (mean or IMAGENET_MEAN, std or IMAGENET_STD)
    batch = images if images.ndim == 4 else images[None]
    # JAX finds the compiled program by the function and its static arguments.
    compiled = compiler.jit(_classes, static_argnums=(0, 1))
    classes = np.asarray(compiled(model, statistics, variables, batch))
    return classes if images.ndim == 4 else classes[0]


def _classes(model: Any, statistics: Any, variables: Variables, images: Array) -> Array:
    return make_predict(model, preprocess=normalize(*statistics))(variables, images)
