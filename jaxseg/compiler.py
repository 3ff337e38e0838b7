"""How programs are traced and compiled: the one place that knows what XLA is asked for beyond its defaults."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

T = TypeVar("T")

# Convolutions by Eigen instead of YNNPACK: gradients of filters are several times faster on a CPU.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def jit(fn: Callable[..., Any], **arguments: Any) -> Any:
    """`jax.jit` with the options that make networks fast on the backend at hand.

    On a CPU convolutions, and their gradients even more, take a fraction of the time that XLA's defaults take; on GPUs
    and TPUs it is `jax.jit`. JAX refuses such options inside of another `jit`, so this one has to be the outermost.

    Args:
        fn: A pure function, such as one of `jaxseg.inference.make_predict`.
        **arguments: Further arguments of `jax.jit`.

    Returns:
        What `jax.jit` returns.

    >>> double = jit(lambda x, y: 2 * x + y, donate_argnums=1)
    >>> float(double(1.0, 3.0))
    5.0
    """
    return jax.jit(fn, compiler_options=options(jax.default_backend()), **arguments)


def jit_once(fn: Callable[..., Any]) -> Any:
    """`jax.jit` for a function that runs once, such as one that draws variables, with little optimisation.

    XLA on a CPU spends a second or more on the random numbers of each kernel's shape, a minute on a large network, to
    save milliseconds in a function that runs once; without any optimisation the numbers themselves take longer to draw.

    >>> jit_once(lambda key: jax.random.normal(key, (3,)))(jax.random.key(0)).shape
    (3,)
    """
    few = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(fn, compiler_options=few)


@functools.cache
def options(platform: str) -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for `"cpu"`, `"gpu"` or `"tpu"`; None where XLA has or knows none.

    >>> options("tpu") is None
    True
    """
    if platform != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _CPU_OPTIONS


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's garbage collector, for the time of a trace.

    It would look through the millions of objects of a network's trace again and again, and hardly one of them is garbage:
    a U-Net's train step is traced and lowered in 1.4 instead of 1.8 s.

    >>> with uncollected():
    ...     gc.isenabled()
    False
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def in_background(fn: Callable[..., T], *args: Any) -> Future[T]:
    """Calls `fn(*args)` in a thread: while XLA compiles, Python goes on.

    JAX's context managers, such as `jax.enable_x64`, hold for the thread that enters them and not for this one.

    >>> in_background(max, 1, 2).result()
    2
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="jaxseg")
    future = pool.submit(fn, *args)
    pool.shutdown(wait=False)  # the thread ends with its call
    return future
