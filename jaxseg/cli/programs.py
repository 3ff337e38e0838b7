"""The two programs that a run begins with, one that draws its state and its train step: loaded, or compiled and kept."""

import functools
import json

import jax
import optax
from jax.stages import Compiled, Lowered

from jaxseg import recipe as recipes
from jaxseg.cli import kept as kept_programs
from jaxseg.cli.assemble import Network
from jaxseg.cli.folder import Facts
from jaxseg.cli.kept import Kept
from jaxseg.cli.step import batch_shapes, make_state
from jaxseg.compiler import in_background, uncollected
from jaxseg.recipe import Recipe
from jaxseg.train.parallel import Parallel
from jaxseg.train.parallel_step import ParallelStep
from jaxseg.train.state import TrainState


def find(recipe: Recipe, facts: Facts, parallel: Parallel, code: bytes) -> Kept | None:
    """Where the programs of a recipe are kept; None where they are not.

    They are kept in the folder where JAX keeps its own, for one device: a program for several also depends on how they are
    divided.

    Args:
        recipe: The recipe.
        facts: What its data set holds.
        parallel: The devices.
        code: The recipe's file, which has been run and may have changed anything.
    """
    devices = list(parallel.devices)
    folder = kept_programs.place()
    divided = len(devices) > 1 or recipe.train.cut_state or parallel.strategy != "jit"
    if divided or folder is None:
        return None
    surroundings = kept_programs.fingerprint(devices[0])
    if surroundings is None:
        return None
    identity = json.dumps([recipes.to_dict(recipe), facts.without_environment(), code.hex()])
    return Kept(folder, surroundings, identity, devices[0])


class Programs:
    """What a recipe's run begins with.

    Attributes:
        are_kept: Whether an earlier run has compiled them.

    Args:
        recipe: The recipe.
        facts: What its data set holds.
        network: Its model.
        optimizer: Its optimizer.
        kept: Where programs of earlier runs lie, and those compiled now will; None to keep none.
    """

    def __init__(
        self,
        recipe: Recipe,
        facts: Facts,
        network: Network,
        optimizer: optax.GradientTransformation,
        kept: Kept | None,
    ):
        self._recipe, self._facts, self._kept = recipe, facts, kept
        self._load_draw = kept and kept.read("state")
        self._load_step = kept and kept.read("step")
        self.are_kept = None not in (self._load_draw, self._load_step)
        self._draw = make_state(recipe, network, optimizer)

    def draw(self, seed: int) -> TrainState:
        """The state before the first step, with random variables."""
        key = jax.random.key(seed)
        program = self._load_draw and self._load_draw()
        if program is None:
            program = self._compile("state", self._draw.lower(key))
        return program(key)

    def prepare(self, step: ParallelStep) -> None:
        """Loads the step in the background; else traces it now, compiles it there and keeps it."""
        if self._load_step is not None:
            step.load(self._load_step, 3)
            return
        with uncollected():
            key = jax.eval_shape(lambda: jax.random.key(0))
            state = jax.eval_shape(self._draw, key)
        batch = batch_shapes(self._recipe, self._facts)
        step.prepare(state, batch, key, compile=functools.partial(self._compile, "step"))

    def keep(self) -> None:
        """Keeps in the background what was compiled."""
        if self._kept is not None:
            in_background(self._kept.write)

    def _compile(self, name: str, lowered: Lowered) -> Compiled:
        return lowered.compile() if self._kept is None else self._kept.compile(name, lowered)
