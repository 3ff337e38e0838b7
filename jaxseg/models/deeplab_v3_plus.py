"""DeepLabV3+ on any encoder, in the form of segmentation_models.pytorch."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.errors import InputError
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ASPP, ConvNorm, Head, SeparableConv, bilinear_aligned, concatenate
from jaxseg.nn.aspp import check_rates
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size

SKIP_CHANNELS = 48
SKIP_STRIDE = 4


class DeepLabV3Plus(nn.Module):
    """The pyramid of DeepLabV3, upsampled and merged with a fine feature of few channels.

    Attributes:
        skip: Index of the fine feature.
        channels: Channels of the pyramid and of the map.
        rates: Dilations of the pyramid's 3x3 convolutions, in pixels of the coarsest feature.
        separable: Whether these are depthwise separable, as the 3x3 convolutions after the pyramid
            and after the merge always are.
        dropout: Rate of dropout after the pyramid, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image
        Segmentation, 2018, https://arxiv.org/abs/1802.02611. The form of
        segmentation_models.pytorch: a 3x3 convolution follows the pyramid, and one instead of two
        the merge; depthwise convolutions have neither normalization nor ReLU. Initialization:
        Kaiming over fan-in.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> decoder = DeepLabV3Plus(skip=0, channels=32)
    >>> (x,), _ = decoder.init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape
    (1, 4, 6, 32)
    """

    skip: int
    channels: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    separable: bool = True
    dropout: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, h, w, channels]` of the fine feature's size."""
        del size
        fields = {
            "kernel_init": kaiming_fan_in,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        separable = partial(SeparableConv, self.channels, **fields)
        conv = SeparableConv if self.separable else ConvNorm
        x = ASPP(self.channels, self.rates, conv, self.dropout, name="aspp", **fields)(
            features[-1], train=train
        )
        x = separable(name="refine")(x, train=train)
        fine = features[self.skip]
        x = bilinear_aligned(x, (fine.shape[1], fine.shape[2]))
        skip = ConvNorm(SKIP_CHANNELS, 1, name="skip_conv", **fields)(fine, train=train)
        return (separable(name="fuse")(concatenate(x, skip), train=train),)


def deeplab_v3_plus(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 256,
    rates: tuple[int, ...] = (12, 24, 36),
    separable: bool = True,
    dropout: float = 0.5,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """DeepLabV3+ on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    There and in the paper the encoder dilates to an output stride of 16 or 8, such as
    `encoders.resnet50(output_stride=16)`. For weights from there a ResNet has
    `dilate_first=True`, too.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: An encoder with a feature of stride 4 before its coarsest one; these two are used.
        channels: Channels of the pyramid and of the convolutions after it.
        rates: Dilations of the pyramid's 3x3 convolutions, in pixels of the coarsest feature. The
            paper has (6, 12, 18) for an output stride of 16, and twice these for 8.
        separable: Whether these convolutions are depthwise separable.
        dropout: Rate of dropout after the pyramid, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder lacks a feature of stride 4, or there is no rate or one below 1.

    References:
        Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image
        Segmentation, 2018, https://arxiv.org/abs/1802.02611

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = deeplab_v3_plus(num_classes=21, encoder=encoders.resnet50(output_stride=16))
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    26682725
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    decoder = DeepLabV3Plus(
        _index_of_skip(encoder), channels, check_rates(rates), separable, dropout, **types
    )
    return SegmentationModel(
        encoder,
        decoder,
        Head(check_num_classes(num_classes), kernel_size=1, **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


def _index_of_skip(encoder: Encoder) -> int:
    """Returns the index of the feature with stride 4, which is not the coarsest one."""
    strides = tuple(encoder.strides)
    if SKIP_STRIDE not in strides[:-1]:
        raise InputError(
            f"DeepLabV3+ merges the coarsest feature with one of stride {SKIP_STRIDE} before it, "
            f"but the encoder's strides are {', '.join(map(str, strides))}"
        )
    return strides.index(SKIP_STRIDE)


MODELS = {"deeplab_v3_plus": deeplab_v3_plus}
