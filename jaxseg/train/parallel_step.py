"""A step over all devices, compiled when it is called or, in the background, before that."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from jaxseg.compiler import in_background, uncollected
from jaxseg.train.processes import settled


class ParallelStep:
    """What `Parallel.compile` returns: the function for arguments that lie on the devices.

    Attributes:
        fn: The step itself, not compiled.

    Args:
        fn: The step.
        program: Makes the function of `jax.jit` for arguments, or for what describes them.
        describe: Shapes, types and places of arguments; None where only arguments that are there can be compiled for.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        program: Callable[[Sequence[Any]], Callable[..., Any]],
        describe: Callable[[Sequence[Any]], Sequence[Any]] | None,
    ):
        self.fn = fn
        self._program = program
        self._describe = describe
        self._programs: dict[int, Callable[..., Any]] = {}
        self._compiling: Future[Any] | None = None
        self._coming: dict[int, Callable[[], Callable[..., Any]]] = {}
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any) -> Any:
        """The step's results; compiles where it has to."""
        if self._compiling is not None:
            self._compiling.exception()  # waits; what went wrong does so again below, where it is seen
            self._compiling = None
        if len(args) in self._coming:
            self._programs[len(args)] = self._coming.pop(len(args))()
        if len(args) in self._programs:
            return settled(self._programs[len(args)](*args))
        with uncollected():
            program = self._programs[len(args)] = self._program(args)
            return settled(program(*args))

    def prepare(self, *args: Any) -> None:
        """Traces the step now and compiles it in the background, while its arguments are still made or read.

        The first call waits for it. What cannot be compiled fails then, and `pmap` compiles then as a whole.

        Args:
            *args: Arrays or their `jax.ShapeDtypeStruct`, as for `Parallel.lower`.
        """
        if self._describe is None:
            return
        with uncollected():
            described = self._describe(args)
            program: Any = self._program(described)
            lowered = program.lower(*described)
        self._programs[len(args)] = program
        self._compiling = in_background(lowered.compile)

    def use(self, program: Callable[[], Callable[..., Any]], count: int) -> None:
        """Has calls with `count` arguments use a program that comes from elsewhere, in place of compiling the step.

        Args:
            program: Gives it, when it is first called for.
            count: How many arguments.
        """
        self._coming[count] = program
