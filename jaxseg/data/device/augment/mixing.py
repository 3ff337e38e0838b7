"""Mixes of several samples of one size: CutMix, copy-paste and mosaic. Targets are mixed as the images are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.data.device.augment.compose import Sample, Transform
from jaxseg.data.targets import Targets, labels, only_mask
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key, Size


@dataclass(frozen=True)
class Mix:
    """A random mix of several samples.

    Attributes:
        num_images: M, the number of samples that are mixed.
        mix: `(key, {"image": [M, H, W, C], **targets}) -> sample`.
        probability: Of mixing; the first sample is returned otherwise.

    Raises:
        InputError: The probability is outside 0..1.
    """

    num_images: int
    mix: Callable[[Key, Sample], Sample]
    probability: float = 1.0

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise InputError(f"a probability lies in 0..1, got {self.probability}")

    def __call__(self, key: Key, samples: Sample) -> Sample:
        """Mixes the first `num_images` of stacked samples."""
        decision, inner = jax.random.split(key)
        result = self.mix(inner, {name: a[: self.num_images] for name, a in samples.items()})
        happens = jax.random.bernoulli(decision, self.probability)
        return {name: jnp.where(happens, result[name], a[0]) for name, a in samples.items()}


def mixed(mix: Mix) -> Transform:
    """Returns the mix as a transform of batches, `(keys [N], batch) -> batch`.

    Each image is mixed with those that follow it in the batch, cyclically. Inside `pmap` or `shard_map` they come from the
    device's part of the batch; `data.make_feed` samples them from a data set on the device, for any number of devices.

    >>> masks = jnp.arange(4)[:, None, None] * jnp.ones((4, 8, 8), int)
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> batch = mixed(random_mosaic(1.0))(keys, {"image": masks[..., None], "mask": masks})
    >>> batch["mask"][1, ::7, ::7].tolist()
    [[1, 2], [3, 0]]
    """

    def transform(keys: Key, batch: Sample) -> Sample:
        def neighbours(array: Array) -> Array:
            return jnp.stack([jnp.roll(array, -k, axis=0) for k in range(mix.num_images)], axis=1)

        return jax.vmap(mix)(keys, jax.tree.map(neighbours, batch))

    return transform


def cutmix(samples: Sample, *, box: Any) -> Sample:
    """Pastes a box of the second sample into the first.

    Args:
        samples: `{"image": [2, H, W, C], **targets}`.
        box: `[4]`: top, left, bottom and right edge in pixels; the last two are exclusive.

    Returns:
        The sample `{"image": [H, W, C], **targets}`.

    >>> masks = jnp.array([[[0, 0, 0]], [[1, 1, 1]]])
    >>> cutmix({"image": masks[..., None], "mask": masks}, box=(0, 1, 1, 3))["mask"].tolist()
    [[0, 1, 1]]
    """
    rows, columns = _grid(_size(samples))
    top, left, bottom, right = jnp.asarray(box, jnp.int32)
    return _paste(samples, (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))


def random_cutmix(probability: float = 0.5) -> Mix:
    """Returns a CutMix of a box of uniform relative area and the image's aspect, centred uniformly and clipped.

    Args:
        probability: Of mixing.

    References:
        Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019:
        https://arxiv.org/abs/1905.04899; for segmentation, French et al., 2020: https://arxiv.org/abs/1906.01916.
    """

    def mix(key: Key, samples: Sample) -> Sample:
        area, middle = jax.random.split(key)
        size = jnp.asarray(_size(samples), jnp.float32)
        half = size * jnp.sqrt(jax.random.uniform(area, (), jnp.float32)) / 2
        centre = size * jax.random.uniform(middle, (2,), jnp.float32)
        edges = jnp.concatenate([jnp.round(centre - half), jnp.round(centre + half)])
        return cutmix(samples, box=edges.astype(jnp.int32))

    return Mix(2, mix, probability)


def copy_paste(samples: Sample, *, chosen: Any, targets: Targets = labels()) -> Sample:
    """Pastes all pixels of some classes of the second sample into the first.

    Args:
        samples: `{"image": [2, H, W, C], **targets}`; pixels whose id in the mask is outside 0..K-1 are not pasted.
        chosen: `[K]`, whether each class is pasted.
        targets: The kinds of the targets, exactly one of them a mask of class ids.

    Returns:
        The sample `{"image": [H, W, C], **targets}`.

    Raises:
        InputError: The targets do not hold exactly one mask.

    >>> from jaxseg.data.targets import Target
    >>> masks = jnp.array([[[0, 0, 0]], [[1, 2, 255]]])
    >>> samples = {"image": masks[..., None], "mask": masks}
    >>> copy_paste(samples, chosen=[False, False, True], targets={"mask": Target("mask", 255)})["mask"].tolist()
    [[0, 2, 0]]
    """
    chosen = jnp.asarray(chosen)
    ids = samples[only_mask(targets, "copy-paste")][1].astype(jnp.int32)
    valid = (ids >= 0) & (ids < len(chosen))
    return _paste(samples, valid & chosen[jnp.where(valid, ids, 0)])


def random_copy_paste(
    num_classes: int,
    probability: float = 0.5,
    *,
    never: Sequence[int] = (),
    targets: Targets = labels(),
) -> Mix:
    """Returns a mix that pastes each class of the second image, in its position, with probability 1/2.

    Args:
        num_classes: K.
        probability: Of mixing.
        never: Classes that are not pasted, such as a background.
        targets: The kinds of the targets, exactly one of them a mask of class ids.

    Raises:
        InputError: A class is outside 0..K-1, or the targets do not hold exactly one mask.

    References:
        Olsson et al., ClassMix, 2021: https://arxiv.org/abs/2007.07936, which pastes half of the classes; Ghiasi et al.,
        Simple Copy-Paste, 2021: https://arxiv.org/abs/2012.07177, which pastes instances; here whole classes are pasted.
    """
    if wrong := [index for index in never if not 0 <= index < num_classes]:
        raise InputError(f"classes {wrong} are not in 0..{num_classes - 1}")
    only_mask(targets, "copy-paste")
    allowed = jnp.array([index not in never for index in range(num_classes)])

    def mix(key: Key, samples: Sample) -> Sample:
        chosen = allowed & jax.random.bernoulli(key, 0.5, allowed.shape)
        return copy_paste(samples, chosen=chosen, targets=targets)

    return Mix(2, mix, probability)


def mosaic(samples: Sample, *, centre: Any) -> Sample:
    """Arranges four images around a point; each shows the corner that meets the point.

    Args:
        samples: `{"image": [4, H, W, C], **targets}`: top left, top right, bottom left, bottom right.
        centre: `[2]`, the first row of the lower images and the first column of the right ones.

    Returns:
        The sample `{"image": [H, W, C], **targets}`.

    >>> masks = jnp.arange(4)[:, None, None] * jnp.ones((4, 2, 3), int)
    >>> mosaic({"image": masks[..., None], "mask": masks}, centre=(1, 1))["mask"].tolist()
    [[0, 1, 1], [2, 3, 3]]
    """
    height, width = _size(samples)
    rows, columns = _grid((height, width))
    row, column = jnp.asarray(centre, jnp.int32)
    below, right = rows >= row, columns >= column
    which = 2 * below.astype(jnp.int32) + right.astype(jnp.int32)
    y = (jnp.where(below, rows - row, rows + height - row)) % height
    x = (jnp.where(right, columns - column, columns + width - column)) % width
    return {name: array[which, y, x] for name, array in samples.items()}


def random_mosaic(probability: float = 0.5) -> Mix:
    """Returns a mosaic of four images around a point in the middle half of height and width.

    Args:
        probability: Of mixing.

    References:
        Bochkovskiy et al., YOLOv4: Optimal Speed and Accuracy of Object Detection, 2020:
        https://arxiv.org/abs/2004.10934.
    """

    def mix(key: Key, samples: Sample) -> Sample:
        size = jnp.asarray(_size(samples), jnp.float32)
        middle = jnp.round(size * jax.random.uniform(key, (2,), jnp.float32, 0.25, 0.75))
        return mosaic(samples, centre=middle.astype(jnp.int32))

    return Mix(4, mix, probability)


def _paste(samples: Sample, region: Array) -> Sample:
    """Returns the second sample inside a region `[H, W]` and the first outside."""

    def paste(array: Array) -> Array:
        return jnp.where(
            region.reshape(*region.shape, *(1,) * (array.ndim - 3)), array[1], array[0]
        )

    return {name: paste(array) for name, array in samples.items()}


def _size(samples: Sample) -> Size:
    height, width = samples["image"].shape[1:3]
    return height, width


def _grid(size: Size) -> tuple[Array, Array]:
    """Returns the row and the column of every pixel, both `[H, W]`."""
    rows, columns = jnp.indices(size, jnp.int32)
    return rows, columns
