"""SegFormer's decoder on any encoder, in the form of segmentation_models.pytorch."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, Head, bilinear, bilinear_aligned
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size


class SegFormer(nn.Module):
    """Linear layers that give all features the same channels, resized to a quarter of the image and fused.

    Attributes:
        channels: Channels of all maps.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Xie et al., SegFormer, 2021, https://arxiv.org/abs/2105.15203. The form of
        segmentation_models.pytorch, which uses features of stride 2 too, and no dropout. Initialization:
        Kaiming over fan-in.

    >>> import jax
    >>> features = jnp.ones((1, 8, 12, 4)), jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = SegFormer(32).init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape
    (1, 4, 6, 32)
    """

    channels: int = 256
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, ceil(H / 4), ceil(W / 4), channels]`."""
        fields = {
            "kernel_init": kaiming_fan_in,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        quarter = -(-size[0] // 4), -(-size[1] // 4)
        maps = [
            bilinear(nn.Dense(self.channels, name=f"linear{i}", **fields)(feature), quarter)
            for i, feature in enumerate(reversed(features))
        ]
        x = jnp.concatenate(maps, axis=-1)
        return (ConvNorm(self.channels, 1, name="fuse", **fields)(x, train=train),)


def segformer(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 256,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """SegFormer's decoder on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; all of its features are used.
        channels: Channels of the decoder; 256 in the paper's B0 and B1, 768 in B2 to B5.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    References:
        Xie et al., SegFormer, 2021, https://arxiv.org/abs/2105.15203

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = segformer(num_classes=21, encoder=encoders.resnet34())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    21881685
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        SegFormer(channels, **types),
        Head(check_num_classes(num_classes), kernel_size=1, **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


MODELS = {"segformer": segformer}
