r"""Whole numbers of any practical size, exact without x64: three unsigned limbs of 24 bits in the last axis.

float32 stops counting at $2^{24}$ pixels (eight images of Cityscapes) and int32 at $2^{31}$; without x64 JAX has no wider
type. A number here is $\sum_i 2^{24 i}\, l_i$ with `limbs` `[..., 3]` uint32, least significant first; the last limb
may be longer than 24 bits. Differences that floats would lose (of products of totals, in Cohen's kappa) are taken
in whole numbers too and rounded once, at the end. XLA may reorder nothing about integers that would change them, so
that nothing here depends on the compiler, the device or the order of a sum.

Every function takes NumPy arrays as well, and then works on the host: `to_float` gives float64 there. Numbers are those
of counts: not negative and below $2^{63}$ (`to_float` and `add` go beyond).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.typing import Array

BITS = 24
_MASK = (1 << BITS) - 1
_HALF = BITS // 2
_SCALE = -64  # of the floats made of products: 2**126 and its square root stay within float32

Limbs = Any
"""`[..., 3]` uint32, of JAX or NumPy."""
Digits = Any
"""`[..., D]` uint32 below 2**12, least significant first: what can be multiplied without overflow."""


def namespace(array: Any) -> Any:
    """NumPy for its own arrays, else `jax.numpy`."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of trees of limbs that is compiled as a whole on the device: dozens of small operations otherwise."""
    on_device = jax.jit(function)

    @functools.wraps(function)
    def call(*trees: Any) -> Any:
        on_host = isinstance(jax.tree.leaves(trees)[0], np.ndarray)
        return (function if on_host else on_device)(*trees)

    return call


def from_counts(counts: Any) -> Limbs:
    """The limbs of integers, which are not negative.

    Args:
        counts: `[...]`, any integer type.

    >>> from_counts(np.array([7, 2**40 + 1])).tolist()
    [[7, 0, 0], [1, 65536, 0]]
    """
    xp = namespace(counts)
    if counts.dtype.itemsize < 8:
        counts = counts.astype(xp.uint32)
        limbs = [counts & _MASK, counts >> BITS, xp.zeros_like(counts)]
    else:
        limbs = [counts & _MASK, counts >> BITS & _MASK, counts >> 2 * BITS]
    return xp.stack([limb.astype(xp.uint32) for limb in limbs], -1)


def sum_over_devices(counts: Array) -> Limbs:
    """The sum of `[G, ...]` uint32 over its first axis and over devices: `[..., 3]`, for fewer than 2**16 summands."""
    low, high = collective.psum(
        ((counts & 0xFFFF).sum(0, dtype=jnp.uint32), (counts >> 16).sum(0, dtype=jnp.uint32))
    )
    first = (low & _MASK) + ((high & 0xFF) << 16)
    return carry(jnp.stack([first, (low >> BITS) + (high >> 8), jnp.zeros_like(low)], axis=-1))


def total_over_devices(limbs: Limbs) -> Limbs:
    """The sum over devices of numbers that are whole on each; of up to 2**20 devices."""
    return _join(_normal(collective.psum(digits(limbs))))


def carry(limbs: Limbs) -> Limbs:
    """Limbs below 2**24 again, the last excepted, of the same sum."""
    low, middle, high = limbs[..., 0], limbs[..., 1], limbs[..., 2]
    middle = middle + (low >> BITS)
    return namespace(limbs).stack([low & _MASK, middle & _MASK, high + (middle >> BITS)], -1)


def add(a: Limbs, b: Limbs) -> Limbs:
    """a + b."""
    return carry(a + b)


def subtract(a: Limbs, b: Limbs) -> Limbs:
    """a - b, where no difference is negative.

    >>> subtract(from_counts(np.array(2**40)), from_counts(np.array(1))).tolist()
    [16777215, 65535, 0]
    """
    xp = namespace(a)
    low, middle, high = (a[..., i].astype(xp.int32) - b[..., i].astype(xp.int32) for i in range(3))
    middle = middle + (low >> BITS)
    limbs = xp.stack([low & _MASK, middle & _MASK, high + (middle >> BITS)], -1)
    return limbs.astype(xp.uint32)


def times_unit(limbs: Limbs) -> Limbs:
    """The numbers times 2**24, where they are below 2**56."""
    low, middle, high = limbs[..., 0], limbs[..., 1], limbs[..., 2]
    xp = namespace(limbs)
    return xp.stack([xp.zeros_like(low), low, middle + (high << BITS)], -1)


def total(limbs: Limbs, axis: int) -> Limbs:
    """The sum over one axis of up to 2**20 numbers; a negative axis counts from the one before the limbs.

    >>> total(from_counts(np.array([[1, 2**24], [2, 2**24]])), -2).tolist()
    [[3, 0, 0], [0, 2, 0]]
    """
    axis = axis - 1 if axis < 0 else axis
    return _join(_normal(digits(limbs).sum(axis, dtype=np.uint32)))


def group_totals(limbs: Array, groups: np.ndarray, number: int) -> Limbs:
    """The sum over the first axis within each group, of up to 2**20 numbers each.

    Args:
        limbs: `[K, ..., 3]`.
        groups: `[K]` integers, `0..number-1`.
        number: J, how many groups there are.

    Returns:
        `[J, ..., 3]`.
    """
    parts = digits(jnp.asarray(limbs))
    sums = jnp.zeros((number, *parts.shape[1:]), jnp.uint32).at[groups].add(parts)
    return _join(_normal(sums))


def reversed_cumulative(limbs: Limbs, axis: int) -> Limbs:
    """At each place the sum of the numbers from there to the end of the axis, which has up to 2**20 places."""
    xp = namespace(limbs)
    axis = axis - 1 if axis < 0 else axis
    parts = xp.flip(digits(limbs), axis)
    return _join(_normal(xp.flip(xp.cumsum(parts, axis, dtype=xp.uint32), axis)))


def is_zero(limbs: Limbs) -> Any:
    """Whether each number is 0."""
    return (limbs == 0).all(-1)


def to_float(limbs: Limbs) -> Any:
    """The numbers as floats, each rounded once: float32, float64 under x64 and on the host."""
    xp = namespace(limbs)
    limbs = limbs.astype(np.float64 if xp is np else jnp.result_type(float))
    return limbs[..., 0] + (limbs[..., 1] * 2.0**BITS + limbs[..., 2] * 2.0 ** (2 * BITS))


def to_numpy(limbs: Limbs) -> np.ndarray:
    """The numbers as int64 on the host.

    Raises:
        OverflowError: One is 2**63 or more.
    """
    limbs = np.asarray(limbs).astype(np.uint64)
    if (limbs[..., 2] >= 1 << 15).any():
        raise OverflowError("a count is 2**63 or more, which int64 cannot hold")
    return (limbs[..., 0] + (limbs[..., 1] << BITS) + (limbs[..., 2] << 2 * BITS)).astype(np.int64)


def digits(limbs: Limbs) -> Digits:
    """`[..., 6]`: the same number in digits of 12 bits."""
    xp = namespace(limbs)
    halves = xp.stack([limbs & ((1 << _HALF) - 1), limbs >> _HALF], -1)
    return halves.reshape(*limbs.shape[:-1], 6)


def multiply(a: Digits, b: Digits) -> Digits:
    """The product, in as many digits as both have together.

    >>> product = multiply(digits(from_counts(np.array(2**40))), digits(from_counts(np.array(2**20 + 1))))
    >>> float(ratio(product, digits(from_counts(np.array(2**40)))))
    1048577.0
    """
    xp = namespace(a)
    n, m = a.shape[-1], b.shape[-1]
    products = a[..., :, None] * b[..., None, :]
    # Row i is shifted by i places: one more column than the result has, read in rows of the result's length.
    shifted = xp.pad(products, [(0, 0)] * (products.ndim - 1) + [(0, n)])
    shifted = shifted.reshape(*products.shape[:-2], n * (n + m))
    shifted = shifted[..., : n * (n + m - 1)].reshape(*products.shape[:-2], n, n + m - 1)
    columns = shifted.sum(-2, dtype=np.uint32)
    return _normal(xp.concatenate([columns, xp.zeros_like(columns[..., :1])], -1))


def digits_total(numbers: Digits, axis: int) -> Digits:
    """The sum over one axis of up to 2**20 numbers; a negative axis counts from the one before the digits."""
    return _normal(numbers.sum(axis - 1 if axis < 0 else axis, dtype=np.uint32))


def difference(a: Digits, b: Digits) -> tuple[Any, Digits]:
    """|a - b|, and whether a < b."""
    xp = namespace(a)
    signed = a.astype(xp.int32) - b.astype(xp.int32)
    negative = _normal(signed)[..., -1] < 0
    size = _normal(xp.where(negative[..., None], -signed, signed))
    return negative, size.astype(xp.uint32)


def ratio(a: Digits, b: Digits) -> Any:
    """a / b, floating; whatever division by zero gives where b is 0."""
    return scaled(a) / scaled(b)


def scaled(numbers: Digits) -> Any:
    """The numbers times 2**-64 as floats, each rounded about once: products overflow float32 else."""
    xp = namespace(numbers)
    numbers = numbers.astype(np.float64 if xp is np else jnp.result_type(float))
    value = numbers[..., 0] * 2.0**_SCALE
    for i in range(1, numbers.shape[-1]):
        value = value + numbers[..., i] * 2.0 ** (_HALF * i + _SCALE)
    return value


def _normal(numbers: Any) -> Any:
    """Digits below 2**12 again, the last excepted; of signed ones the last has the sign."""
    mask = (1 << _HALF) - 1
    if isinstance(numbers, np.ndarray):
        numbers = numbers.copy()
        for i in range(numbers.shape[-1] - 1):
            numbers[..., i + 1] += numbers[..., i] >> _HALF
            numbers[..., i] &= mask
        return numbers

    def step(carried: Array, digit: Array) -> tuple[Array, Array]:
        digit = digit + carried
        return digit >> _HALF, digit & mask

    # A loop: unrolled, the chain of carries takes seconds to compile.
    places = jnp.moveaxis(numbers, -1, 0)
    carried, low = jax.lax.scan(step, jnp.zeros_like(places[0]), places[:-1])
    return jnp.moveaxis(jnp.concatenate([low, (places[-1] + carried)[None]]), 0, -1)


def _join(numbers: Digits) -> Limbs:
    """Limbs of 24 bits of six digits of 12."""
    return numbers[..., 0::2] + (numbers[..., 1::2] << _HALF)
