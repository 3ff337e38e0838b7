"""Segmentation models: one file per architecture, and `create` for models by name.

Each file holds the modules of an architecture and its builders, and ends with a mapping `MODELS`
from names to builders; those are attributes of this package, such as `jaxseg.models.unet`. The
modules are imported from the files: `from jaxseg.models.unet import UNet`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxseg import encoders, registry
from jaxseg.encoders.protocol import Encoder
from jaxseg.errors import InputError, unknown
from jaxseg.models.classifier import (
    Classifier,
    ConvHead,
    DenseHead,
    fully_convolutional,
    vgg_classifier,
)
from jaxseg.models.classifier import classifier as classifier
from jaxseg.models.ensemble import Ensemble
from jaxseg.models.segmentation_model import Decoder, SegmentationModel
from jaxseg.nn import MERGES, UPSAMPLINGS

__all__ = [
    "MODELS",
    "Classifier",
    "ConvHead",
    "Decoder",
    "DenseHead",
    "Ensemble",
    "SegmentationModel",
    "accepts_encoder",
    "classifier",
    "create",
    "fully_convolutional",
    "names",
    "takes_encoder",
    "vgg_classifier",
]

_FILES = (
    "deeplab_v3",
    "deeplab_v3_plus",
    "fcn_head",
    "fcn_skip",
    "fcn_vgg",
    "fpn",
    "linknet",
    "manet",
    "multiscale_fpn",
    "original_unet",
    "pan",
    "pspnet",
    "segformer",
    "segnet",
    "unet",
    "unet_plus_plus",
    "upernet",
)

MODELS: dict[str, registry.Builder] = registry.gather(__name__, _FILES, "MODELS")
"""The builders of all architectures by name."""
globals().update(MODELS)  # a builder hides the file of its name

if TYPE_CHECKING:

    def __getattr__(name: str) -> registry.Builder: ...


_CALLABLES: dict[str, Mapping[str, Any]] = {"upsample": UPSAMPLINGS, "merge": MERGES}
"""Options that are callables, which `create` takes by name as well."""


def names() -> list[str]:
    """Returns the names that `create` knows.

    >>> names()[:2]
    ['deeplab_v3', 'deeplab_v3_plus']
    """
    return list(MODELS)


def takes_encoder(name: str) -> bool:
    """Returns whether an architecture's builder has an argument `encoder`.

    Args:
        name: As for `create`.

    Raises:
        InputError: If the name is unknown.

    >>> takes_encoder("unet"), takes_encoder("original_unet")
    (True, False)
    """
    known = registry.options(registry.find("model", name, MODELS))
    return known is None or "encoder" in known


def accepts_encoder(name: str, encoder: str | Encoder) -> bool:
    """Returns whether an architecture can be built on an encoder.

    Args:
        name: As for `create`.
        encoder: As for `create`.

    >>> accepts_encoder("segnet", "vgg16_bn"), accepts_encoder("segnet", "resnet18")
    (True, False)
    """
    try:
        create(name, num_classes=2, encoder=encoder)
    except InputError:
        return False
    return True


def create(
    name: str,
    *,
    num_classes: int,
    encoder: str | Encoder | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Builds a model by name, for the command line and recipes.

    Args:
        name: One of `names()`, or `"package.module:builder"` for a builder of your own.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A module, or a name: one of `jaxseg.encoders.names()` or
            `"package.module:builder"`. None for an architecture without an encoder to choose, see
            `takes_encoder`.
        encoder_options: Options of an encoder that is built by name, such as `{"output_stride":
            16}`.
        **options: Options of the model's builder; `upsample` and `merge` by name too (see
            `jaxseg.nn.UPSAMPLINGS` and `jaxseg.nn.MERGES`). An encoder that is built by name gets
            `dtype` and `param_dtype` too.

    Returns:
        The Linen module, such as a `SegmentationModel`.

    Raises:
        InputError: If a name or an option is unknown, a builder cannot use a value, the encoder is
            missing, or there is one that the architecture does not take.

    >>> model = create("unet", encoder="resnet34", num_classes=12, encoder_options={"depth": 4})
    >>> model.encoder.strides
    (2, 4, 8, 16)
    """
    what, builder = f"model {name!r}", registry.find("model", name, MODELS)
    registry.check_options(what, builder, options)
    options = {"num_classes": num_classes} | {k: _callable(k, v) for k, v in options.items()}
    if not takes_encoder(name):
        if encoder is not None or encoder_options:
            raise InputError(
                f"{what} has no encoder to choose: leave out encoder={encoder!r} and its options"
            )
        return registry.build(what, builder, options)
    if encoder is None:
        raise InputError(f"{what} stands on an encoder: name one of {', '.join(encoders.names())}")
    if isinstance(encoder, str):
        types = _shared_types(encoder, options)
        encoder = encoders.create(encoder, **{**types, **(encoder_options or {})})
    elif encoder_options:
        raise InputError(
            f"encoder_options={dict(encoder_options)} with an encoder that is a module: "
            "set its own fields"
        )
    return registry.build(what, builder, {"encoder": encoder} | options)


def _callable(option: str, value: Any) -> Any:
    """Returns the callable that an option names, and any other value as it is."""
    if option not in _CALLABLES or not isinstance(value, str):
        return value
    if value not in _CALLABLES[option]:
        raise unknown(option, value, _CALLABLES[option])
    return _CALLABLES[option][value]


def _shared_types(encoder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the types among a model's options that the encoder's builder takes too."""
    known = encoders.options(encoder)
    types = {k: v for k, v in options.items() if k in ("dtype", "param_dtype")}
    return {k: v for k, v in types.items() if known is None or k in known}
