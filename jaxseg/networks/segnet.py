"""SegNet: its decoder puts values back to where the encoder's max-pools took them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm, Head, max_unpool
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.images import checked, wide
from jaxseg.typing import Array, Output, Size


class SegNet(nn.Module):
    """A VGG and its mirror image: each max-unpooling is followed by as many convolutions.

    What goes from encoder to decoder is where the maxima were, not the features: a few bits for
    each pooled number. The stages of the decoder have the channels of the encoder's, in reverse;
    the last convolution gives the logits. Odd sizes are pooled and unpooled as if they had one row
    or column more, which is then cut off. In bfloat16 some maxima that were nearly equal are equal,
    and the first of them wins: a few values go to a neighbouring pixel. An encoder that stays in
    float32 (`encoder_options={"dtype": "float32"}` by name) keeps their places.

    Attributes:
        encoder: A VGG of depth 5 and output stride 32.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder
        Architecture for Image Segmentation, 2015, https://arxiv.org/abs/1511.00561. On
        `vgg16_bn` it has the paper's 29.45 million parameters; a normalisation follows every
        convolution but the last, also on a VGG without. Initialisation of the decoder: Kaiming
        over fan-in.
    """

    encoder: nn.Module
    num_classes: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        encoder: Any = self.encoder
        if not hasattr(encoder, "with_places"):
            raise InputError(
                f"the encoder is a {type(encoder).__name__}: SegNet unpools to the places that an "
                "encoder's max-pools give, which a VGG knows; take one, such as vgg16_bn"
            )
        if encoder.depth != 5 or encoder.output_stride != 32:
            raise InputError(
                f"the encoder has depth={encoder.depth} and output_stride={encoder.output_stride}: "
                "SegNet undoes all of its five pools, so it needs depth=5 and output_stride=32"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalised; any height and width.
            train: Whether to normalise by the statistics of this batch (collection `"batch_stats"`
                is then updated).

        Returns:
            Logits at the images' size, in float32 or wider.

        Raises:
            InputError: If images are of integer type, or do not have four axes and the encoder's
                number of channels.
        """
        images = checked(images)
        encoder: Any = self.encoder
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features, places = encoder.with_places(images, train=train)
        sizes = tuple((x.shape[1], x.shape[2]) for x in (images, *features[:-1]))
        decoder = Decoder(encoder.convolutions, encoder.widths, name="decoder", **types)
        x = decoder(features[-1], places, sizes, train=train)
        return Output(wide(Head(self.num_classes, name="head", **types)(x)))


class Decoder(nn.Module):
    """The mirror image of a VGG's stages, without the last convolution.

    Attributes:
        convolutions: Number of convolutions in each of the encoder's stages.
        widths: Channels of each.
        dtype: Type to compute in; that of the feature and parameters by default.
        param_dtype: Type of parameters and running statistics.
    """

    convolutions: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, places: tuple[Array, ...], sizes: tuple[Size, ...], *, train: bool
    ) -> Array:
        """Maps the coarsest feature to `[N, H, W, widths[0]]`; places and sizes are fine to coarse."""
        for stage in reversed(range(len(self.convolutions))):
            x = unpool(x, places[stage], sizes[stage])
            for i in reversed(range(self.convolutions[stage])):
                if stage == i == 0:
                    break  # the head's
                x = ConvNorm(
                    self.widths[stage if i > 0 else stage - 1],
                    use_bias=True,
                    kernel_init=kaiming_fan_in,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"stage{stage + 1}_conv{i}",
                )(x, train=train)
        return x


def unpool(x: Array, places: Array, size: Size) -> Array:
    """Undoes a 2x2 max-pool whose places are in a map twice as large as `x`; `size` is the result's.

    >>> x, places = jnp.ones((1, 1, 2, 1)), jnp.array([0, 7]).reshape(1, 1, 2, 1)
    >>> unpool(x, places, (2, 3))[0, :, :, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    twice = 2 * x.shape[1], 2 * x.shape[2]
    x = max_unpool(x, twice, indices=places)[:, : size[0], : size[1]]
    missing = [(0, size[0] - x.shape[1]), (0, size[1] - x.shape[2])]
    return jnp.pad(x, ((0, 0), *missing, (0, 0)))
