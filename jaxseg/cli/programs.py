"""The two programs that a run begins with, one that draws its variables and its train step: kept, or traced."""

import inspect
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
import optax
from jax.stages import Compiled

from jaxseg import recipe as recipes
from jaxseg.cli import exports
from jaxseg.cli.assemble import Network
from jaxseg.cli.exports import Exports
from jaxseg.cli.folder import Facts
from jaxseg.cli.step import described
from jaxseg.recipe import Recipe
from jaxseg.train.parallel import Parallel
from jaxseg.train.parallel_step import ParallelStep
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
    folder = exports.place()
    divided = len(parallel.devices) > 1 or recipe.train.cut_state or parallel.strategy != "jit"
    if divided or folder is None:
        return None
    identity = json.dumps([recipes.to_dict(recipe), facts.without_environment(), code.hex()])
    digest = exports.digest(identity)
    return None if digest is None else Exports(folder, digest)


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
        loading: Those of them that are loading already.
    """

    def __init__(
        self,
        recipe: Recipe,
        facts: Facts,
        network: Network,
        optimizer: optax.GradientTransformation,
        kept: Exports | None,
        loading: Mapping[str, Future[Compiled]],
    ):
        self._recipe, self._facts = recipe, facts
        self._network, self._optimizer = network, optimizer
        self._kept, self._loading = kept, dict(loading)
        for name in {"init", "step"} - {*self._loading}:
            if kept is not None and (program := kept.read(name)) is not None:
                self._loading[name] = exports.begin(name, program)
        self.are_kept = len(self._loading) == 2

    def init(self, seed: int) -> Variables:
        """Random variables."""
        init = self._network.init
        key = jax.random.key(seed)
        if "init" not in self._loading:
            self._trace("init", inspect.unwrap(init), key)
        return self._loading["init"].result()(key) if "init" in self._loading else init(key)

    def prepare(self, step: ParallelStep) -> None:
        """Has the step load in the background; else traces it now, and compiles it there."""
        if "step" not in self._loading:
            shapes = self._network.shapes()
            args = state, *others = described(self._recipe, self._facts, shapes, self._optimizer)
            self._trace("step", _with_leaves(step.fn, state), jax.tree.leaves(state), *others)
            if "step" not in self._loading:
                step.prepare(*args)
                return
        loading = self._loading["step"]
        step.use(lambda: _with_state(loading.result()), 3)

    def _trace(self, name: str, fn: Callable[..., Any], *args: Any) -> None:
        if self._kept is not None and (program := self._kept.write(name, fn, *args)) is not None:
            self._loading[name] = exports.begin(name, program)


def _with_leaves(step: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """A step whose state is a list: a program in a file knows no classes."""
    structure = jax.tree.structure(like)

    def train_step(leaves: list[Any], batch: Any, key: Key) -> tuple[list[Any], Any]:
        new, logs = step(jax.tree.unflatten(structure, leaves), batch, key)
        return jax.tree.leaves(new), logs

    return train_step


def _with_state(step: Callable[..., Any]) -> Callable[..., Any]:
    """The inverse of `_with_leaves`."""

    def train_step(state: Any, batch: Any, key: Key) -> tuple[Any, Any]:
        leaves, logs = step(jax.tree.leaves(state), batch, key)
        return jax.tree.unflatten(jax.tree.structure(state), leaves), logs

    return train_step
