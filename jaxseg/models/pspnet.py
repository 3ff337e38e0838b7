"""PSPNet on any encoder, in the form of segmentation_models.pytorch."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, Dropout, Head, PyramidPooling, bilinear_aligned
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.pyramid_pooling import check_grids
from jaxseg.typing import Array, Size


class PSPNet(nn.Module):
    """Pyramid pooling of the coarsest feature, then a 1x1 convolution.

    The pooled maps have together about as many channels as the feature.

    Attributes:
        channels: Channels of the map.
        grids: Rows, and columns, of the pyramid's grids.
        dropout: Rate of dropout of channels of the map, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Zhao et al., Pyramid Scene Parsing Network, 2017, https://arxiv.org/abs/1612.01105. The form of
        segmentation_models.pytorch: the grid with one cell has no normalization, the convolution after
        the pyramid is 1x1 instead of 3x3, and dropout is of whole channels. Initialization: Kaiming
        over fan-in.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = PSPNet(32).init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape
    (1, 2, 3, 32)
    """

    channels: int = 512
    grids: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.2
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
        x = features[-1]
        means = PyramidPooling(
            max(1, x.shape[-1] // len(self.grids)),
            self.grids,
            single_norm=None,
            upsample=bilinear_aligned,
            name="pyramid",
            **fields,
        )(x, train=train)
        x = jnp.concatenate([*means, x], axis=-1)
        x = ConvNorm(self.channels, 1, name="project", **fields)(x, train=train)
        return (Dropout(self.dropout, broadcast_dims=(1, 2))(x, train=train),)


def pspnet(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 512,
    grids: tuple[int, ...] = (1, 2, 3, 6),
    dropout: float = 0.2,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """PSPNet on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    There the encoder has a depth of 3, such as `encoders.resnet50(depth=3)`; the paper's has all of its
    stages and dilates, such as `encoders.resnet50(output_stride=8)`.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its coarsest feature is used.
        channels: Channels of the map that the head sees.
        grids: Rows, and columns, of the grids over which the feature is averaged.
        dropout: Rate of dropout of channels before the head, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If there is no grid or one without cells.

    References:
        Zhao et al., Pyramid Scene Parsing Network, 2017, https://arxiv.org/abs/1612.01105

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = pspnet(num_classes=21, encoder=encoders.resnet50(depth=3))
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    2330069
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        PSPNet(channels, check_grids(grids), dropout, **types),
        Head(check_num_classes(num_classes), **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


MODELS = {"pspnet": pspnet}
