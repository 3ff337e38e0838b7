"""DeepLabV3 on any encoder, in the form of segmentation_models.pytorch."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ASPP, ConvNorm, Head, SeparableConv, bilinear_aligned
from jaxseg.nn.aspp import check_rates
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size


class DeepLabV3(nn.Module):
    """Atrous spatial pyramid pooling of the coarsest feature, then a 3x3 convolution.

    Attributes:
        channels: Channels of the pyramid and of the map.
        rates: Dilations of the pyramid's 3x3 convolutions, in pixels of the feature.
        separable: Whether these are depthwise separable.
        dropout: Rate of dropout between pyramid and convolution, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017,
        https://arxiv.org/abs/1706.05587. The form of segmentation_models.pytorch and torchvision:
        the 3x3 convolution and dropout are additions, the rates are the paper's for an output
        stride of 8. Initialization: Kaiming over fan-in.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = DeepLabV3(32).init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape
    (1, 2, 3, 32)
    """

    channels: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    separable: bool = False
    dropout: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, h, w, channels]` of the coarsest feature's size."""
        del size
        fields = {
            "kernel_init": kaiming_fan_in,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        conv = SeparableConv if self.separable else ConvNorm
        x = ASPP(self.channels, self.rates, conv, self.dropout, name="aspp", **fields)(
            features[-1], train=train
        )
        return (ConvNorm(self.channels, name="refine", **fields)(x, train=train),)


def deeplab_v3(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 256,
    rates: tuple[int, ...] = (12, 24, 36),
    separable: bool = False,
    dropout: float = 0.5,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """DeepLabV3 on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    There and in the paper the encoder dilates to an output stride of 8 or 16, such as
    `encoders.resnet50(output_stride=8)`. For weights from there a ResNet has
    `dilate_first=True`, too.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its coarsest feature is used.
        channels: Channels of the pyramid and of the convolution after it.
        rates: Dilations of the pyramid's 3x3 convolutions, in pixels of the feature. The paper has
            these for an output stride of 8, and half of them for 16.
        separable: Whether these convolutions are depthwise separable.
        dropout: Rate of dropout after the pyramid, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If there is no rate or one below 1.

    References:
        Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017,
        https://arxiv.org/abs/1706.05587

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = deeplab_v3(num_classes=21, encoder=encoders.resnet50(output_stride=8))
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    39638869
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        DeepLabV3(channels, check_rates(rates), separable, dropout, **types),
        Head(check_num_classes(num_classes), kernel_size=1, **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


MODELS = {"deeplab_v3": deeplab_v3}
