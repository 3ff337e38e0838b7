"""Whole models: one builder per architecture, and `create` for those who have names instead of modules."""

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
from jaxseg.models.segnet import segnet
from jaxseg.models.unet import unet

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
    "names",
    "segnet",
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
    "segnet": segnet,
}


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
