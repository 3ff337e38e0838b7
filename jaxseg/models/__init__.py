"""Whole models: one builder per architecture, and `create` for those who have names instead of modules."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxseg import encoders
from jaxseg.errors import InputError, unknown
from jaxseg.models.fcn import fcn_8s, fcn_16s, fcn_32s
from jaxseg.models.fcn_head import fcn
from jaxseg.models.fcn_vgg import fcn_vgg_8s, fcn_vgg_8s_at_once, fcn_vgg_16s, fcn_vgg_32s
from jaxseg.models.fpn import fpn
from jaxseg.models.model import SegmentationModel
from jaxseg.models.multiscale_fpn import multiscale_fpn
from jaxseg.models.original_unet import original_unet, original_unet_padded
from jaxseg.models.segnet import segnet
from jaxseg.models.unet import unet
from jaxseg.nn import MERGES, UPSAMPLINGS

__all__ = [
    "SegmentationModel",
    "create",
    "fcn",
    "fcn_8s",
    "fcn_16s",
    "fcn_32s",
    "fcn_vgg_8s",
    "fcn_vgg_8s_at_once",
    "fcn_vgg_16s",
    "fcn_vgg_32s",
    "fpn",
    "multiscale_fpn",
    "names",
    "original_unet",
    "original_unet_padded",
    "segnet",
    "takes_encoder",
    "unet",
]

_BUILDERS: dict[str, Callable[..., Any]] = {
    "fcn_32s": fcn_32s,
    "fcn_16s": fcn_16s,
    "fcn_8s": fcn_8s,
    "fcn_vgg_32s": fcn_vgg_32s,
    "fcn_vgg_16s": fcn_vgg_16s,
    "fcn_vgg_8s": fcn_vgg_8s,
    "fcn_vgg_8s_at_once": fcn_vgg_8s_at_once,
    "fcn": fcn,
    "unet": unet,
    "fpn": fpn,
    "multiscale_fpn": multiscale_fpn,
    "segnet": segnet,
    "original_unet": original_unet,
    "original_unet_padded": original_unet_padded,
}
_NAMED: dict[str, Mapping[str, Any]] = {"upsample": UPSAMPLINGS, "merge": MERGES}
"""Options that are callables, which `create` takes by name as well."""


def _shared(encoder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model's options that an encoder that is built for it takes as well: the types."""
    known = encoders.options(encoder)
    types = {k: v for k, v in options.items() if k in ("dtype", "param_dtype")}
    return {k: v for k, v in types.items() if known is None or k in known}


def names() -> list[str]:
    """The names that `create` knows.

    >>> names()[:3]
    ['fcn_32s', 'fcn_16s', 'fcn_8s']
    """
    return list(_BUILDERS)


def takes_encoder(name: str) -> bool:
    """Whether an architecture stands on an encoder that is chosen.

    Raises:
        InputError: If the name is not known.

    >>> takes_encoder("unet"), takes_encoder("original_unet")
    (True, False)
    """
    return "encoder" in inspect.signature(_builder(name)).parameters


def _builder(name: str) -> Callable[..., Any]:
    if name not in _BUILDERS:
        raise unknown("model", name, _BUILDERS)
    return _BUILDERS[name]


def _by_name(option: str, value: Any) -> Any:
    """The callable that a name stands for; what is no name, or no such option's, as it is."""
    if option not in _NAMED or not isinstance(value, str):
        return value
    if value not in _NAMED[option]:
        raise unknown(option, value, _NAMED[option])
    return _NAMED[option][value]


def create(
    name: str,
    *,
    num_classes: int,
    encoder: str | nn.Module | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A model by name, for the command line and configuration files.

    Args:
        name: One of `names()`.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A module, or a name: one of `jaxseg.encoders.names()` or
            `"package.module:builder"`. None for the architectures that have none of their own
            choice, see `takes_encoder`.
        encoder_options: Options of an encoder that is given by name, such as `{"output_stride":
            16}`.
        **options: Options of the model's builder; `upsample` and `merge` by name too (see
            `jaxseg.nn.UPSAMPLINGS` and `jaxseg.nn.MERGES`). An encoder that is given by name gets `dtype` and
            `param_dtype` too.

    Returns:
        The Linen module: a `SegmentationModel`, or a network of `jaxseg.networks`.

    Raises:
        InputError: If a name or an option is not known, an option's value does not do, or there is
            an encoder too many or too few.

    >>> model = create("unet", encoder="resnet34", num_classes=12, encoder_options={"depth": 4})
    >>> model.encoder.strides
    (2, 4, 8, 16)
    """
    builder = _builder(name)
    encoders.check_options(f"model {name!r}", builder, options)
    options = {"num_classes": num_classes} | {k: _by_name(k, v) for k, v in options.items()}
    if not takes_encoder(name):
        if encoder is not None or encoder_options:
            raise InputError(
                f"model {name!r} has no encoder to choose: leave out encoder={encoder!r} and its "
                "options"
            )
        return encoders.build(f"model {name!r}", builder, options)
    if encoder is None:
        raise InputError(
            f"model {name!r} stands on an encoder: name one of {', '.join(encoders.names())}"
        )
    if isinstance(encoder, str):
        encoder = encoders.create(
            encoder, **{**_shared(encoder, options), **(encoder_options or {})}
        )
    elif encoder_options:
        raise InputError(
            f"encoder_options={dict(encoder_options)} with an encoder that is a module: "
            "set its own fields"
        )
    return encoders.build(f"model {name!r}", builder, {"encoder": encoder} | options)
