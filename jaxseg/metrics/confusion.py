"""Counts of true against predicted classes: a pytree that stays on the device and never loses a pixel."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.typing import Array

_BITS = 24
_LIMB = (1 << _BITS) - 1
_BLOCK = 1 << 14


@flax.struct.dataclass
class ConfusionMatrix:
    r"""How many pixels of each class were predicted as each class, `[K, K]`: rows are the truth.

    float32 stops counting at $2^{24}$ pixels (eight images of Cityscapes) and int32 at $2^{31}$; without x64 JAX has no
    wider type. So each count is three unsigned limbs of 24 bits, carried whenever two counts are added.

    Attributes:
        limbs: `[K, K, 3]` uint32, least significant first; a count is $\sum_i 2^{24 i}\, l_i$.

    >>> counts = ConfusionMatrix.zero(2)
    >>> counts = counts.update(labels=jnp.array([[[0, 1, 255]]]), predictions=jnp.array([[[1, 1, 0]]]))
    >>> (counts + counts).to_numpy().tolist()
    [[0, 2], [0, 2]]
    """

    limbs: Array

    @classmethod
    def zero(cls, num_classes: int) -> "ConfusionMatrix":
        """Counts of nothing.

        Args:
            num_classes: K of the logits; 1 stands for one sigmoid, whose labels 0 and 1 make `[2, 2]`.

        Raises:
            InputError: `num_classes` is below 1.
        """
        if num_classes < 1:
            raise InputError(f"num_classes is {num_classes}, there must be 1 or more")
        size = max(num_classes, 2)
        return cls(jnp.zeros((size, size, 3), jnp.uint32))

    @property
    def num_classes(self) -> int:
        """How many classes are counted: K, or 2 for one sigmoid."""
        return self.limbs.shape[0]

    def update(
        self, *, labels: Array, predictions: Array, ignore_index: int = 255
    ) -> "ConfusionMatrix":
        """These counts and those of one more batch: the global one, whatever the parallel strategy.

        Args:
            labels: `[N, H, W]`, any integer type, the truth.
            predictions: `[N, H, W]`, any integer type, class ids as of `labels_from_logits`.
            ignore_index: The label of pixels that are not counted.

        Returns:
            New counts. A label or a prediction that is no class is not counted anywhere: values can be checked on the
            host only, which the loaders and the command line do.

        Raises:
            InputError: Shapes do not fit, or a type is not an integer's.
        """
        labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
        if labels.ndim != 3 or labels.shape != predictions.shape:
            raise InputError(
                f"labels {labels.shape} and predictions {predictions.shape} must both be [N, H, W]"
            )
        for name, array in (("labels", labels), ("predictions", predictions)):
            if not jnp.issubdtype(array.dtype, jnp.integer):
                raise InputError(f"{name} are class ids, integers, not {array.dtype}")
        return self + ConfusionMatrix(
            _limbs(_count(labels, predictions, ignore_index, self.num_classes))
        )

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """The counts of both.

        Raises:
            InputError: They are of different numbers of classes.
        """
        if self.limbs.shape != other.limbs.shape:
            raise InputError(
                f"counts of {self.num_classes} classes cannot be added to counts of {other.num_classes}"
            )
        return ConfusionMatrix(_carry(self.limbs + other.limbs))

    def to_float(self) -> Array:
        """The counts as `[K, K]` floats on the device, rounded to float32, or to float64 under x64."""
        low, middle, high = jnp.moveaxis(self.limbs.astype(jnp.result_type(float)), -1, 0)
        return low + (middle * 2.0**_BITS + high * 2.0 ** (2 * _BITS))

    def to_numpy(self) -> np.ndarray:
        """The counts as `[K, K]` int64 on the host.

        Raises:
            OverflowError: A count is 2**63 or more.
        """
        limbs = np.asarray(self.limbs).astype(np.uint64)
        if (limbs[..., 2] >= 1 << 15).any():
            raise OverflowError("a count is 2**63 or more, which int64 cannot hold")
        return (limbs[..., 0] + (limbs[..., 1] << _BITS) + (limbs[..., 2] << 2 * _BITS)).astype(
            np.int64
        )


def labels_from_logits(logits: Array) -> Array:
    """The most probable class of each pixel; for one sigmoid, 1 where its probability is above one half.

    Args:
        logits: `[N, H, W, K]`, any floating type.

    Returns:
        `[N, H, W]` int32: `0..max(K, 2)-1`.

    >>> labels_from_logits(jnp.array([[[[-1.0], [2.0]]]])).tolist()
    [[[0, 1]]]
    >>> labels_from_logits(jnp.array([[[[1.0, 3.0, 2.0]]]])).tolist()
    [[[1]]]
    """
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _count(labels: Array, predictions: Array, ignore_index: int, size: int) -> Array:
    """`[N, K, K]` uint32: the pixels of each image, of each true class, predicted as each class."""
    labels, predictions = (x.astype(jnp.int32).reshape(len(x), -1) for x in (labels, predictions))
    valid = (labels != ignore_index) & (labels >= 0) & (labels < size)
    valid &= (predictions >= 0) & (predictions < size)
    labels, predictions = jnp.where(valid, labels, size), jnp.where(valid, predictions, 0)
    scatter, product = (
        functools.partial(function, size=size)
        for function in (_count_by_scatter, _count_by_product)
    )
    return jax.lax.platform_dependent(labels, predictions, tpu=product, default=scatter)


def _count_by_scatter(labels: Array, predictions: Array, *, size: int) -> Array:
    """Adds one to the cell of each pixel: 3 ns a pixel on a CPU for any number of classes."""

    def count(cells: Array) -> Array:
        return jnp.zeros(size * size, jnp.uint32).at[cells].add(1, mode="drop")

    return jax.vmap(count)(labels * size + predictions).reshape(-1, size, size)


def _count_by_product(labels: Array, predictions: Array, *, size: int) -> Array:
    """Multiplies one-hot matrices: for TPUs, which scatter one element at a time.

    Products of ones and zeros are exact in bfloat16 and their sums in float32, below 2**24; blocks bound the memory.
    """
    pixels = labels.shape[1]
    blocks = -(-pixels // _BLOCK)
    padding = ((0, 0), (0, blocks * _BLOCK - pixels))
    labels, predictions = (
        jnp.pad(x, padding, constant_values=size).reshape(len(x), blocks, _BLOCK).swapaxes(0, 1)
        for x in (labels, predictions)
    )

    def add(counts: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        true, predicted = (jax.nn.one_hot(x, size, dtype=jnp.bfloat16) for x in block)
        new = jnp.einsum("npk,npl->nkl", true, predicted, preferred_element_type=jnp.float32)
        return counts + new.astype(jnp.uint32), None

    zero = jnp.zeros((labels.shape[1], size, size), jnp.uint32)
    return jax.lax.scan(add, zero, (labels, predictions))[0]


def _limbs(counts: Array) -> Array:
    """`[K, K, 3]`: the sum of `[N, K, K]` uint32 over images and devices, exact for fewer than 2**16 of them."""
    low, high = collective.psum(
        ((counts & 0xFFFF).sum(0, dtype=jnp.uint32), (counts >> 16).sum(0, dtype=jnp.uint32))
    )
    first = (low & _LIMB) + ((high & 0xFF) << 16)
    return _carry(jnp.stack([first, (low >> _BITS) + (high >> 8), jnp.zeros_like(low)], axis=-1))


def _carry(limbs: Array) -> Array:
    """Limbs below 2**24 again, the last excepted, of the same sum."""
    low, middle, high = limbs[..., 0], limbs[..., 1], limbs[..., 2]
    middle += low >> _BITS
    return jnp.stack([low & _LIMB, middle & _LIMB, high + (middle >> _BITS)], axis=-1)
