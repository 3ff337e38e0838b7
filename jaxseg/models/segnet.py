"""SegNet on a VGG."""

from typing import Any

import flax.linen as nn

from jaxseg.encoders.contract import layout, types_of
from jaxseg.models.checks import at_least_one
from jaxseg.networks import SegNet


def segnet(
    *, num_classes: int, encoder: nn.Module, dtype: Any = None, param_dtype: Any = None
) -> SegNet:
    """SegNet: a VGG and its mirror image, which unpools to the places of the encoder's maxima.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A VGG of full depth and stride; the paper's is `encoders.vgg16_bn()`.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder has no places to unpool to.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = segnet(num_classes=11, encoder=encoders.vgg16_bn())
    >>> images = jax.ShapeDtypeStruct((1, 360, 480, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))  # 29.45 million in the paper
    29449355
    """
    layout(encoder)
    return SegNet(encoder, at_least_one(num_classes), **types_of(encoder, dtype, param_dtype))
