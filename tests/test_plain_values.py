"""Plain values are read into declared types, and whatever does not fit is named with its path."""

import dataclasses
import typing

import pytest

from jaxseg.errors import InputError
from jaxseg.plain_values import from_plain


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    kind: typing.Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(1.0))
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] | None = None
    names: dict[int, str | None] | None = None
    flag: bool = False


def test_from_plain_nested_values_get_declared_types():
    value = {
        "inner": {"rate": 2, "kind": "b"},
        "sizes": [1, 2],
        "pair": [3, 4],
        "names": {"7": "seven", "8": None},
        "flag": True,
    }
    read = from_plain(Outer, value, "it")
    assert read == Outer(Inner(2.0, "b"), (1, 2), (3, 4.0), {7: "seven", 8: None}, True)
    assert type(read.inner.rate) is type(read.pair[1]) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "it must be an object, not 3"),
        ({"siezs": [1]}, r"unknown field 'it\.siezs'; did you mean 'it\.sizes'"),
        ({"inner": {}}, r"it\.inner\.rate is missing"),
        ({"inner": {"rate": "fast"}}, r"it\.inner\.rate cannot be 'fast'"),
        ({"inner": {"rate": 1, "kind": "c"}}, r"it\.inner\.kind cannot be 'c'"),
        ({"sizes": [1, 2.5]}, r"it\.sizes cannot be 2\.5"),
        ({"pair": [1]}, r"it\.pair cannot be \[1\]"),
        ({"names": {"x": "y"}}, r"it\.names cannot be"),
        ({"flag": 1}, r"it\.flag cannot be 1"),
    ],
)
def test_from_plain_wrong_values_are_named(value, message):
    with pytest.raises(InputError, match=message):
        from_plain(Outer, value, "it")
