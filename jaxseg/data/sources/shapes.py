"""The embedded data set: textured overlapping shapes on textured backgrounds, generated with NumPy.

Two classes share each range of hues (disk and ring, square and triangle, cross and bar), and the background has all hues,
paler; patterns, brightness and orientation have one distribution for all classes. One class of each pair has a dark rim and
the other a light one. The colour of a pixel therefore tells at most the pair, and so does its neighbourhood inside a shape: a
network has to find the rim, which is often far away. Labels have sharp edges; the image is anti-aliased.

Every number is computed from the uniform variates of one PCG64 stream seeded by (seed, index), by `+ - * /`, `sqrt`, rounding
and comparisons only, which IEEE 754 rounds correctly: the bytes are the same on every machine and with every NumPy.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxseg.data.label_spec import LabelOptions
from jaxseg.data.targets import LABEL, Targets, labels
from jaxseg.errors import InputError, unknown

CLASSES = ("background", "disk", "ring", "square", "triangle", "cross", "bar")
PALETTE = np.array(
    [
        [38, 43, 54],
        [94, 184, 214],
        [242, 166, 90],
        [122, 199, 134],
        [229, 105, 106],
        [164, 132, 214],
        [243, 215, 110],
    ],
    np.uint8,
)

_SHAPES = 4  # candidates per image; those that would hide another are dropped
_RADIUS = (0.22, 0.58)  # of sqrt(H W), from the smallest to the largest
_HUES = 0.24  # of the colour circle: the range that two classes share
_RIM = 2.0  # pixels
_LIGHT = ("ring", "triangle", "bar")  # have a light rim, the others a dark one
_VISIBLE = 0.7  # the least visible fraction of every shape
_SEEDS = {"train": 0, "val": 1, "test": 2}
_LATTICE = 8  # cells of the periodic value noise


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A source of generated images with semantic labels and instance ids.

    Args:
        length: Number of images.
        size: Height and width in pixels, at least 1 x 1; the size of shapes is proportional to `sqrt(H W)`.
        seed: Selects the set; sets of different seeds share no image.

    Raises:
        InputError: The length or the seed is negative, or a side is below 1.

    >>> source = Shapes(100, size=(48, 64), seed=7)
    >>> record = source[3]
    >>> record["image"].shape, sorted(record), record["instance"].dtype, record["name"]
    ((48, 64, 3), ['image', 'instance', 'label', 'name'], dtype('int32'), 'shapes-7-000003')
    >>> len(source), source.num_classes, source.classes[1]
    (100, 7, 'disk')
    """

    length: int
    size: tuple[int, int] = (64, 64)
    _: dataclasses.KW_ONLY
    seed: int = 0

    def __post_init__(self):
        if self.length < 0 or min(self.size) < 1 or len(self.size) != 2 or self.seed < 0:
            raise InputError(f"{self}: length and seed are at least 0, height and width at least 1")

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of every class id."""
        return CLASSES

    @property
    def num_classes(self) -> int:
        """Number of classes, including the background."""
        return len(CLASSES)

    @property
    def palette(self) -> np.ndarray:
        """The colour of each class, uint8 `[K, 3]`."""
        return PALETTE

    @property
    def ignore_index(self) -> int:
        """The label of ignored pixels, which no pixel has."""
        return 255

    @property
    def targets(self) -> Targets:
        """The mask of class ids; instance ids are no target yet."""
        return labels(self.ignore_index)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Generates one record.

        Returns:
            `image` uint8 `[H, W, 3]`, `label` uint8 `[H, W]`, `instance` int32 `[H, W]` (0 is background, shapes are
            numbered from 1, the lowest, to the topmost) and `name`.
        """
        index = range(self.length)[index]
        image, label, instance = _generate(self.size, np.random.default_rng([self.seed, index]))
        name = f"shapes-{self.seed}-{index:06d}"
        return {"image": image, LABEL: label, "instance": instance, "name": name}


@dataclasses.dataclass(frozen=True)
class ShapesOptions:
    """The embedded data set of shapes."""

    size: tuple[int, int] = (64, 64)
    """Height and width of the images in pixels."""
    train_length: int = 1280
    """Number of training images."""
    validation_length: int = 128
    """Number of validation images, and of test images."""

    def open(self, split: str, *, root: str | None, labels: LabelOptions) -> Shapes:
        """Opens a split.

        Raises:
            InputError: The split is unknown, or the label options differ from the labels of the shapes.
        """
        if split not in _SEEDS:
            raise unknown("split of shapes", split, _SEEDS)
        length = self.train_length if split == "train" else self.validation_length
        source = Shapes(length, self.size, seed=_SEEDS[split])
        fixed = {
            "num_classes": (None, source.num_classes),
            "classes": (None, source.classes),
            "ignore_index": (source.ignore_index,),
            "label_map": (None,),
            "reduce_zero_label": (False,),
        }
        for name, values in fixed.items():
            if getattr(labels, name) not in values:
                raise InputError(
                    f"the labels of the embedded shapes are fixed: leave out --data.{name.replace('_', '-')}"
                )
        return source


def _generate(size: tuple[int, int], rng: np.random.Generator):
    height, width = size
    unit = np.sqrt(float(height * width))
    ys, xs = np.ogrid[0.5:height, 0.5:width]
    figures = rng.random((_SHAPES, 7))
    kinds = 1 + (figures[:, 0] * (len(CLASSES) - 1)).astype(np.int64)
    paints = _paints(np.concatenate([np.zeros(1, np.int64), kinds]), rng)
    image = _texture(xs / unit, ys / unit, paints[0])
    label = np.zeros(size, np.uint8)
    instance = np.zeros(size, np.int32)
    # Pixels of each shape: in total, and not hidden by later ones.
    total, visible = np.zeros((2, _SHAPES + 1), np.int64)
    count = 0
    for class_id, paint, figure in zip(kinds, paints[1:], figures[:, 1:], strict=True):
        radius, cx, cy, turn, quarter, form = figure
        radius = unit * (_RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * radius)
        margin = 0.4 * radius  # keeps enough of every shape inside the image to recognize it
        cx, cy = margin + cx * (width - 2 * margin), margin + cy * (height - 2 * margin)
        window = (
            slice(max(int(cy - radius) - 1, 0), int(cy + radius) + 2),
            slice(max(int(cx - radius) - 1, 0), int(cx + radius) + 2),
        )
        x, y = xs[:, window[1]], ys[window[0]]
        distance = _distance(
            CLASSES[class_id], *_rotate(x - cx, y - cy, turn, quarter), radius, form
        )
        inside = distance < 0
        hidden = np.bincount(instance[window][inside], minlength=_SHAPES + 1)
        if not inside.any() or (visible - hidden < _VISIBLE * total)[1:].any():
            continue
        count += 1
        visible -= hidden
        total[count] = visible[count] = np.count_nonzero(inside)
        cover = np.clip(0.5 - 2.0 * distance, 0.0, 1.0)[:, :, None]
        colour = _texture(x / unit, y / unit, paint)
        rim = 0.92 * np.clip(distance + _RIM, 0.0, 1.0)[:, :, None]
        colour += rim * ((CLASSES[class_id] in _LIGHT) - colour)
        image[window] += cover * (colour - image[window])
        label[window][inside] = class_id
        instance[window][inside] = count
    image += 0.06 * (rng.random(image.shape) - 0.5)
    return (np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8), label, instance


def _distance(name: str, x: np.ndarray, y: np.ndarray, radius: float, form: float) -> np.ndarray:
    """Computes the signed distance in pixels to a shape within `radius`, negative inside; `form` in [0, 1) varies it."""
    across, along = np.abs(x), np.abs(y)
    match name:
        case "disk":
            return np.sqrt(x * x + y * y) - (0.65 + 0.15 * form) * radius
        case "ring":
            half = np.maximum(1.75, (0.19 + 0.06 * form) * radius)
            return np.abs(np.sqrt(x * x + y * y) - (0.95 * radius - half)) - half
        case "square":
            return np.maximum(across, along) - (0.55 + 0.15 * form) * radius
        case "triangle":
            slope = 0.5 * np.sqrt(3.0) * across
            return np.maximum(-y, slope + 0.5 * y) - 0.49 * radius
        case "cross":
            half = np.maximum(3.0, (0.25 + 0.06 * form) * radius)
            return np.minimum(
                np.maximum(across - 0.95 * radius, along - half),
                np.maximum(across - half, along - 0.95 * radius),
            )
        case _:
            half = np.maximum(1.5, 0.22 * radius)
            return np.maximum(across - half, along - radius)


def _rotate(x: np.ndarray, y: np.ndarray, turn: float, quarter: float):
    """Rotates by `2 atan(turn)`, 0 to 90 degrees, and then by one of four quarters, without a sine."""
    scale = 1.0 / (1.0 + turn * turn)
    cosine, sine = (1.0 - turn * turn) * scale, 2.0 * turn * scale
    x, y = cosine * x + sine * y, cosine * y - sine * x
    return ((x, y), (y, -x), (-x, -y), (-y, x))[int(4 * quarter)]


@dataclasses.dataclass(frozen=True)
class _Paint:
    """Two colours and the pattern that blends them."""

    first: np.ndarray
    second: np.ndarray
    kind: int
    period: float
    turn: float
    quarter: float
    shift: tuple[float, float]
    lattice: np.ndarray


def _paints(kinds: np.ndarray, rng: np.random.Generator) -> list[_Paint]:
    """Returns a paint for the background (kind 0) and each shape; two classes share a range of saturated hues."""
    u = rng.random((len(kinds), 12))
    lattices = rng.random((len(kinds), _LATTICE, _LATTICE))
    is_background = kinds == 0
    hue = np.where(is_background, u[:, 0], (kinds - 1) // 2 / 3.0 + _HUES * (u[:, 1] - 0.5))
    saturation = np.where(is_background, 0.35 * u[:, 3], 0.5 + 0.5 * u[:, 3])
    # Backgrounds have medium brightness, so that both kinds of rim contrast.
    first = _rgb(hue, saturation, 0.45 + np.where(is_background, 0.25, 0.55) * u[:, 4])
    second = _rgb(
        hue + 0.16 * (u[:, 5] - 0.5),
        saturation * (0.7 + 0.3 * u[:, 6]),
        0.35 + np.where(is_background, 0.3, 0.55) * u[:, 7],
    )
    return [
        _Paint(
            first[i],
            second[i],
            int(u[i, 8] * 5),
            0.06 + 0.14 * u[i, 9],
            u[i, 10],
            u[i, 11],
            (u[i, 1], u[i, 4]),
            lattices[i],
        )
        for i in range(len(kinds))
    ]


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Converts HSV `[n]`, the hue in full circles, to RGB `[n, 3]` in [0, 1]."""
    sector = hue[:, None] * 6.0 + np.array([0.0, 4.0, 2.0])
    sector = sector - 6.0 * np.floor(sector / 6.0)
    ramp = np.clip(np.abs(sector - 3.0) - 1.0, 0.0, 1.0)
    return value[:, None] * (1.0 - saturation[:, None] * (1.0 - ramp))


def _texture(x: np.ndarray, y: np.ndarray, paint: _Paint) -> np.ndarray:
    """Returns colours `[H, W, 3]` at positions in units of the image's size."""
    x, y = _rotate(x, y, paint.turn, paint.quarter)
    u, v = x / paint.period + paint.shift[0], y / paint.period + paint.shift[1]
    match paint.kind:
        case 0:  # stripes
            mix = _wave(u)
        case 1:  # checks
            mix = 0.5 + 2.0 * (_wave(u) - 0.5) * (_wave(v) - 0.5)
        case 2:  # dots
            mix = _wave(u) * _wave(v)
        case 3:  # clouds
            mix = _noise(u * 2.0, v * 2.0, paint.lattice)
        case _:  # a slow ramp
            mix = _wave(0.12 * u)
    mix = np.clip(1.6 * (mix - 0.5) + 0.5, 0.0, 1.0)[:, :, None]
    return paint.first + mix * (paint.second - paint.first)


def _wave(x: np.ndarray) -> np.ndarray:
    """Computes a triangle wave of period 1 between 0 and 1."""
    return 2.0 * np.abs(x - np.floor(x + 0.5))


def _noise(x: np.ndarray, y: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Computes value noise: a periodic lattice, interpolated bilinearly."""
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    i, j = top.astype(np.int64) % _LATTICE, left.astype(np.int64) % _LATTICE
    down, right = (i + 1) % _LATTICE, (j + 1) % _LATTICE
    upper = lattice[i, j] + fx * (lattice[i, right] - lattice[i, j])
    lower = lattice[down, j] + fx * (lattice[down, right] - lattice[down, j])
    return upper + fy * (lower - upper)


SOURCES = {"shapes": ShapesOptions}
