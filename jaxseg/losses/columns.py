"""Formulas of pixels whose maps are never kept whole: their sums, the gradient of those, or one map alone.

What a formula of logits and labels computes on the way leaves maps `[N, H, W]` and `[N, H, W, K]` in memory, which XLA on a CPU
fuses into what comes after them as luck would have it. Here a CPU works on a few columns at a time, so that those maps are
a sixteenth. The gradient starts from the logits again and is written column by column too, but where it needs little memory
at once and a third of the time. Columns and not rows or images, because devices may have those apart. Other devices fuse by
themselves and do the whole at once. See tests/losses/test_memory.py for what is needed.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.losses.reduce import mean_over_pixels, rounded, sum_together, two_sum
from jaxseg.typing import Array

BLOCKS = 16  # into so many parts columns are cut: maps are a sixteenth, and a part costs microseconds beside its work

Formula = Callable[..., tuple[Array, ...]]
Options = tuple[Hashable, ...]


def mean_of(
    formula: Formula,
    options: Options,
    logits: Array,
    labels: Array,
    constants: Any = (),
    *,
    per_image: bool = False,
) -> Array:
    r"""$\sum_i a_i / \sum_i b_i$ of a formula's two maps, over the global batch or as the mean of images.

    Args:
        formula: As of `sums_over_columns`; it answers numerators and denominators, not negative.
        options: As there.
        logits: As there.
        labels: As there.
        constants: As there.
        per_image: Whether each image has a ratio of its own, and those are averaged.

    Returns:
        A scalar; 0, with a zero gradient, where there is nothing to divide by.

    >>> def squares(logits, labels, constants):
    ...     return logits[..., 0] ** 2, jnp.ones_like(logits[..., 0])
    >>> float(mean_of(squares, (), jnp.full((1, 2, 20, 1), 3.0), jnp.zeros((1, 2, 20), int)))
    9.0
    """
    numerators, denominators = sums_over_columns(formula, options, logits, labels, constants)
    rows = numerators[:, :, None], denominators[:, :, None]
    return mean_over_pixels(*rows, per_image=per_image)


@functools.partial(jax.jit, static_argnums=(0, 1))
def sums_over_columns(
    formula: Formula, options: Options, logits: Array, labels: Array, constants: Any = ()
) -> tuple[Array, ...]:
    """The sums of a formula's maps over columns.

    Args:
        formula: `(logits, labels, constants, *options) -> maps`, all of them `[N, H, W]` or `[N, H, W, K]` and of one type, and
            each pixel from itself alone: it is given a part of the columns. A function of a module, so that it is compiled
            once.
        options: More of its arguments, which are no arrays.
        logits: `[N, H, W, K]`, floating. They alone have a gradient, in reverse mode (and anything of that gradient).
        labels: `[N, H, W]` or `[N, H, W, K]`.
        constants: Arrays that every part is given whole.

    Returns:
        `[N, H]` or `[N, H, K]` of each.

    >>> def ones(logits, labels, constants):
    ...     return (jnp.ones_like(logits[..., 0]),)
    >>> sums_over_columns(ones, (), jnp.zeros((1, 2, 20, 3)), jnp.zeros((1, 2, 20), int))[0].tolist()
    [[20.0, 20.0]]
    """
    return _sums(formula, options, logits, labels, constants)


def map_by_columns(
    function: Callable[..., Array], like: Array | jax.ShapeDtypeStruct, *arrays: Array
) -> Array:
    """A map that a CPU writes a few columns at a time; no gradient.

    Args:
        function: From columns of the arrays to those of the map, each pixel from itself alone.
        like: Of the map's shape, `[N, H, W, ...]`, and type.
        arrays: `[N, H, W, ...]`.

    >>> x = jnp.arange(40.0).reshape(1, 2, 20)
    >>> bool((map_by_columns(jnp.sin, x, x) == jnp.sin(x)).all())
    True
    """
    width = like.shape[2]
    size = _size(width)

    def in_parts(*arrays: Array) -> Array:
        def write(index: Array, made: Array) -> Array:
            first = index * size  # the last part is moved to fit, read as written
            part = function(*_columns(first, size, arrays))
            return lax.dynamic_update_slice_in_dim(made, part, first, 2)

        return lax.fori_loop(0, -(-width // size), write, jnp.zeros(like.shape, like.dtype))

    return lax.platform_dependent(*arrays, cpu=in_parts, default=function)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(
    formula: Formula, options: Options, logits: Array, labels: Array, constants: Any
) -> tuple[Array, ...]:
    return _forward(formula, options, logits, labels, constants)[0]


def _forward(formula: Formula, options: Options, logits: Array, labels: Array, constants: Any):
    def at_once(logits: Array, labels: Array, constants: Any) -> tuple[Array, ...]:
        maps = formula(logits, labels, constants, *options)
        if jnp.issubdtype(maps[0].dtype, jnp.integer):  # exact, and a tenth of the time
            return tuple(x.sum(2, dtype=x.dtype) for x in maps)
        return sum_together(maps, 2)

    def in_parts(logits: Array, labels: Array, constants: Any) -> tuple[Array, ...]:
        width = logits.shape[2]
        size = _size(width)

        def add(index: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
            logits_of, labels_of = _columns(index * size, size, (logits, labels))
            part = at_once(logits_of, labels_of, constants)
            return two_sum(totals, (*part, *zeros))

        kinds = jax.eval_shape(at_once, logits, labels, constants)
        zeros = tuple(jnp.zeros(kind.shape, kind.dtype) for kind in kinds)
        totals = lax.fori_loop(0, width // size, add, (*zeros, *zeros))
        whole = width - width % size
        if whole < width:
            rest = at_once(logits[:, :, whole:], labels[:, :, whole:], constants)
            totals = two_sum(totals, (*rest, *zeros))
        return rounded(totals)

    given = logits, labels, constants
    return lax.platform_dependent(*given, cpu=in_parts, default=at_once), given


def _backward(formula: Formula, options: Options, given: tuple, slopes: tuple[Array, ...]):
    logits, labels, constants = given

    def gradient(logits: Array, labels: Array) -> Array:
        def maps(logits: Array) -> tuple[Array, ...]:
            return formula(logits, labels, constants, *options)

        values, pull = jax.vjp(maps, logits)
        pairs = zip(slopes, values, strict=True)
        return pull(tuple(jnp.broadcast_to(s[:, :, None], x.shape) for s, x in pairs))[0]

    if _few_maps(logits):
        return gradient(logits, labels), None, None
    return map_by_columns(gradient, logits, logits, labels), None, None


_sums.defvjp(_forward, _backward)


def _few_maps(logits: Array) -> bool:
    """Whether the gradient at once needs less memory than 0.6 of the logits.

    From float32 XLA writes it in one pass, beside seven maps `[N, H, W]` at most, and none for one or two classes; from
    bfloat16 it keeps all logits in float32. Column by column a CPU takes three times as long.
    """
    return logits.dtype == jnp.float32 and not 2 < logits.shape[-1] < 12


def _size(width: int) -> int:
    """How many columns a part has."""
    return max(width // BLOCKS, 1)


def _columns(first: Array, size: int, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The columns of one part."""
    # Or XLA would take what begins each part, such as a conversion to float32, out of the loop and do it for all.
    arrays, first = lax.optimization_barrier((arrays, first))
    return tuple(lax.dynamic_slice_in_dim(x, first, size, 2) for x in arrays)
