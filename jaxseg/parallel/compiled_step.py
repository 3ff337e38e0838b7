"""A function over all devices, compiled when it is first called or, before that, in the background."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxseg.compiler import gc_disabled
from jaxseg.parallel.processes import wait_for_gloo


class CompiledStep:
    """The compiled function that `Parallel.compile` returns, for arguments that lie on the devices.

    Attributes:
        fn: The function that is compiled.

    Args:
        fn: The function to compile.
        make_jit: Returns the `jax.jit` of `fn` for arguments, or for their shapes and dtypes.
        describe: Returns `jax.ShapeDtypeStruct` of arguments, with shardings; None where only a call can compile `fn`.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        make_jit: Callable[[Sequence[Any]], Callable[..., Any]],
        describe: Callable[[Sequence[Any]], Sequence[Any]] | None,
    ):
        self.fn = fn
        self._make_jit = make_jit
        self._describe = describe
        self._jits: dict[int, Callable[..., Any]] = {}  # by number of arguments
        self._compiling: Future[Any] | None = None
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any) -> Any:
        """Returns `fn(*args)`, which is compiled for new shapes."""
        if self._compiling is not None:
            self._compiling.exception()  # waits; the call below raises what the compiler has raised
            self._compiling = None
        if len(args) in self._jits:
            return wait_for_gloo(self._jits[len(args)](*args))
        with gc_disabled():
            jitted = self._jits[len(args)] = self._make_jit(args)
            return wait_for_gloo(jitted(*args))

    def compile_in_background(self, *args: Any) -> None:
        """Traces the function now and compiles it in a thread, while its arguments are still computed or loaded.

        The first call waits for the compiler, and raises its errors. With `"pmap"` the first call compiles.

        Args:
            *args: Arrays or `jax.ShapeDtypeStruct`, as for `Parallel.lower`.
        """
        if self._describe is None:
            return
        with gc_disabled():
            described = self._describe(args)
            jitted: Any = self._make_jit(described)
            lowered = jitted.lower(*described)
        self._jits[len(args)] = jitted
        pool = ThreadPoolExecutor(1, thread_name_prefix="jaxseg")
        self._compiling = pool.submit(lowered.compile)
        pool.shutdown(wait=False)  # the thread ends with the compilation
