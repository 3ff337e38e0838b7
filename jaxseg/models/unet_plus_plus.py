"""U-Net++ on any encoder, in the form of segmentation_models.pytorch."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.models.unet import CHANNELS, DoubleConv, channels_of_steps
from jaxseg.nn import Head, nearest, upsample_merge
from jaxseg.typing import Array, Size, Upsample


class UNetPlusPlus(nn.Module):
    """A grid of U-Net's steps: each upsamples a map and merges it with all maps that have the size of its skip.

    Step `(row, column)` makes a map of the size of skip `column`, coarse to fine, and starts from the map
    of the step before it in its row; row `r` starts from feature `r`. The last step of the first row
    upsamples to the images' size, where there is nothing to merge. Any image size works: sizes follow the
    features.

    Attributes:
        channels: Channels of the first row, one step per feature; those of other rows are the skip's.
        upsample: `upsample(x, size)`; one of `jaxseg.nn.UPSAMPLINGS`, learned ones included.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Zhou et al., UNet++, 2018, https://arxiv.org/abs/1807.10165. The form of
        segmentation_models.pytorch: a pretrained encoder, fixed upsampling, no deep supervision.

    >>> import jax
    >>> features = jnp.ones((1, 8, 12, 4)), jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), variables = UNetPlusPlus((16, 8, 4)).init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape, sorted(variables["params"])
    ((1, 16, 24, 4), ['step_0_0', 'step_0_1', 'step_0_2', 'step_1_1'])
    """

    channels: tuple[int, ...] = CHANNELS
    upsample: Upsample = nearest
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, *size, channels[-1]]`."""
        starts = promote_dtype(*reversed(features), dtype=self.dtype)
        rows = list(starts[:1])
        for column, skip in enumerate(starts[1:]):
            target, peers = (skip.shape[1], skip.shape[2]), [skip]
            for row in reversed(range(column + 1)):
                width = self.channels[column] if row == 0 else skip.shape[-1]
                merged = upsample_merge(
                    rows[row], jnp.concatenate(peers, axis=-1), target, upsample=self.upsample
                )
                rows[row] = self._step(row, column, width)(merged, train=train)
                peers.insert(0, rows[row])
            rows.append(skip)
        last = upsample_merge(rows[0], None, size, upsample=self.upsample)
        return (self._step(0, len(starts) - 1, self.channels[-1])(last, train=train),)

    def _step(self, row: int, column: int, channels: int) -> DoubleConv:
        return DoubleConv(channels, self.dtype, self.param_dtype, name=f"step_{row}_{column}")


def unet_plus_plus(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: tuple[int, ...] | None = None,
    upsample: Upsample = nearest,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """U-Net++ on any encoder, in the form of segmentation_models.pytorch.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder.
        channels: Channels of the first row's steps, coarse to fine, one per feature; by default the end
            of `(256, 128, 64, 32, 16)`.
        upsample: `upsample(x, size)`: one of `jaxseg.nn.UPSAMPLINGS`, such as `jaxseg.nn.bilinear`; by
            name in `create` and recipes.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder does not have the features for `channels`.

    References:
        Zhou et al., UNet++, 2018, https://arxiv.org/abs/1807.10165

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = unet_plus_plus(num_classes=21, encoder=encoders.resnet34())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    26081509
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        UNetPlusPlus(channels_of_steps(channels, len(encoder.strides)), upsample, **types),
        Head(check_num_classes(num_classes), **types),
        image_head=make_image_head(image_labels, types),
    )


MODELS = {"unet_plus_plus": unet_plus_plus}
