"""SegNet on a VGG: its decoder unpools to the indices of the encoder's max-pools."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import check_encoder, inherit_dtypes
from jaxseg.errors import InputError
from jaxseg.models.segmentation_model import check_num_classes
from jaxseg.nn import ConvNorm, Head, max_unpool
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.inputs import checked, wide
from jaxseg.typing import Array, Output, Size


def unpool(x: Array, indices: Array, size: Size) -> Array:
    """Inverts a 2x2 max-pool of a map of `size`.

    Args:
        x: `[N, h, w, C]`.
        indices: `[N, h, w, C]`, of a map of `2 * h` by `2 * w` pixels.
        size: Height and width of the result: a row or column that pooling added is cropped, one
            that it dropped is zero.

    >>> x, indices = jnp.ones((1, 1, 2, 1)), jnp.array([0, 7]).reshape(1, 1, 2, 1)
    >>> unpool(x, indices, (2, 3))[0, :, :, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    twice = 2 * x.shape[1], 2 * x.shape[2]
    x = max_unpool(x, twice, indices=indices)[:, : size[0], : size[1]]
    missing = [(0, size[0] - x.shape[1]), (0, size[1] - x.shape[2])]
    return jnp.pad(x, ((0, 0), *missing, (0, 0)))


class SegNetDecoder(nn.Module):
    """The stages of a VGG in reverse, unpooling instead of pooling, without the last convolution.

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
        self, x: Array, indices: tuple[Array, ...], sizes: tuple[Size, ...], *, train: bool
    ) -> Array:
        """Maps the coarsest feature to `[N, H, W, widths[0]]`; indices and sizes are fine to coarse."""
        for stage in reversed(range(len(self.convolutions))):
            x = unpool(x, indices[stage], sizes[stage])
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


class SegNet(nn.Module):
    """A VGG and its stages in reverse, with a max-unpooling for each max-pooling.

    The encoder hands the indices of its maxima to the decoder, not its features: a few bits for
    each pooled number. The last convolution makes the logits. Odd sizes are pooled as if they had
    one row or column more, which unpooling crops.

    In bfloat16 some maxima that were nearly equal are equal, and the first of them wins: a few
    values go to a neighboring pixel. An encoder that stays in float32
    (`encoder_options={"dtype": "float32"}` by name) keeps the indices of float32.

    Attributes:
        encoder: A VGG of depth 5 and output stride 32.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder
        Architecture for Image Segmentation, 2015, https://arxiv.org/abs/1511.00561. On
        `vgg16_bn` it has the paper's 29.45 million parameters; a normalization follows every
        convolution of the decoder but the last, also on a VGG without. Initialization of the
        decoder: Kaiming over fan-in.
    """

    encoder: nn.Module
    num_classes: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        encoder: Any = self.encoder
        if not hasattr(encoder, "with_indices"):
            raise InputError(
                f"the encoder is a {type(encoder).__name__}: SegNet unpools to the indices of an "
                "encoder's max-pools, which a VGG returns; take one, such as vgg16_bn"
            )
        if encoder.depth != 5 or encoder.output_stride != 32:
            raise InputError(
                f"the encoder has depth={encoder.depth} and output_stride={encoder.output_stride}: "
                "SegNet inverts all of its five pools, so it needs depth=5 and output_stride=32"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalized; any height and width.
            train: Whether to normalize by the statistics of this batch (collection `"batch_stats"`
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
        features, indices = encoder.with_indices(images, train=train)
        sizes = tuple((x.shape[1], x.shape[2]) for x in (images, *features[:-1]))
        decoder = SegNetDecoder(encoder.convolutions, encoder.widths, name="decoder", **types)
        x = decoder(features[-1], indices, sizes, train=train)
        return Output(wide(Head(self.num_classes, name="head", **types)(x)))


def segnet(
    *, num_classes: int, encoder: nn.Module, dtype: Any = None, param_dtype: Any = None
) -> SegNet:
    """SegNet: a VGG and its stages in reverse, which unpool to the indices of the encoder's maxima.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A VGG of full depth and stride; the paper's is `encoders.vgg16_bn()`.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder is no VGG of full depth and stride.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = segnet(num_classes=11, encoder=encoders.vgg16_bn())
    >>> images = jax.ShapeDtypeStruct((1, 360, 480, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))  # 29.45 million in the paper
    29449355
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegNet(encoder, check_num_classes(num_classes), **types)


MODELS = {"segnet": segnet}
