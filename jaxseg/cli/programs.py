"""The two programs that a run begins with, one that draws its variables and its train step: kept, or traced."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path

from jaxseg import recipe as recipes
from jaxseg.cli import exports
from jaxseg.cli.assemble import Network
from jaxseg.cli.exports import Exports
from jaxseg.cli.folder import Facts
from jaxseg.cli.step import described, train_step
from jaxseg.recipe import Recipe
from jaxseg.train.parallel import Parallel
from jaxseg.train.variables import jit_init
from jaxseg.typing import Key, Variables


def find(recipe: Recipe, facts: Facts, parallel: Parallel, code: bytes) -> Exports | None:
    """Where the programs of a recipe are kept; None where they are not.

    They are kept in the folder where JAX keeps compiled ones, for one device, whose programs do not say how they are
    divided.

    Args:
        recipe: The recipe.
        facts: What its data set holds.
        parallel: The devices.
        code: The recipe's file, which has been run and may have changed anything.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    divided = len(parallel.devices) > 1 or recipe.train.cut_state or parallel.strategy != "jit"
    if divided or not folder or "://" in folder:
        return None
    identity = json.dumps([recipes.to_dict(recipe), facts.without_environment(), code.hex()])
    return exports.find(Path(folder) / "traced", identity)


class Programs:
    """What a recipe's run begins with.

    Attributes:
        are_kept: Whether an earlier run has traced them.

    Args:
        recipe: The recipe.
        facts: What its data set holds.
        network: Its model.
        optimizer: Its optimizer.
        kept: Where programs of earlier runs lie, and those traced now will; None to keep none.
    """

    def __init__(
        self,
        recipe: Recipe,
        facts: Facts,
        network: Network,
        optimizer: optax.GradientTransformation,
        kept: Exports | None,
    ):
        self._recipe, self._facts = recipe, facts
        self._network, self._optimizer = network, optimizer
        self._kept = kept
        self._key = jax.eval_shape(lambda: jax.random.key(0))
        self._init = kept and kept.read("init")
        self._step = kept and kept.read("step")
        self.are_kept = None not in (self._init, self._step)

    def init(self) -> Callable[[Key], Variables]:
        """The function that draws variables; it compiles when it is called."""
        if self._init is None and self._kept is not None:
            self._init = self._kept.write("init", inspect.unwrap(self._network.init), self._key)
        if self._init is None:
            return self._network.init
        init: Callable[..., Any] = self._init.call
        return jit_init(init)

    def step(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The train step, not compiled yet, and the shapes and types of its arguments."""
        step = train_step(self._recipe, self._facts, self._network, self._optimizer)
        shapes = jax.eval_shape(self.init(), self._key)
        args = state, batch, key = described(self._recipe, self._facts, shapes, self._optimizer)
        if self._step is None and self._kept is not None:
            flat = _with_flat_state(step, state)
            self._step = self._kept.write("step", flat, _by_path(state), batch, key)
        return (step if self._step is None else _with_state(self._step.call)), args


def _with_flat_state(step: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """A step whose state is a dictionary: a program in a file knows no classes."""

    def train_step(state: Mapping[str, Any], batch: Any, key: Key) -> tuple[dict[str, Any], Any]:
        new, logs = step(_from_paths(state, like), batch, key)
        return _by_path(new), logs

    return train_step


def _with_state(flat_step: Callable[..., Any]) -> Callable[..., Any]:
    """The inverse of `_with_flat_state`."""

    def train_step(state: Any, batch: Any, key: Key) -> tuple[Any, Any]:
        new, logs = flat_step(_by_path(state), batch, key)
        return _from_paths(new, state), logs

    return train_step


def _by_path(tree: Any) -> dict[str, Any]:
    return {keystr(path): leaf for path, leaf in tree_leaves_with_path(tree)}


def _from_paths(leaves: Mapping[str, Any], like: Any) -> Any:
    return tree_map_with_path(lambda path, _: leaves[keystr(path)], like)
