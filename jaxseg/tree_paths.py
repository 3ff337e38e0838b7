"""Paths of arrays in a tree, and parts of a tree by a prefix such as `"encoder"` or `"encoder/stem"`."""

from collections.abc import Iterable
from typing import Any

import jax

from jaxseg.errors import InputError


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the path of a leaf as text, its names separated by `/`.

    Args:
        path: A path from `jax.tree.leaves_with_path`.

    >>> [path_name(path) for path, _ in jax.tree.leaves_with_path({"a": [1, {"b": 2}]})]
    ['a/0', 'a/1/b']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def under(path: str, prefix: str) -> bool:
    """Whether a path starts with a prefix of whole names; every path starts with `""`.

    >>> under("encoder/stem/kernel", "encoder"), under("encoder", "encoder"), under("encoder_2/kernel", "encoder")
    (True, True, False)
    """
    return not prefix or path == prefix or path.startswith(prefix + "/")


def under_any(path: str, prefixes: Iterable[str]) -> bool:
    """Whether a path starts with one of several prefixes of whole names.

    >>> under_any("head/kernel", ("encoder", "head"))
    True
    """
    return any(under(path, prefix) for prefix in prefixes)


def check_prefixes(prefixes: Iterable[str], paths: Iterable[str], kind: str) -> None:
    """Checks that every prefix matches a path.

    Args:
        prefixes: Prefixes of whole names.
        paths: Existing paths, `/`-separated.
        kind: The kind of thing at these paths, such as `"parameter"`, for the message.

    Raises:
        InputError: A prefix matches no path, or `prefixes` is a string instead of a tuple of strings.

    >>> check_prefixes(("encodr",), ["encoder/kernel", "head/kernel"], "parameter")
    Traceback (most recent call last):
    jaxseg.errors.InputError: no parameter lies under 'encodr'; the names at the top are encoder, head
    """
    if isinstance(prefixes, str):
        raise InputError(f"prefixes are a tuple of names: use ({prefixes!r},), not {prefixes!r}")
    paths = list(paths)
    for prefix in prefixes:
        if not any(under(path, prefix) for path in paths):
            names = sorted({path.split("/")[0] for path in paths})
            existing = f"the names at the top are {', '.join(names)}" if names else "there is none"
            raise InputError(f"no {kind} lies under {prefix!r}; {existing}")
