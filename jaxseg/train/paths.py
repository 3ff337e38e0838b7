"""Parts of a model by the beginning of their path, such as `"encoder"` or `"encoder/stem"`."""

from collections.abc import Iterable
from typing import Any

import jax

from jaxseg.errors import InputError


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path in a tree, as prefixes and layouts read it.

    >>> [path_name(path) for path, _ in jax.tree.leaves_with_path({"a": [1, {"b": 2}]})]
    ['a/0', 'a/1/b']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def under(path: str, prefix: str) -> bool:
    """Whether a path lies under a prefix of whole names; everything lies under `""`.

    >>> under("encoder/stem/kernel", "encoder"), under("encoder", "encoder"), under("encoder_2/kernel", "encoder")
    (True, True, False)
    """
    return not prefix or path == prefix or path.startswith(prefix + "/")


def under_any(path: str, prefixes: Iterable[str]) -> bool:
    """Whether a path lies under one of several prefixes."""
    return any(under(path, prefix) for prefix in prefixes)


def check_prefixes(prefixes: Iterable[str], paths: Iterable[str], kind: str) -> None:
    """Refuses a prefix under which nothing lies.

    Args:
        prefixes: What was given.
        paths: What there is, `/`-separated.
        kind: What the paths stand for, for the message.

    Raises:
        InputError: Names the prefix and what there is; or one text stands where several are expected.

    >>> check_prefixes(("encodr",), ["encoder/kernel", "head/kernel"], "parameter")
    Traceback (most recent call last):
    jaxseg.errors.InputError: no parameter lies under 'encodr'; at the top there are encoder, head
    """
    if isinstance(prefixes, str):
        raise InputError(f"prefixes are a tuple of names, not the text {prefixes!r}")
    paths = list(paths)
    for prefix in prefixes:
        if not any(under(path, prefix) for path in paths):
            tops = sorted({path.split("/")[0] for path in paths})
            there = f"at the top there are {', '.join(tops)}" if tops else "there is none at all"
            raise InputError(f"no {kind} lies under {prefix!r}; {there}")
