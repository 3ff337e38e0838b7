"""FCN-32s, FCN-16s and FCN-8s on any encoder."""

from typing import Any

import flax.linen as nn

from jaxseg.decoders import FCN
from jaxseg.encoders.contract import layout, types_of
from jaxseg.models.checks import at_least_one, image_head
from jaxseg.models.model import SegmentationModel


def fcn_32s(
    *,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN-32s: scores of the feature with stride 32, upsampled bilinearly.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Encoder whose last feature has stride 32.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder's strides do not fit.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = fcn_32s(num_classes=21, encoder=encoders.resnet18())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    11187285
    """
    return _fcn(32, num_classes, encoder, image_labels, dtype, param_dtype)


def fcn_16s(
    *,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN-16s: scores of the features with strides 32 and 16, summed.

    Arguments as in `fcn_32s`.

    >>> from jaxseg import encoders
    >>> fcn_16s(num_classes=2, encoder=encoders.resnet18()).decoder.used
    (16, 32)
    """
    return _fcn(16, num_classes, encoder, image_labels, dtype, param_dtype)


def fcn_8s(
    *,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN-8s: scores of the features with strides 32, 16, 8, summed.

    Arguments as in `fcn_32s`.

    >>> from jaxseg import encoders
    >>> fcn_8s(num_classes=2, encoder=encoders.resnet18()).decoder.used
    (8, 16, 32)
    """
    return _fcn(8, num_classes, encoder, image_labels, dtype, param_dtype)


def _fcn(
    stride: int,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int,
    dtype: Any,
    param_dtype: Any,
) -> SegmentationModel:
    types = types_of(encoder, dtype, param_dtype)
    strides, _ = layout(encoder)
    decoder = FCN(at_least_one(num_classes), stride, strides, **types)
    return SegmentationModel(encoder, decoder, None, image_head=image_head(image_labels, types))
