"""A segmentation model: an encoder, a decoder and heads, from images to logits."""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn

from jaxseg.encoders.protocol import Encoder
from jaxseg.errors import InputError
from jaxseg.nn import ImageHead, bilinear
from jaxseg.nn.inputs import checked, wide
from jaxseg.typing import Array, Output, Size, Upsample


class Decoder(Protocol):
    """A Linen module from an encoder's features to maps, of which heads make logits."""

    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features, fine to coarse, to maps `[N, h, w, C]`: the main head's, then the others'.

        `size` is the height and width of the images. Maps may be smaller: the model upsamples the
        logits.
        """
        ...


class SegmentationModel(nn.Module):
    """Images to `Output`: an encoder, a decoder, a head for each map, and upsampling.

    Attributes:
        encoder: `encoder(images, train=...) -> features`, fine to coarse.
        decoder: `decoder(features, size, train=...) -> maps`; the first map feeds `head`, the
            following ones `aux_heads`.
        head: Makes logits of a map; None if the decoder's maps are logits.
        aux_heads: Auxiliary heads for the decoder's further maps; None for maps that are logits.
        image_head: Makes labels of the whole image from the coarsest feature; None for no labels.
        upsample: `upsample(logits, size)`, from a map's size to the images'.

    >>> import jax
    >>> from jaxseg import encoders
    >>> from jaxseg.models.unet import UNet
    >>> from jaxseg.nn import Head
    >>> model = SegmentationModel(encoders.resnet18(depth=2), UNet((32, 16)), Head(4))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jax.numpy.zeros((2, 9, 13, 3))).logits.shape
    (2, 9, 13, 4)
    """

    encoder: Encoder
    decoder: Decoder
    head: nn.Module | None
    aux_heads: tuple[nn.Module | None, ...] = ()
    image_head: nn.Module | None = None
    upsample: Upsample = bilinear

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalized; any height and width.
            train: Whether to normalize by the statistics of this batch (collection `"batch_stats"`
                is then updated) and to drop out (with the PRNG key `"dropout"`).

        Returns:
            Logits at the images' size, in float32 or wider.

        Raises:
            InputError: If images are of integer type, or do not have four axes and the encoder's
                number of channels.
        """
        images = checked(images)
        size = images.shape[1], images.shape[2]
        features = self.encoder(images, train=train)
        maps = self.decoder(features, size, train=train)
        heads = (self.head, *self.aux_heads)
        if len(maps) < len(heads):
            raise InputError(
                f"{len(self.aux_heads)} auxiliary heads, but {type(self.decoder).__name__} "
                f"has {len(maps) - 1} maps for them"
            )
        logits = [self._logits(head, x, size) for head, x in zip(heads, maps, strict=False)]
        labels = self.image_head and self.image_head(features[-1], train=train)
        return Output(logits[0], tuple(logits[1:]), None if labels is None else wide(labels))

    def _logits(self, head: Callable[[Array], Array] | None, x: Array, size: Size) -> Array:
        return self.upsample(wide(x if head is None else head(x)), size)


def check_num_classes(num_classes: int) -> int:
    """Returns `num_classes`, which is at least 1.

    Raises:
        InputError: If it is not.
    """
    if num_classes < 1:
        raise InputError(
            f"num_classes={num_classes}: 1 stands for one sigmoid, 2 and more for a softmax"
        )
    return num_classes


def check_aux_heads(aux_heads: int, features: int) -> int:
    """Returns `aux_heads`, the number of auxiliary heads beside the main one, one per feature.

    Raises:
        InputError: If it is negative or there are fewer features.
    """
    if not 0 <= aux_heads < features:
        raise InputError(
            f"aux_heads={aux_heads}: with {features} features there can be 0 to {features - 1}"
        )
    return aux_heads


def make_image_head(labels: int, types: dict[str, Any]) -> ImageHead | None:
    """Returns a head for labels of the whole image, or None for 0 labels."""
    return ImageHead(labels, **types) if labels else None
