"""Encoders: `encoder(images, train=...) -> features`, a tuple of maps from fine to coarse.

Every encoder has the fields `in_channels` and `depth` and the properties `strides` and `channels`
(one number per feature), which are known without running it. A user's own module with the last two
works in every model.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxseg.encoders.contract import Encoder
from jaxseg.encoders.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from jaxseg.encoders.vgg import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from jaxseg.errors import InputError, unknown

__all__ = [
    "VGG",
    "Encoder",
    "ResNet",
    "create",
    "names",
    "options",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

_BUILDERS: dict[str, Callable[..., Any]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
    "vgg13": vgg13,
    "vgg13_bn": vgg13_bn,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "vgg19": vgg19,
    "vgg19_bn": vgg19_bn,
}


def names() -> list[str]:
    """The names that `create` knows.

    >>> names()[:2]
    ['resnet18', 'resnet34']
    """
    return list(_BUILDERS)


def create(name: str, **options: Any) -> Any:
    """An encoder by name, or by the place of its builder.

    Args:
        name: One of `names()`, or `"package.module:builder"` of one's own.
        **options: Arguments of the builder, such as `in_channels`, `depth` or `output_stride`.

    Returns:
        The Linen module.

    Raises:
        InputError: If the name, the builder's place or an option is not known, or an option's value
            does not do.

    >>> create("resnet18", depth=3).strides
    (2, 4, 8)
    """
    builder = _builder(name)
    check_options(f"encoder {name!r}", builder, options)
    return build(f"encoder {name!r}", builder, options)


def build(what: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Calls a builder; a value that its code cannot use becomes an `InputError` that names `what`."""
    try:
        return builder(**options)
    except (TypeError, ArithmeticError) as error:
        raise InputError(f"{what}: {error}") from error


def options(name: str) -> list[str] | None:
    """The options of an encoder's builder, or None where it takes any.

    Args:
        name: As for `create`.

    >>> options("resnet18")
    ['in_channels', 'depth', 'output_stride', 'dilate_first', 'dtype', 'param_dtype']
    """
    return _options(_builder(name))


def check_options(what: str, builder: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raises an `InputError` that lists the valid options if `builder` lacks one of `given`."""
    known = _options(builder)
    if known is None:
        return
    for option in given:
        if option not in known:
            raise unknown(f"option of {what}", option, known)


def _options(builder: Callable[..., Any]) -> list[str] | None:
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.name not in ("parent", "name")]


def _builder(name: str) -> Callable[..., Any]:
    if ":" in name:
        return find_builder(name)
    if name not in _BUILDERS:
        raise unknown("encoder", name, [*_BUILDERS, "package.module:builder"])
    return _BUILDERS[name]


def find_builder(place: str) -> Callable[..., Any]:
    """The function or class at `"package.module:name"`, imported."""
    module_name, _, attribute = place.partition(":")
    if not module_name or module_name.startswith("."):
        raise InputError(
            f"{place!r}: no module name before the colon; the form is package.module:builder"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise InputError(
                f"{place!r}: {module_name} needs {missing}, which is not installed"
            ) from error
        raise InputError(
            f"{place!r}: there is no module {missing!r} on the import path; "
            "is its folder in PYTHONPATH?"
        ) from error
    except (ImportError, SyntaxError) as error:
        raise InputError(f"{place!r}: importing {module_name!r} failed: {error}") from error
    if not attribute.isidentifier() or not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown(f"builder in {module_name}", attribute, public)
    builder = getattr(module, attribute)
    if not callable(builder):
        raise InputError(f"{place!r} is a {type(builder).__name__}, not a function or class")
    return builder
