"""FCN-32s, FCN-16s and FCN-8s on any encoder."""

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
from jaxseg.nn import Conv, TransposedConv
from jaxseg.typing import Array, Size

STRIDES = (8, 16, 32)


class FCNSkip(nn.Module):
    """Scores of the features with strides 32, 16 and 8, summed from coarse to fine.

    Between two levels the scores are upsampled by a learned transposed convolution that starts as
    bilinear interpolation. The map holds logits; the last upsampling, which the paper keeps fixed,
    is the model's.

    Attributes:
        num_classes: Channels of the scores.
        stride: Stride of the finest feature that is used: 32 (FCN-32s), 16 (FCN-16s) or 8 (FCN-8s).
        strides: The encoder's strides.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038. Scores start at zero as there; the encoder's last feature
        stands for VGG-16's fc7, and all levels are trained at once. A VGG's features with strides 8
        and 16 come before the pools that the paper scores after: `fcn_vgg_8s` builds the paper's
        network.

    >>> FCNSkip(num_classes=2, stride=8).used, FCNSkip(num_classes=2, stride=32).used
    ((8, 16, 32), (32,))
    """

    num_classes: int
    stride: int = 8
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.stride not in STRIDES:
            raise InputError(
                f"stride={self.stride}: an FCN's finest feature has stride 8, 16 or 32"
            )
        used = self.used
        if tuple(self.strides[-len(used) :]) != used:
            raise InputError(
                f"FCN-{self.stride}s sums features of strides {', '.join(map(str, used))}, "
                f"but the encoder's are {', '.join(map(str, self.strides))}: "
                "give it its full depth and output_stride=32, or take another decoder"
            )
        super().__post_init__()

    @property
    def used(self) -> tuple[int, ...]:
        """Strides of the features that are used, fine to coarse."""
        return tuple(s for s in STRIDES if s >= self.stride)

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to logits `[N, h, w, num_classes]` at the finest stride that is used."""
        del size, train
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        score = partial(Conv, self.num_classes, 1, kernel_init=nn.initializers.zeros, **types)
        levels = list(zip(features[-len(self.used) :], self.used, strict=True))
        feature, stride = levels.pop()
        x = score(name=f"score{stride}")(feature)
        for feature, stride in reversed(levels):
            up = TransposedConv(self.num_classes, 2, use_bias=False, name=f"up{stride}", **types)
            x = up(x, (feature.shape[1], feature.shape[2])) + score(name=f"score{stride}")(feature)
        return (x,)


def fcn_skip(
    stride: int,
    *,
    num_classes: int,
    encoder: Encoder,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN with the paper's skips: scores of an encoder's features, summed from coarse to fine.

    Args:
        stride: Stride of the finest feature that is used.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Encoder whose last features have the strides that are used, up to 32.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder has other strides.

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
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        FCNSkip(check_num_classes(num_classes), stride, encoder.strides, **types),
        None,
        image_head=make_image_head(image_labels, types),
    )


fcn_32s = partial(fcn_skip, 32)
"""FCN-32s: scores of the feature with stride 32."""
fcn_16s = partial(fcn_skip, 16)
"""FCN-16s: scores of the features with strides 32 and 16."""
fcn_8s = partial(fcn_skip, 8)
"""FCN-8s: scores of the features with strides 32, 16 and 8."""

MODELS = {"fcn_8s": fcn_8s, "fcn_16s": fcn_16s, "fcn_32s": fcn_32s}
