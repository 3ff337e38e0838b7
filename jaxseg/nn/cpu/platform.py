"""The choice between an operation's form for CPUs and the plain one, and the switch that turns forms for CPUs off."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import get_abstract_mesh

from jaxseg import collective

# Part of the key by which `jax.jit` finds a trace, so that no trace is shared between the two settings.
_enabled = jax.make_user_context(True)


def disabled() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which networks are traced to plain XLA operations with JAX's gradients.

    Without it convolutions, pooling, upsampling and normalisation have gradient rules of their own (`jax.custom_vjp`),
    which forward-mode differentiation cannot pass, and programs hold one form for CPUs and one for other platforms.
    Results are the same up to the order of sums.

    >>> import jaxseg, jax.numpy as jnp
    >>> f = lambda x: jaxseg.nn.max_pool(x, 2, 2).sum()
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> with disabled():
    ...     _, tangent = jax.jvp(f, (x,), (jnp.ones_like(x),))
    >>> float(tangent)
    4.0
    """
    return _enabled(False)


def is_disabled() -> bool:
    """Returns whether the function being traced is inside `disabled`.

    >>> is_disabled()
    False
    """
    return not _enabled.value


def by_platform(*args: Any, cpu: Callable[..., Any], plain: Callable[..., Any]) -> Any:
    """Returns `cpu(*args)` in a program compiled for a CPU and `plain(*args)` in any other; both give the same values.

    The form is chosen when a program is lowered, by the platform that it is lowered for: a program for a TPU that is
    lowered on a CPU has the plain form. Programs that shard images by rows have the plain form as well, because XLA
    knows which rows of its neighbours a plain operation needs.

    It should not be differentiated through, which would save what both forms need: the operation needs a `custom_vjp`
    whose rules call `by_platform`.

    >>> float(by_platform(3.0, cpu=lambda x: x + x, plain=lambda x: 2 * x))
    6.0
    """
    if is_disabled() or has_spatial_shards():
        return plain(*args)
    return lax.platform_dependent(*args, cpu=cpu, default=plain)


def noinline(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `fn` as a separate computation, which XLA does not fuse with the operations around it.

    Equal layers then share one compiled kernel; fused with their different neighbours they make a U-Net's train step
    take 4 s longer to compile. XLA on a CPU removes `lax.optimization_barrier` before it fuses. Convolutions should not
    be in it: XLA turns their gradients into Eigen's form in the outermost computation only.

    >>> import jax.numpy as jnp
    >>> float(jax.jit(lambda x: noinline(jnp.sin)(x) + 1)(0.0))
    1.0
    """
    compiled = jax.jit(fn)

    def call(*args: Any) -> Any:
        return set_xla_metadata(compiled(*args), inlineable="false")

    return call


def has_spatial_shards() -> bool:
    """Returns whether the program being traced shards images by rows.

    >>> has_spatial_shards()
    False
    """
    return collective.ROWS in get_abstract_mesh().axis_names
