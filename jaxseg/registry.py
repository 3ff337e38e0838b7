"""Names that stand for builders: gathering them, finding one, checking its options and calling it.

A package of families has one file per family, and each file ends with a mapping from names to
builders, such as `ENCODERS = {"resnet18": resnet18, ...}`. The package lists its files; `gather`
merges their mappings. A builder outside of jaxseg is named by `"package.module:builder"`.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxseg.errors import InputError, unknown

Builder = Callable[..., Any]
"""A function or class that takes options and returns a module, a loss, a data source, ..."""

PATH_FORM = "package.module:builder"


def gather(package: str, files: Iterable[str], mapping: str) -> dict[str, Any]:
    """Returns the mappings of a package's files, merged in the order of the files.

    Args:
        package: The package's dotted name, `__name__` in its `__init__.py`.
        files: Names of its modules.
        mapping: The name that the mapping has in each module.

    Raises:
        ValueError: If two files define the same name.

    >>> list(gather("jaxseg.encoders", ["resnet"], "ENCODERS"))[:2]
    ['resnet18', 'resnet34']
    """
    merged: dict[str, Any] = {}
    for file in files:
        entries = getattr(importlib.import_module(f"{package}.{file}"), mapping)
        if twice := sorted(merged.keys() & entries.keys()):
            raise ValueError(f"{package}.{file}: {twice[0]!r} is defined by another file, too")
        merged |= entries
    return merged


def collect(package: str, attribute: str) -> list[Any]:
    """Returns an attribute of every file of a package, in the order of the files' names.

    Args:
        package: The package's dotted name.
        attribute: The name that each file has.

    >>> "stem/conv" in {weights.stem for weights in collect("jaxseg.pretrained.encoders", "WEIGHTS")}
    True
    """
    folder = importlib.import_module(package).__path__
    files = sorted(file.name for file in pkgutil.iter_modules(folder))
    return [getattr(importlib.import_module(f"{package}.{file}"), attribute) for file in files]


def find(kind: str, name: str, builders: Mapping[str, Builder]) -> Builder:
    """Returns the builder of a name, or imports the one at `"package.module:builder"`.

    Args:
        kind: What the name stands for, such as `"encoder"`; messages begin with it.
        name: A key of `builders`, or the path of a builder.
        builders: The registered builders.

    Raises:
        InputError: If there is no such name, with the closest ones, or no such builder.

    >>> find("fraction", "fractions:Fraction", {})(1, 2)
    Fraction(1, 2)
    """
    if ":" in name:
        return find_builder(name)
    if name not in builders:
        raise unknown(kind, name, [*builders, PATH_FORM])
    return builders[name]


def find_builder(path: str) -> Builder:
    """Imports the function or class at `"package.module:name"`.

    Raises:
        InputError: If the module cannot be imported, or has no such function or class.

    >>> find_builder("math:sqrt")(4.0)
    2.0
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise InputError(f"{path!r}: no module name before the colon; the form is {PATH_FORM}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise InputError(
                f"{path!r}: {module_name} needs {missing}, which is not installed"
            ) from error
        raise InputError(
            f"{path!r}: there is no module {missing!r} on the import path; "
            "is its folder in PYTHONPATH?"
        ) from error
    except (ImportError, SyntaxError) as error:
        raise InputError(f"{path!r}: importing {module_name!r} failed: {error}") from error
    if not attribute.isidentifier() or not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown(f"builder in {module_name}", attribute, public)
    builder = getattr(module, attribute)
    if not callable(builder):
        raise InputError(f"{path!r} is a {type(builder).__name__}, not a function or class")
    return builder


def options(builder: Builder) -> list[str] | None:
    """Returns the names of the options that a builder takes, or None if it takes any.

    Arguments that `functools.partial` has bound are not options, nor are the `parent` and `name` of
    a Linen module.

    >>> def build(depth, *, width=8): ...
    >>> options(build), options(functools.partial(build, width=4)), options(dict)
    (['depth', 'width'], ['depth'], None)
    """
    bound = {"parent", "name"}
    inner = builder
    while isinstance(inner, functools.partial):
        bound |= inner.keywords.keys()
        inner = inner.func
    try:
        parameters = inspect.signature(builder).parameters.values()
    except ValueError:  # some builtins have no signature
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.name not in bound]


def check_options(what: str, builder: Builder, names: Iterable[str]) -> None:
    """Raises an `InputError` that lists the valid options if `builder` lacks one of `names`.

    Args:
        what: The builder in words, such as `"encoder 'resnet18'"`.
        builder: The builder.
        names: Names of options.

    >>> check_options("encoder 'own'", lambda depth: depth, ["dept"])
    Traceback (most recent call last):
      ...
    jaxseg.errors.InputError: unknown option of encoder 'own' 'dept'; did you mean 'depth'? Known: depth
    """
    known = options(builder)
    for name in names:
        if known is not None and name not in known:
            raise unknown(f"option of {what}", name, known)


def build(what: str, builder: Builder, arguments: Mapping[str, Any]) -> Any:
    """Calls a builder with options, which are not checked against its signature.

    Args:
        what: The builder in words, as in `check_options`.
        builder: The builder.
        arguments: Its options and their values.

    Raises:
        InputError: If the builder raises a `TypeError` or an `ArithmeticError`: its code cannot use
            a value.

    >>> build("fraction", find_builder("fractions:Fraction"), {"numerator": 1, "denominator": 0})
    Traceback (most recent call last):
      ...
    jaxseg.errors.InputError: fraction: Fraction(1, 0)
    """
    try:
        return builder(**arguments)
    except (TypeError, ArithmeticError) as error:
        raise InputError(f"{what}: {error}") from error


def summary(builder: Builder) -> str:
    """Returns the first line of a builder's docstring, that of the function inside a partial.

    >>> summary(functools.partial(summary, dict))
    "Returns the first line of a builder's docstring, that of the function inside a partial."
    """
    while isinstance(builder, functools.partial):
        builder = builder.func
    return (inspect.getdoc(builder) or "").partition("\n")[0]
