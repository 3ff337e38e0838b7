"""The strict translation between Flax variables and a PyTorch state dict, by a map of names.

A leaf of the variables, say `params/stem/conv/kernel`, has a module path (`stem/conv`) and a leaf
name (`kernel`). A `KeyMap` translates the path; `fill` and `export` translate the leaf name and the
order of axes: `kernel` `[h, w, in, out]` is `weight` `[out, in, h, w]`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError

Path = tuple[str, ...]
"""The path of a leaf: collection, modules, leaf name."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_ALWAYS_IGNORED = (r"(.*\.)?num_batches_tracked",)


@dataclass(frozen=True)
class KeyMap:
    """The PyTorch names of a module's variables.

    Attributes:
        rules: Pairs of a regular expression for a Flax module path (joined by "/") and the PyTorch
            module's name, in which `\\1` stands for the first group.
        ignored: Regular expressions of PyTorch names that have no counterpart and are skipped on
            purpose.
        windows: PyTorch names of convolutions `[out, in, h, w]` whose kernel is that of a dense
            layer, `[in * h * w, out]`, in Flax, with `(h, w)`.
        flattened: PyTorch names of dense layers `[out, in * h * w]` that are convolutions in Flax.
        transposed: PyTorch names of transposed convolutions, `[in, out, h, w]`.
        constants: PyTorch names of tensors that Flax has no variable for, with the values they must
            have.
    """

    rules: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    windows: tuple[tuple[str, tuple[int, int]], ...] = ()
    flattened: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    constants: tuple[tuple[str, np.ndarray], ...] = ()

    def under(self, path: str, name: str = "") -> "KeyMap":
        """Returns the map one module deeper: `path` in Flax, and `name`, if any, in PyTorch."""
        deeper = tuple((f"{path}/{pattern}", template) for pattern, template in self.rules)
        return replace(self, rules=deeper).inside(name)

    def inside(self, name: str) -> "KeyMap":
        """Returns the map of the same module as a part `name`, if any, of a larger one in PyTorch."""
        prefix = f"{name}." if name else ""
        return KeyMap(
            tuple((pattern, prefix + template) for pattern, template in self.rules),
            tuple(re.escape(prefix) + pattern for pattern in self.ignored),
            tuple((prefix + layer, window) for layer, window in self.windows),
            tuple(prefix + layer for layer in self.flattened),
            tuple(prefix + layer for layer in self.transposed),
            tuple((prefix + tensor, value) for tensor, value in self.constants),
        )

    def __add__(self, other: "KeyMap") -> "KeyMap":
        return KeyMap(
            self.rules + other.rules,
            self.ignored + other.ignored,
            self.windows + other.windows,
            self.flattened + other.flattened,
            self.transposed + other.transposed,
            self.constants + other.constants,
        )

    def name(self, path: Path) -> str | None:
        """Returns the PyTorch name of a leaf, or None if there is no rule for it."""
        _, *modules, leaf = path
        for pattern, template in self.rules:
            match = re.fullmatch(pattern, "/".join(modules))
            if match and leaf in _LEAVES:
                return f"{match.expand(template)}.{_LEAVES[leaf]}"
        return None

    def kernel(self, path: str) -> str | None:
        """Returns the PyTorch name of a module's kernel, or None if there is no rule for it."""
        return self.name(("params", *path.split("/"), "kernel"))

    def window(self, name: str) -> tuple[int, int] | None:
        """Returns the kernel's size of a convolution that is a dense layer in Flax, else None."""
        return dict(self.windows).get(name.removesuffix(".weight"))

    def ignores(self, name: str) -> bool:
        """Returns whether a PyTorch name is skipped on purpose."""
        return any(re.fullmatch(p, name) for p in (*_ALWAYS_IGNORED, *self.ignored))


def leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields every leaf of nested dictionaries with its path.

    >>> list(leaves({"params": {"stem": {"bias": 1}}}))
    [(('params', 'stem', 'bias'), 1)]
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def fill(
    key_map: KeyMap, variables: Mapping[str, Any], state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns variables like `variables`, with the values of `state_dict`.

    Args:
        key_map: How names translate.
        variables: Nested dictionaries of arrays, or of anything with a shape and a dtype.
        state_dict: PyTorch names to arrays.

    Raises:
        InputError: If a leaf has no tensor, a tensor no leaf, or shapes differ; the message lists
            all of them.
    """
    missing, wrong, filled, used = [], [], {}, set()
    for path, leaf in leaves(variables):
        name = key_map.name(path)
        if name is None or name not in state_dict:
            missing.append(f"{'/'.join(path)} (no {name or 'rule for it'})")
            continue
        if name in used:
            wrong.append(f"{'/'.join(path)}: {name} was used before")
            continue
        used.add(name)
        value = _from_torch_layout(key_map, name, path, np.asarray(state_dict[name]), leaf.shape)
        if value.shape != tuple(leaf.shape):
            wrong.append(
                f"{'/'.join(path)}: {name} gives {value.shape}, but {tuple(leaf.shape)} is needed"
            )
            continue
        filled[path] = jnp.asarray(value, leaf.dtype)
    for name, value in key_map.constants:
        used.add(name)
        if name not in state_dict:
            missing.append(f"a constant (no {name})")
        elif not _equal(np.asarray(state_dict[name]), value):
            wrong.append(
                f"{name} differs from the constant of the model; one that learns it takes it"
            )
    unused = [name for name in state_dict if name not in used and not key_map.ignores(name)]
    if missing or wrong or unused:
        raise InputError(_misfit(missing, wrong, unused))
    return _nest(filled)


def export(key_map: KeyMap, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the state dict of `variables`, the inverse of `fill`.

    Raises:
        InputError: If a leaf has no name, or variables hold shapes instead of arrays.
    """
    state_dict, missing = {}, []
    for path, leaf in leaves(variables):
        name = key_map.name(path)
        if name is None:
            missing.append(f"{'/'.join(path)} (no rule for it)")
        elif not isinstance(leaf, jax.Array | np.ndarray):
            missing.append(f"{'/'.join(path)} (a shape, not an array)")
        else:
            state_dict[name] = _to_torch_layout(key_map, name, path, np.asarray(leaf))
    if missing:
        raise InputError(_misfit(missing, [], []))
    return state_dict | dict(key_map.constants)


def _equal(value: np.ndarray, constant: np.ndarray) -> bool:
    return value.shape == constant.shape and bool(np.allclose(value, constant, rtol=0, atol=1e-6))


def _from_torch_layout(
    key_map: KeyMap, name: str, path: Path, value: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    layer, window = name.removesuffix(".weight"), key_map.window(name)
    if layer in key_map.transposed and value.ndim == 4:
        return value.transpose(2, 3, 0, 1)
    if layer in key_map.flattened and value.ndim == 2 and value.shape[1] % np.prod(shape[:2]) == 0:
        value = value.reshape(value.shape[0], -1, *shape[:2])
    if window and value.shape[2:] == window:
        value = value.reshape(value.shape[0], -1)
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.transpose()


def _to_torch_layout(key_map: KeyMap, name: str, path: Path, value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    layer, window = name.removesuffix(".weight"), key_map.window(name)
    if layer in key_map.transposed:
        return np.ascontiguousarray(value.transpose(2, 3, 0, 1))
    value = np.ascontiguousarray(
        value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.transpose()
    )
    if layer in key_map.flattened:
        return value.reshape(value.shape[0], -1)
    return value.reshape(value.shape[0], -1, *window) if window else value


def _nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def _misfit(missing: list[str], wrong: list[str], unused: list[str]) -> str:
    parts = [
        (missing, "variables without a tensor"),
        (wrong, "tensors that do not fit"),
        (unused, "tensors without a variable"),
    ]
    text = [f"{len(items)} {what}:\n  " + "\n  ".join(items) for items, what in parts if items]
    return "the weights do not match the model: " + "\n".join(text)
