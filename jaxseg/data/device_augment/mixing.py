"""Mixes of several images of one size: CutMix, copy-paste and mosaic. Labels are mixed as the images are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.data.device_augment.compose import Transform
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key


@dataclass(frozen=True)
class Mix:
    """A random mix of several images.

    Attributes:
        takes: M, how many images it takes.
        mix: `(key, images [M, H, W, C], labels [M, H, W]) -> (image, label)`.
        probability: How often it mixes; the first image comes out otherwise.

    Raises:
        InputError: A probability outside of 0..1.
    """

    takes: int
    mix: Callable[[Key, Array, Array], tuple[Array, Array]]
    probability: float = 1.0

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise InputError(f"a probability lies in 0..1, got {self.probability}")

    def __call__(self, key: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        """Mixes the first `takes` images `[M, H, W, C]` and labels `[M, H, W]`."""
        often, draw = jax.random.split(key)
        image, label = self.mix(draw, images[: self.takes], labels[: self.takes])
        happens = jax.random.bernoulli(often, self.probability)
        return jnp.where(happens, image, images[0]), jnp.where(happens, label, labels[0])


def mixed(mix: Mix) -> Transform:
    """A mix of batches, `(keys [N], images [N, H, W, C], labels [N, H, W]) -> (images, labels)`.

    An image's partners are those that follow it, and the first ones after the last. Where a batch is cut over devices by
    `pmap` or `shard_map` they come from the device's own part; `data.make_feed` takes them from a whole data set on the
    device, whatever the devices.

    >>> labels = jnp.arange(4)[:, None, None] * jnp.ones((4, 8, 8), int)
    >>> batch = mixed(random_mosaic(1.0))(jax.random.split(jax.random.key(0), 4), labels[..., None], labels)
    >>> batch[1][1, ::7, ::7].tolist()
    [[1, 2], [3, 0]]
    """

    def batch(keys: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        def partners(array: Array) -> Array:
            return jnp.stack([jnp.roll(array, -k, axis=0) for k in range(mix.takes)], axis=1)

        return jax.vmap(mix)(keys, partners(images), partners(labels))

    return batch


def cutmix(images: Array, labels: Array, *, box: Any) -> tuple[Array, Array]:
    """The first image with a box of the second.

    Args:
        images: `[2, H, W, C]`.
        labels: `[2, H, W]`.
        box: `[4]`: top, left, bottom and right edge in pixels; the last two are outside.

    Returns:
        Image `[H, W, C]` and label `[H, W]`.

    >>> labels = jnp.array([[[0, 0, 0]], [[1, 1, 1]]])
    >>> cutmix(labels[..., None], labels, box=(0, 1, 1, 3))[1].tolist()
    [[0, 1, 1]]
    """
    rows, columns = _grid(labels.shape[1:])
    top, left, bottom, right = jnp.asarray(box, jnp.int32)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return _paste(images, labels, inside)


def random_cutmix(probability: float = 0.5) -> Mix:
    """A box of random area, of the image's aspect, centred anywhere; what lies outside is cut off.

    Args:
        probability: How often.

    References:
        Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019:
        https://arxiv.org/abs/1905.04899; for segmentation, French et al., 2020: https://arxiv.org/abs/1906.01916.
    """

    def mix(key: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        area, middle = jax.random.split(key)
        size = jnp.asarray(labels.shape[1:], jnp.float32)
        half = size * jnp.sqrt(jax.random.uniform(area, (), jnp.float32)) / 2
        centre = size * jax.random.uniform(middle, (2,), jnp.float32)
        edges = jnp.concatenate([jnp.round(centre - half), jnp.round(centre + half)])
        return cutmix(images, labels, box=edges.astype(jnp.int32))

    return Mix(2, mix, probability)


def copy_paste(images: Array, labels: Array, *, chosen: Any) -> tuple[Array, Array]:
    """The first image with all pixels of some classes of the second.

    Args:
        images: `[2, H, W, C]`.
        labels: `[2, H, W]` class ids; those outside of 0..K-1 are ignored, and stay behind.
        chosen: `[K]`, whether a class is pasted.

    Returns:
        Image `[H, W, C]` and label `[H, W]`.

    >>> labels = jnp.array([[[0, 0, 0]], [[1, 2, 255]]])
    >>> copy_paste(labels[..., None], labels, chosen=[False, False, True])[1].tolist()
    [[0, 2, 0]]
    """
    chosen, pasted = jnp.asarray(chosen), labels[1].astype(jnp.int32)
    known = (pasted >= 0) & (pasted < len(chosen))
    return _paste(images, labels, known & chosen[jnp.where(known, pasted, 0)])


def random_copy_paste(
    num_classes: int, probability: float = 0.5, *, never: Sequence[int] = ()
) -> Mix:
    """Each class of the second image, as it stands there, pasted into the first half of the time.

    Args:
        num_classes: K.
        probability: How often anything is pasted.
        never: Classes that are not, such as a background.

    Raises:
        InputError: A class that is none.

    References:
        Olsson et al., ClassMix, 2021: https://arxiv.org/abs/2007.07936, which pastes half of the classes; Ghiasi et al.,
        Simple Copy-Paste, 2021: https://arxiv.org/abs/2012.07177, which pastes instances. Labels here have classes.
    """
    if wrong := [index for index in never if not 0 <= index < num_classes]:
        raise InputError(f"classes {wrong} are none of 0..{num_classes - 1}")
    may = jnp.array([index not in never for index in range(num_classes)])

    def mix(key: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        return copy_paste(images, labels, chosen=may & jax.random.bernoulli(key, 0.5, may.shape))

    return Mix(2, mix, probability)


def mosaic(images: Array, labels: Array, *, centre: Any) -> tuple[Array, Array]:
    """Four images around a point, each cut to its quarter; the corner that meets the point is what is seen of it.

    Args:
        images: `[4, H, W, C]`: top left, top right, bottom left, bottom right.
        labels: `[4, H, W]`.
        centre: `[2]`, the row and column at which the lower and the right images begin.

    Returns:
        Image `[H, W, C]` and label `[H, W]`.

    >>> labels = jnp.arange(4)[:, None, None] * jnp.ones((4, 2, 3), int)
    >>> mosaic(labels[..., None], labels, centre=(1, 1))[1].tolist()
    [[0, 1, 1], [2, 3, 3]]
    """
    height, width = labels.shape[1:]
    rows, columns = _grid((height, width))
    row, column = jnp.asarray(centre, jnp.int32)
    below, right = rows >= row, columns >= column
    which = 2 * below.astype(jnp.int32) + right.astype(jnp.int32)
    y = (jnp.where(below, rows - row, rows + height - row)) % height
    x = (jnp.where(right, columns - column, columns + width - column)) % width
    return images[which, y, x], labels[which, y, x]


def random_mosaic(probability: float = 0.5) -> Mix:
    """Four images around a point in the middle half of height and width.

    Args:
        probability: How often.

    References:
        Bochkovskiy et al., YOLOv4: Optimal Speed and Accuracy of Object Detection, 2020:
        https://arxiv.org/abs/2004.10934.
    """

    def mix(key: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        size = jnp.asarray(labels.shape[1:], jnp.float32)
        middle = jnp.round(size * jax.random.uniform(key, (2,), jnp.float32, 0.25, 0.75))
        return mosaic(images, labels, centre=middle.astype(jnp.int32))

    return Mix(4, mix, probability)


def _paste(images: Array, labels: Array, mask: Array) -> tuple[Array, Array]:
    image = jnp.where(mask[..., None], images[1], images[0])
    return image, jnp.where(mask, labels[1], labels[0])


def _grid(size: Sequence[int]) -> tuple[Array, Array]:
    """Row and column of every pixel, both `[H, W]`."""
    rows, columns = jnp.indices(tuple(size), jnp.int32)
    return rows, columns
