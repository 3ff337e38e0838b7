"""Plain values, as JSON and a command line have them, read into dataclasses with declared types."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxseg.errors import InputError, unknown


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Converts a plain value to a declared type.

    Mappings become dataclasses and dictionaries with typed keys, lists become tuples, ints become floats where a float is
    declared; anything else must have the declared type.

    Args:
        kind: A dataclass, a plain type, `Any`, `Literal`, or a union, `dict` or `tuple` of these.
        value: The plain value.
        where: The path of the value, for messages, such as `"recipe.train"`.

    Raises:
        InputError: A field is unknown or missing, or a value has another type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Crop:
    ...     size: tuple[int, int]
    ...     scale: float = 1.0
    >>> from_plain(Crop, {"size": [32, 48], "scale": 2}, "crop")
    Crop(size=(32, 48), scale=2.0)
    >>> from_plain(Crop, {"size": 32}, "crop")
    Traceback (most recent call last):
      ...
    jaxseg.errors.InputError: crop.size cannot be 32
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _to_dataclass(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            with contextlib.suppress(InputError):
                return from_plain(option, value, where)
    elif origin is typing.Literal and value in arguments:
        return value
    elif origin is dict and isinstance(value, Mapping):
        with contextlib.suppress(ValueError):
            keys = [arguments[0](key) for key in value]
            items = zip(keys, value.values(), strict=True)
            return {k: from_plain(arguments[1], v, f"{where}[{k}]") for k, v in items}
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(from_plain(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif kind is types.NoneType and value is None:
        return None
    elif (kind is float and type(value) is int) or (isinstance(kind, type) and type(value) is kind):
        return float(value) if kind is float else value
    raise InputError(f"{where} cannot be {value!r}")


def _to_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be an object, not {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in value:
        if name not in fields:
            raise unknown("field", f"{where}.{name}", [f"{where}.{known}" for known in fields])
    missing = dataclasses.MISSING
    for name, field in fields.items():
        if name not in value and field.default is missing and field.default_factory is missing:
            raise InputError(f"{where}.{name} is missing")
    return kind(
        **{name: from_plain(hints[name], v, f"{where}.{name}") for name, v in value.items()}
    )
