"""FCN on a dilated encoder, as torchvision and mmsegmentation have it."""

from functools import partial
from typing import Any

import flax.linen as nn

from jaxseg.decoders import FCNHead
from jaxseg.encoders.contract import layout, types_of
from jaxseg.errors import InputError
from jaxseg.models.checks import at_least_one, image_head
from jaxseg.models.model import SegmentationModel
from jaxseg.nn import Head


def fcn(
    *,
    num_classes: int,
    encoder: nn.Module,
    aux_heads: int = 1,
    dropout: float = 0.1,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN in the form of torchvision: a head on the last feature, and an auxiliary one before it.

    On `encoders.resnet50(output_stride=8)` it is torchvision's `fcn_resnet50`, whose weights load;
    mmsegmentation calls such a network FCN-R50-D8.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; torchvision's has an output stride of 8.
        aux_heads: How many features before the last have an auxiliary head; 0 for none.
        dropout: Rate of dropout before the last convolution of each head, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If `aux_heads` does not fit the encoder.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038, on a dilated ResNet and without skips.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = fcn(num_classes=21, encoder=encoders.resnet50(output_stride=8))
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    35322218
    """
    depth = len(layout(encoder)[0])
    if not 0 <= aux_heads < depth:
        raise InputError(
            f"aux_heads={aux_heads}: with {depth} features there can be 0 to {depth - 1}"
        )
    types = types_of(encoder, dtype, param_dtype)
    head = partial(Head, at_least_one(num_classes), kernel_size=1, **types)
    return SegmentationModel(
        encoder,
        FCNHead(aux_heads, dropout, **types),
        head(),
        tuple(head() for _ in range(aux_heads)),
        image_head(image_labels, types),
    )
