"""Compilation: the options of XLA and the settings of Python that make programs fast to compile and to run."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.core import Tracer

# Convolutions by Eigen instead of YNNPACK: gradients of kernels are several times faster on a CPU.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def jit(fn: Callable[..., Any], **kwargs: Any) -> Any:
    """Compiles a function like `jax.jit`, with the compiler options that make networks fast on the default backend.

    On CPUs convolutions, and especially their gradients, take a fraction of the time that XLA's defaults take; on GPUs and
    TPUs there are no such options. JAX refuses compiler options inside of another `jit`, so use this function for the
    outermost one.

    Args:
        fn: A pure function, such as one returned by `jaxseg.inference.make_predict`.
        **kwargs: Keyword arguments of `jax.jit`.

    Returns:
        The result of `jax.jit`.

    >>> double = jit(lambda x, y: 2 * x + y, donate_argnums=1)
    >>> float(double(1.0, 3.0))
    5.0
    """
    return jax.jit(fn, compiler_options=options(jax.default_backend()), **kwargs)


def jit_once(fn: Callable[..., Any]) -> Any:
    """Compiles a function that is called once, such as an initializer, with little optimization.

    Optimizing the random numbers of every shape of a network takes XLA far longer on a CPU than it saves in one call; without
    any optimization, on the other hand, sampling takes longer. Under another transformation, such as `jit`, JAX takes no options.

    >>> jit_once(lambda key: jax.random.normal(key, (3,)))(jax.random.key(0)).shape
    (3,)
    """
    level = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

    def run(*args: Any) -> Any:
        is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))
        return jax.jit(fn, compiler_options=None if is_traced else level)(*args)

    return run


@functools.cache
def options(platform: str) -> dict[str, Any] | None:
    """Returns the `compiler_options` of `jax.jit` for `"cpu"`, `"gpu"` or `"tpu"`.

    The result is None where there are none, or where this version of XLA does not know them.

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
def gc_disabled() -> Iterator[None]:
    """Disables Python's garbage collector while a function is traced.

    The collector would scan the millions of objects of a network's trace repeatedly, and almost none of them is garbage: a
    U-Net's train step is traced and lowered in 1.4 instead of 1.8 s.

    >>> with gc_disabled():
    ...     gc.isenabled()
    False
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
