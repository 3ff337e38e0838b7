"""Whole models: an encoder, a decoder and heads, from images to logits."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from jaxseg import encoders
from jaxseg.decoders import FCN, FPN, UNet
from jaxseg.encoders.contract import layout, types_of
from jaxseg.errors import InputError, unknown
from jaxseg.networks import SegNet
from jaxseg.nn import Head, ImageHead, bilinear, nearest
from jaxseg.nn.images import checked, wide
from jaxseg.typing import Array, Output, Size


class SegmentationModel(nn.Module):
    """Images to `Output`: an encoder, a decoder, a head for each map, and upsampling.

    Attributes:
        encoder: `encoder(images, train=...) -> features`, fine to coarse.
        decoder: `decoder(features, size, train=...) -> maps`; the first map feeds `head`, the
            following ones `aux_heads`.
        head: Makes logits of a map; None where the decoder's maps are logits already.
        aux_heads: Auxiliary heads, for as many of the decoder's further maps.
        image_head: Makes labels of the whole image from the coarsest feature, if wanted.
        upsample: `upsample(logits, size)`, from a map's size to the images'.

    >>> import jax
    >>> model = SegmentationModel(encoders.resnet18(depth=2), UNet((32, 16)), Head(4))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jax.numpy.zeros((2, 9, 13, 3))).logits.shape
    (2, 9, 13, 4)
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module | None
    aux_heads: tuple[nn.Module, ...] = ()
    image_head: nn.Module | None = None
    upsample: Callable[[Array, Size], Array] = bilinear

    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalised; any height and width.
            train: Whether to normalise by the statistics of this batch (collection `"batch_stats"`
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


_aligned = partial(bilinear, align_corners=True)


def fcn_32s(
    *,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN-32s: scores of the feature with stride 32, upsampled bilinearly.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Encoder whose last feature has stride 32.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder's strides do not fit.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038

    >>> import jax
    >>> model = fcn_32s(num_classes=21, encoder=encoders.resnet18())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    11187285
    """
    return _fcn(32, num_classes, encoder, image_labels, dtype, param_dtype)


def fcn_16s(
    *,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN-16s: scores of the features with strides 32 and 16, summed; arguments as in `fcn_32s`.

    >>> fcn_16s(num_classes=2, encoder=encoders.resnet18()).decoder.used
    (16, 32)
    """
    return _fcn(16, num_classes, encoder, image_labels, dtype, param_dtype)


def fcn_8s(
    *,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN-8s: scores of the features with strides 32, 16, 8, summed; arguments as in `fcn_32s`.

    >>> fcn_8s(num_classes=2, encoder=encoders.resnet18()).decoder.used
    (8, 16, 32)
    """
    return _fcn(8, num_classes, encoder, image_labels, dtype, param_dtype)


def _fcn(
    stride: int,
    num_classes: int,
    encoder: nn.Module,
    image_labels: int,
    dtype: Any,
    param_dtype: Any,
) -> SegmentationModel:
    types = types_of(encoder, dtype, param_dtype)
    strides, _ = layout(encoder)
    decoder = FCN(_at_least_one(num_classes), stride, strides, **types)
    return SegmentationModel(encoder, decoder, None, image_head=_image_head(image_labels, types))


def unet(
    *,
    num_classes: int,
    encoder: nn.Module,
    channels: tuple[int, ...] | None = None,
    upsample: Callable[[Array, Size], Array] = nearest,
    center: bool | None = None,
    aux_heads: int = 0,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """U-Net on any encoder, in the form of segmentation_models.pytorch.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder.
        channels: Channels of each step of the decoder, coarse to fine, one per feature; as many as
            the encoder needs of the end of `(256, 128, 64, 32, 16)` by default.
        upsample: `upsample(x, size)`, such as `jaxseg.nn.nearest` or `jaxseg.nn.bilinear`.
        center: Whether two convolutions come before the first step; only on a VGG by default.
        aux_heads: How many auxiliary heads (deep supervision), from the second finest step on.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If `channels` or `aux_heads` do not fit the encoder.

    >>> import jax
    >>> model = unet(num_classes=12, encoder=encoders.resnet18(depth=3))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jax.numpy.zeros((1, 9, 13, 3))).logits.shape
    (1, 9, 13, 12)
    """
    depth = len(layout(encoder)[0])
    types = types_of(encoder, dtype, param_dtype)
    default = (*(256,) * depth, 128, 64, 32, 16)[-depth:]
    channels = default if channels is None else tuple(channels)
    if len(channels) != depth:
        raise InputError(
            f"channels={channels}: the encoder has {depth} features, "
            "and U-Net needs one number for each"
        )
    if not 0 <= aux_heads < depth:
        raise InputError(
            f"aux_heads={aux_heads}: with {depth} features there can be 0 to {depth - 1}"
        )
    center = isinstance(encoder, encoders.VGG) if center is None else center
    head = partial(Head, _at_least_one(num_classes), **types)
    return SegmentationModel(
        encoder,
        UNet(channels, upsample, center, **types),
        head(),
        tuple(head() for _ in range(aux_heads)),
        _image_head(image_labels, types),
    )


def fpn(
    *,
    num_classes: int,
    encoder: nn.Module,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    dropout: float = 0.2,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """Semantic FPN on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its four coarsest features are used, or as many as there are.
        pyramid_channels: Channels of the pyramid.
        segmentation_channels: Channels of the levels that are summed, a multiple of 32.
        dropout: Rate of dropout of whole channels before the head, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If `segmentation_channels` is not a multiple of 32.

    References:
        Lin et al., Feature Pyramid Networks for Object Detection, 2017,
        https://arxiv.org/abs/1612.03144; Kirillov et al., Panoptic Feature Pyramid Networks, 2019,
        https://arxiv.org/abs/1901.02446, whose semantic branch this is.

    >>> import jax
    >>> model = fpn(num_classes=21, encoder=encoders.resnet18())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    13049813
    """
    layout(encoder)
    types = types_of(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        FPN(pyramid_channels, segmentation_channels, dropout, **types),
        Head(_at_least_one(num_classes), kernel_size=1, **types),
        image_head=_image_head(image_labels, types),
        upsample=_aligned,
    )


def segnet(
    *, num_classes: int, encoder: nn.Module, dtype: Any = None, param_dtype: Any = None
) -> SegNet:
    """SegNet: a VGG and its mirror image, which unpools to the places of the encoder's maxima.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A VGG of full depth and stride; the paper's is `encoders.vgg16_bn()`.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder has no places to unpool to.

    >>> import jax
    >>> model = segnet(num_classes=11, encoder=encoders.vgg16_bn())
    >>> images = jax.ShapeDtypeStruct((1, 360, 480, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))  # 29.45 million in the paper
    29449355
    """
    layout(encoder)
    return SegNet(encoder, _at_least_one(num_classes), **types_of(encoder, dtype, param_dtype))


def _at_least_one(num_classes: int) -> int:
    if num_classes < 1:
        raise InputError(
            f"num_classes={num_classes}: 1 stands for one sigmoid, 2 and more for a softmax"
        )
    return num_classes


def _image_head(labels: int, types: dict[str, Any]) -> ImageHead | None:
    return ImageHead(labels, **types) if labels else None


_BUILDERS: dict[str, Callable[..., Any]] = {
    "fcn_32s": fcn_32s,
    "fcn_16s": fcn_16s,
    "fcn_8s": fcn_8s,
    "unet": unet,
    "fpn": fpn,
    "segnet": segnet,
}


def _shared(encoder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model's options that an encoder that is built for it takes as well: the types."""
    known = encoders.options(encoder)
    types = {k: v for k, v in options.items() if k in ("dtype", "param_dtype")}
    return {k: v for k, v in types.items() if known is None or k in known}


def names() -> list[str]:
    """The names that `create` knows.

    >>> names()
    ['fcn_32s', 'fcn_16s', 'fcn_8s', 'unet', 'fpn', 'segnet']
    """
    return list(_BUILDERS)


def create(
    name: str,
    *,
    encoder: str | nn.Module,
    num_classes: int,
    encoder_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A model by name, for the command line and configuration files.

    Args:
        name: One of `names()`.
        encoder: A module, or a name: one of `jaxseg.encoders.names()` or
            `"package.module:builder"`.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder_options: Options of an encoder that is given by name, such as `{"output_stride":
            16}`.
        **options: Options of the model's builder. An encoder that is given by name gets `dtype` and
            `param_dtype` too.

    Returns:
        The Linen module: a `SegmentationModel`, or a network of `jaxseg.networks`.

    Raises:
        InputError: If a name or an option is not known, or an option's value does not do.

    >>> model = create("unet", encoder="resnet34", num_classes=12, encoder_options={"depth": 4})
    >>> model.encoder.strides
    (2, 4, 8, 16)
    """
    if name not in _BUILDERS:
        raise unknown("model", name, _BUILDERS)
    builder = _BUILDERS[name]
    encoders.check_options(f"model {name!r}", builder, options)
    if isinstance(encoder, str):
        encoder = encoders.create(
            encoder, **{**_shared(encoder, options), **(encoder_options or {})}
        )
    elif encoder_options:
        raise InputError(
            f"encoder_options={dict(encoder_options)} with an encoder that is a module: "
            "set its own fields"
        )
    return encoders.build(
        f"model {name!r}", builder, {"num_classes": num_classes, "encoder": encoder} | options
    )
