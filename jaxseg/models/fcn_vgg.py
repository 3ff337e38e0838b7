"""FCN-32s, FCN-16s and FCN-8s as in the paper, on a VGG."""

from typing import Any

import flax.linen as nn

from jaxseg.encoders.contract import layout, types_of
from jaxseg.models.checks import at_least_one
from jaxseg.networks import FCNVGG


def fcn_vgg_32s(
    *,
    num_classes: int,
    encoder: nn.Module,
    padding: int = 100,
    learn_last: bool = False,
    fc_features: int = 4096,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = None,
) -> FCNVGG:
    """The paper's FCN-32s: scores of a VGG's fc7, upsampled by 32.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A VGG of full depth and stride; the paper's is `encoders.vgg16()`.
        padding: Padding of the first convolution: the paper's 100, or 1 for no border, where fc6
            is padded instead.
        learn_last: Whether the last upsampling is learned; in the paper it stays bilinear.
        fc_features: Channels of fc6 and fc7.
        dropout: Rate of dropout after fc6 and fc7, in training.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder is no such VGG, or an option's value does not do.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038

    >>> import jax
    >>> from jaxseg import encoders
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> def parameters(**options):
    ...     model = fcn_vgg_32s(num_classes=21, encoder=encoders.vgg16(), **options)
    ...     variables = jax.eval_shape(model.init, jax.random.key(0), images)
    ...     return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    >>> parameters(), parameters(learn_last=True) - parameters()
    (134346581, 1806336)
    """
    layout(encoder)
    return FCNVGG(
        encoder,
        at_least_one(num_classes),
        stride=32,
        padding=padding,
        learn_last=learn_last,
        fc_features=fc_features,
        dropout=dropout,
        **types_of(encoder, dtype, param_dtype),
    )


def fcn_vgg_16s(
    *,
    num_classes: int,
    encoder: nn.Module,
    padding: int = 100,
    learn_fusing: bool = True,
    learn_last: bool = False,
    fc_features: int = 4096,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = None,
) -> FCNVGG:
    """The paper's FCN-16s: scores of a VGG's fc7 and pool4, summed.

    Arguments as in `fcn_vgg_32s`. Training goes on from FCN-32s, see
    `jaxseg.networks.fcn.next_stage`. `learn_fusing` says whether the upsampling between the scores
    is learned, as in the paper; in the models that its authors published it stays bilinear.

    >>> from jaxseg import encoders
    >>> fcn_vgg_16s(num_classes=21, encoder=encoders.vgg16()).stride
    16
    """
    layout(encoder)
    return FCNVGG(
        encoder,
        at_least_one(num_classes),
        stride=16,
        padding=padding,
        learn_fusing=learn_fusing,
        learn_last=learn_last,
        fc_features=fc_features,
        dropout=dropout,
        **types_of(encoder, dtype, param_dtype),
    )


def fcn_vgg_8s(
    *,
    num_classes: int,
    encoder: nn.Module,
    padding: int = 100,
    learn_fusing: bool = True,
    learn_last: bool = False,
    fc_features: int = 4096,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = None,
) -> FCNVGG:
    """The paper's FCN-8s: scores of a VGG's fc7, pool4 and pool3, summed.

    Arguments as in `fcn_vgg_16s`. Training goes on from FCN-16s.

    >>> from jaxseg import encoders
    >>> fcn_vgg_8s(num_classes=21, encoder=encoders.vgg16()).stride
    8
    """
    layout(encoder)
    return FCNVGG(
        encoder,
        at_least_one(num_classes),
        stride=8,
        padding=padding,
        learn_fusing=learn_fusing,
        learn_last=learn_last,
        fc_features=fc_features,
        dropout=dropout,
        **types_of(encoder, dtype, param_dtype),
    )


def fcn_vgg_8s_at_once(
    *,
    num_classes: int,
    encoder: nn.Module,
    padding: int = 100,
    learn_fusing: bool = True,
    learn_last: bool = False,
    fc_features: int = 4096,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = None,
) -> FCNVGG:
    """FCN-8s that is trained in one stage: pool4 and pool3 are scaled down before their scores.

    Arguments as in `fcn_vgg_16s`.

    References:
        Shelhamer, Long and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2016,
        https://arxiv.org/abs/1605.06211

    >>> from jaxseg import encoders
    >>> model = fcn_vgg_8s_at_once(num_classes=21, encoder=encoders.vgg16())
    >>> model.pool4_scale, model.pool3_scale
    (0.01, 0.0001)
    """
    layout(encoder)
    return FCNVGG(
        encoder,
        at_least_one(num_classes),
        stride=8,
        padding=padding,
        pool4_scale=0.01,
        pool3_scale=0.0001,
        learn_fusing=learn_fusing,
        learn_last=learn_last,
        fc_features=fc_features,
        dropout=dropout,
        **types_of(encoder, dtype, param_dtype),
    )
