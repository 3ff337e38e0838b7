"""UPerNet on any encoder, in the form of segmentation_models.pytorch."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, Head, LayerNorm, PyramidPooling, bilinear, bilinear_aligned
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.pyramid_pooling import check_grids
from jaxseg.typing import Array, Size


class UPerNet(nn.Module):
    """Pyramid pooling of the coarsest feature, then a feature pyramid whose levels are concatenated.

    Attributes:
        levels: Number of features that are used, the coarsest ones.
        channels: Channels of all maps.
        grids: Rows, and columns, of the grids over which the coarsest feature is averaged.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018,
        https://arxiv.org/abs/1807.10221. The form of segmentation_models.pytorch, which normalizes the
        features over their channels first. Initialization: Kaiming over fan-in.

    >>> import jax
    >>> features = jnp.ones((1, 8, 12, 4)), jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = UPerNet(levels=2, channels=32).init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape
    (1, 4, 6, 32)
    """

    levels: int = 4
    channels: int = 256
    grids: tuple[int, ...] = (1, 2, 3, 6)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, h, w, channels]` of the size of the finest that is used."""
        del size
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fields = {"kernel_init": kaiming_fan_in, **types}
        conv = partial(ConvNorm, self.channels, **fields)
        normed = [
            LayerNorm(epsilon=1e-6, name=f"norm{i}", **types)(feature)
            for i, feature in enumerate(features[-self.levels :])
        ]
        *skips, x = normed
        means = PyramidPooling(self.channels, self.grids, name="pyramid", **fields)(x, train=train)
        x = conv(name="pool")(jnp.concatenate([x, *means], axis=-1), train=train)

        maps = [x]
        for i, skip in enumerate(reversed(skips)):
            lateral = conv(1, name=f"lateral{i}")(skip, train=train)
            x = bilinear(x, (skip.shape[1], skip.shape[2])) + lateral
            maps.append(conv(name=f"level{i}")(x, train=train))
        finest = maps[-1].shape[1], maps[-1].shape[2]
        maps = [bilinear(x, finest) for x in reversed(maps)]
        return (conv(name="fuse")(jnp.concatenate(maps, axis=-1), train=train),)


def upernet(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 256,
    grids: tuple[int, ...] = (1, 2, 3, 6),
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """UPerNet on any encoder, in the form of segmentation_models.pytorch (logits with aligned corners).

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its features of stride 4 and more are used, at least one.
        channels: Channels of the decoder.
        grids: Rows, and columns, of the grids over which the coarsest feature is averaged.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If there is no grid or one without cells.

    References:
        Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018,
        https://arxiv.org/abs/1807.10221

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = upernet(num_classes=21, encoder=encoders.resnet34())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    29604821
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    levels = max(1, sum(stride >= 4 for stride in encoder.strides))
    return SegmentationModel(
        encoder,
        UPerNet(levels, channels, check_grids(grids), **types),
        Head(check_num_classes(num_classes), kernel_size=1, **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


MODELS = {"upernet": upernet}
