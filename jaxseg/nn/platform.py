"""Which form of an operation a program gets: the one for CPUs, or the plain one that XLA knows best elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import get_abstract_mesh

from jaxseg import collective


def by_platform(*args: Any, cpu: Callable[..., Any], plain: Callable[..., Any]) -> Any:
    """`cpu(*args)` where the program is compiled for a CPU, `plain(*args)` elsewhere; both give the same.

    Decided when the program is lowered, for the platform that it is lowered for: a TPU's program that is made on a CPU
    has the plain form. So has every program that cuts images into bands of rows: XLA knows what rows a plain operation
    needs of its neighbours.

    Not to be differentiated through, which would keep what both forms need: give the operation a gradient of its own
    whose rules call this.

    >>> float(by_platform(3.0, cpu=lambda x: x + x, plain=lambda x: 2 * x))
    6.0
    """
    if in_bands():
        return plain(*args)
    return lax.platform_dependent(*args, cpu=cpu, default=plain)


def apart(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` as a computation of its own, which XLA fuses with nothing around it.

    What many layers do alike is then the same kernels in each, compiled once; fused with their different neighbours a
    U-Net's step takes 4 s longer to compile. XLA on a CPU drops `lax.optimization_barrier` before it fuses. Not for
    convolutions, whose gradients XLA there brings into a form for Eigen in the outermost computation alone.

    >>> float(jax.jit(lambda x: apart(jax.numpy.sin)(x) + 1)(0.0))
    1.0
    """
    compiled = jax.jit(fn)

    def called(*args: Any) -> Any:
        return set_xla_metadata(compiled(*args), inlineable="false")

    return called


def in_bands() -> bool:
    """Whether the program that is traced cuts images into bands of rows.

    >>> in_bands()
    False
    """
    return collective.ROWS in get_abstract_mesh().axis_names
