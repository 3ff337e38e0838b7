"""The embedded data set: textured overlapping shapes on textured grounds, drawn with NumPy alone.

Two classes share each range of hues (disk and ring, square and triangle, cross and bar), the ground is drawn in all of
them, paler; patterns, brightness and orientation come from one distribution for all. One class of each pair has a dark
rim and the other a light one. So a pixel's colour tells the pair at best, and inside of a shape the pixels around it
tell no more: the rim has to be found, often far away. Labels are crisp; the image's edges are anti-aliased.

Every number comes from the uniform variates of one PCG64 stream keyed by (seed, index), through `+ - * /`, `sqrt`,
rounding and comparisons only, which IEEE 754 rounds correctly: the same bytes on every machine and NumPy.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxseg.errors import InputError

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

_SHAPES = 4  # proposed per image; those that would hide another are dropped
_RADIUS = (0.22, 0.58)  # of sqrt(H W), from the smallest to the largest
_HUES = 0.24  # of the circle: the range that two classes share
_RIM = 2.0  # pixels
_LIGHT = ("ring", "triangle", "bar")  # have a light rim, the others a dark one
_VISIBLE = 0.7  # of every shape's pixels, at least, once all are drawn
_LATTICE = 8  # cells of the value noise, repeated


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A random-access source of drawn images with semantic labels and instance ids.

    Args:
        length: Number of images.
        size: Height and width in pixels, any from 1 x 1 up; shapes grow with `sqrt(H W)`.
        seed: Selects the set; sets of different seeds share no image.

    Raises:
        InputError: A length below 0, a size below 1 or a negative seed.

    >>> source = Shapes(100, size=(48, 64), seed=7)
    >>> record = source[3]
    >>> record["image"].shape, record["label"].shape, record["instance"].dtype, record["name"]
    ((48, 64, 3), (48, 64), dtype('int32'), 'shapes-7-000003')
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
        """Number of classes, the background among them."""
        return len(CLASSES)

    @property
    def palette(self) -> np.ndarray:
        """One colour for each class, uint8 `[K, 3]`."""
        return PALETTE

    @property
    def ignore_index(self) -> int:
        """The label that counts nowhere; no pixel here carries it."""
        return 255

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draws one image.

        Returns:
            `image` uint8 `[H, W, 3]`, `label` uint8 `[H, W]`, `instance` int32 `[H, W]` (0 is background, shapes are
            numbered from 1 from the lowest to the topmost) and `name`.
        """
        index = range(self.length)[index]
        image, label, instance = _draw(self.size, np.random.default_rng([self.seed, index]))
        name = f"shapes-{self.seed}-{index:06d}"
        return {"image": image, "label": label, "instance": instance, "name": name}


def _draw(size: tuple[int, int], rng: np.random.Generator):
    height, width = size
    unit = np.sqrt(float(height * width))
    ys, xs = np.ogrid[0.5:height, 0.5:width]
    figures = rng.random((_SHAPES, 7))
    kinds = 1 + (figures[:, 0] * (len(CLASSES) - 1)).astype(np.int64)
    paints = _paints(np.concatenate([np.zeros(1, np.int64), kinds]), rng)
    image = _texture(xs / unit, ys / unit, paints[0])
    label = np.zeros(size, np.uint8)
    instance = np.zeros(size, np.int32)
    # Pixels of each shape: when it was drawn, and still in view.
    drawn, shown = np.zeros((2, _SHAPES + 1), np.int64)
    count = 0
    for class_id, paint, figure in zip(kinds, paints[1:], figures[:, 1:], strict=True):
        radius, cx, cy, turn, quarter, form = figure
        radius = unit * (_RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * radius)
        margin = 0.4 * radius  # enough of every shape is in the image to tell what it is
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
        if not inside.any() or (shown - hidden < _VISIBLE * drawn)[1:].any():
            continue
        count += 1
        shown -= hidden
        drawn[count] = shown[count] = np.count_nonzero(inside)
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
    """Signed distance in pixels to a shape inside the circle of `radius`: negative inside; `form` in [0, 1) varies it."""
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
    """Two colours and the pattern that mixes them."""

    first: np.ndarray
    second: np.ndarray
    kind: int
    period: float
    turn: float
    quarter: float
    shift: tuple[float, float]
    lattice: np.ndarray


def _paints(kinds: np.ndarray, rng: np.random.Generator) -> list[_Paint]:
    """A paint for the ground (kind 0) and each shape of an image: two classes share a range of vivid hues."""
    u = rng.random((len(kinds), 12))
    lattices = rng.random((len(kinds), _LATTICE, _LATTICE))
    ground = kinds == 0
    hue = np.where(ground, u[:, 0], (kinds - 1) // 2 / 3.0 + _HUES * (u[:, 1] - 0.5))
    saturation = np.where(ground, 0.35 * u[:, 3], 0.5 + 0.5 * u[:, 3])
    # Grounds are of middle brightness, so that both kinds of rim stand out.
    first = _rgb(hue, saturation, 0.45 + np.where(ground, 0.25, 0.55) * u[:, 4])
    second = _rgb(
        hue + 0.16 * (u[:, 5] - 0.5),
        saturation * (0.7 + 0.3 * u[:, 6]),
        0.35 + np.where(ground, 0.3, 0.55) * u[:, 7],
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
    """HSV `[n]`, hue in turns, to RGB `[n, 3]` in [0, 1]."""
    sector = hue[:, None] * 6.0 + np.array([0.0, 4.0, 2.0])
    sector = sector - 6.0 * np.floor(sector / 6.0)
    ramp = np.clip(np.abs(sector - 3.0) - 1.0, 0.0, 1.0)
    return value[:, None] * (1.0 - saturation[:, None] * (1.0 - ramp))


def _texture(x: np.ndarray, y: np.ndarray, paint: _Paint) -> np.ndarray:
    """Colours `[H, W, 3]` at positions in units of the image's size."""
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
    """A triangle wave of period 1 between 0 and 1."""
    return 2.0 * np.abs(x - np.floor(x + 0.5))


def _noise(x: np.ndarray, y: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Value noise: a periodic lattice, interpolated bilinearly."""
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    i, j = top.astype(np.int64) % _LATTICE, left.astype(np.int64) % _LATTICE
    down, right = (i + 1) % _LATTICE, (j + 1) % _LATTICE
    upper = lattice[i, j] + fx * (lattice[i, right] - lattice[i, j])
    lower = lattice[down, j] + fx * (lattice[down, right] - lattice[down, j])
    return upper + fy * (lower - upper)
