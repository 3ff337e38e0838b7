"""Compares each transform on the device with that of albumentations, for the same explicit numbers.

The tolerances follow from OpenCV's roundings: the weights of its resize have 11 bits; its hues are steps of two degrees; before
version 5 the positions of its warps are steps of 1/32 of a pixel for images and 1/1024 for labels.
"""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.device.augment import adjust_colour, blur, elastic_field, mosaic, view
from jaxseg.data.host.augment import alb
from jaxseg.data.sources.shapes import Shapes

mixing = pytest.importorskip("albumentations.augmentations.mixing.functional")

SIZE = (60, 80)
FILL = (124, 116, 104)
OUTSIDE = {"fill": FILL, "fill_mask": 255, "p": 1}
OLD = int(cv2.__version__.split(".")[0]) < 5
WARP = 2 * 255 / 64 + 1 if OLD else 1
"""The largest difference: half a step along both axes across the steepest edge, and a rounding."""
LABELS = 0.02 if OLD else 0.0
"""The fraction of labels that may differ: positions within half a step of the border of two pixels."""


@pytest.fixture(scope="module", params=["shapes", "noise"])
def record(request):
    if request.param == "shapes":
        return Shapes(3, SIZE, seed=5)[1]
    rng = np.random.default_rng(0)  # a steep edge at every pixel
    return {
        "image": rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, 7, SIZE).astype(np.uint8),
    }


def by_albumentations(transform, record):
    out = alb.Compose([transform])(image=record["image"], mask=record["label"])
    return out["image"], out["mask"]


def on_device(record, size=SIZE, **options):
    def transform(image, label):
        return view({"image": image, "label": label}, size=size, fill=FILL, **options)

    sample = jax.jit(transform)(record["image"], record["label"])
    image, label = sample["image"], sample["label"]
    assert (image.dtype, label.dtype) == (np.uint8, record["label"].dtype)
    return np.asarray(image), np.asarray(label)


def largest(one, other):
    return np.abs(one.astype(float) - other.astype(float)).max()


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("transform", "flip"),
    [(alb.HorizontalFlip(p=1), (False, True)), (alb.VerticalFlip(p=1), (True, False))],
)
def test_flips_equal_albumentations(record, transform, flip):
    assert_equal(on_device(record, flip=flip), by_albumentations(transform, record))


def test_crops_equal_albumentations(record):
    crop = alb.Crop(33, 7, 81, 39, pad_if_needed=True, pad_position="top_left", **OUTSIDE)
    assert_equal(on_device(record, (32, 48), corner=(7, 33)), by_albumentations(crop, record))


def test_padding_equals_albumentations(record):
    pad = alb.Pad((5, 9, 2, 1), **OUTSIDE)  # left, top, right, bottom
    assert_equal(on_device(record, (70, 87), corner=(-9, -5)), by_albumentations(pad, record))


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 2.0])
def test_scales_equal_albumentations_to_one_level(record, factor):
    """Images are equal to one level, since OpenCV's weights have 11 bits; labels exactly, except at positions on the border of two
    pixels, which are equally near."""
    size = tuple(int(side * factor) for side in SIZE)
    resize = alb.RandomScale(
        (factor - 1, factor - 1), mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1
    )
    (image, label), expected = (
        on_device(record, size, scale=factor),
        by_albumentations(resize, record),
    )
    assert largest(image, expected[0]) <= 1
    ties = [
        ((2 * np.arange(new) + 1) * old % (2 * new) == 0)
        for new, old in zip(size, SIZE, strict=True)
    ]
    clear = ~(ties[0][:, None] | ties[1])
    np.testing.assert_array_equal(label[clear], expected[1][clear])
    assert clear.mean() == {0.5: 0, 0.75: 4 / 9, 1.25: 16 / 25, 2.0: 1}[factor]


@pytest.mark.parametrize("angle", [-30.0, 10.0, 90.0])
def test_rotations_equal_albumentations_inside(record, angle):
    expected = by_albumentations(alb.Rotate((angle, angle), **OUTSIDE), record)
    assert_equal_inside(on_device(record, angle=angle), expected)


def test_affine_maps_equal_albumentations_inside(record):
    """Albumentations' `Affine` keeps the centre in its position, which a corner does here."""
    affine = alb.Affine(
        scale=1.25, rotate=20.0, interpolation=cv2.INTER_LINEAR, **OUTSIDE, fit_output=False
    )
    corner = (0.125 * SIZE[0], 0.125 * SIZE[1])
    got = on_device(record, scale=1.25, angle=20.0, corner=corner)
    assert_equal_inside(got, by_albumentations(affine, record))


def test_elastic_fields_equal_albumentations_inside(record):
    field = elastic_field(4 * jax.random.normal(jax.random.key(0), (3, 3, 2)), SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    maps = {"map_y": y + np.asarray(field[..., 0]), "map_x": x + np.asarray(field[..., 1])}
    elastic = alb.ElasticTransform(**OUTSIDE)
    expected = (
        elastic.apply(record["image"], **maps),
        elastic.apply_to_mask(record["label"], **maps),
    )
    assert_equal_inside(on_device(record, displacement=field), expected)


def assert_equal_inside(got, expected):
    """Asserts equal labels, and images equal up to OpenCV's roundings, except at the border of the image.

    There OpenCV blends the outermost half pixel with the fill value, and `view` does not.
    """
    outside = expected[1] == 255
    assert 0.01 < outside.mean() < 0.6
    wrong = got[1] != expected[1]
    assert wrong.mean() <= LABELS
    near = cv2.dilate(outside.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    near[:2], near[-2:], near[:, :2], near[:, -2:] = True, True, True, True
    assert largest(got[0][~near], expected[0][~near]) <= WARP
    far = cv2.erode((outside & (got[1] == 255)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert largest(got[0][far], expected[0][far]) == 0


@pytest.mark.parametrize(
    ("change", "levels"),
    [
        ({"brightness": 1.3}, 1),
        ({"brightness": 0.6, "contrast": 1.0}, 1),
        ({"contrast": 0.7}, 1),
        ({"contrast": 1.3}, 1),
        ({"saturation": 0.0}, 1),
        ({"saturation": 1.3}, 1),
        ({"hue": 0.05}, 6),
        ({"hue": -0.5}, 6),
        ({"brightness": 1.2, "contrast": 0.8, "saturation": 1.2, "hue": -0.05}, 10),
    ],
)
def test_colours_equal_albumentations(record, change, levels):
    """In floating point colours are equal to a thousandth of a level. In uint8 albumentations truncates brightness and contrast
    instead of rounding them, one level; its hues are rounded to two degrees, and one degree is 255 / 60 levels of a saturated
    colour; its saturation has 8 bits, another level and a rounding; in a chain these errors add up."""
    jitter = alb.ColorJitter()
    factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **change}
    options = {**factors, "order": [0, 1, 2, 3]}
    for dtype, scale, tolerance in ((np.float32, np.float32(255), 1e-3), (np.uint8, 1, levels)):
        image = record["image"].astype(dtype)
        expected = jitter.apply((image / scale).astype(dtype), **options) * scale
        got = np.asarray(adjust_colour(jnp.asarray(image), **change))
        assert got.dtype == dtype
        assert largest(got, expected) <= tolerance
        assert largest(got, image) > 10


@pytest.mark.parametrize("sigma", [0.5, 1.5, 3.0])
@pytest.mark.sample(1)
def test_blur_equals_albumentations_to_one_level(record, sigma):
    radius = math.ceil(3 * sigma)
    kernel = 2 * radius + 1
    expected, label = by_albumentations(
        alb.GaussianBlur((kernel, kernel), (sigma, sigma), p=1), record
    )
    got = blur(jnp.asarray(record["image"]), sigma, radius=radius)
    assert largest(np.asarray(got), expected) <= 1
    np.testing.assert_array_equal(label, record["label"])


@pytest.mark.parametrize("centre", [(20, 30), (45, 60), (30, 17)])
def test_mosaics_equal_albumentations(centre):
    records = [Shapes(4, SIZE, seed=3)[index] for index in range(4)]
    middle = [side - at + side // 2 for side, at in zip(SIZE, centre, strict=True)]
    positions = mixing.calculate_cell_placements((2, 2), SIZE, SIZE, (middle[1], middle[0]))
    cells = mixing.process_all_mosaic_geometries(
        canvas_shape=SIZE,
        cell_shape=SIZE,
        placement_to_item_index={position: index for index, position in enumerate(positions)},
        final_items_for_grid=[
            {"image": r["image"], "mask": r["label"], "bboxes": None, "keypoints": None}
            for r in records
        ],
        fill=0,
        fill_mask=255,
        fit_mode="cover",
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
    )
    expected = [
        mixing.assemble_mosaic_from_processed_cells(cells, shape, np.uint8, key, 0)
        for key, shape in (("image", (*SIZE, 3)), ("mask", SIZE))
    ]
    samples = {key: jnp.stack([r[key] for r in records]) for key in ("image", "label")}
    got = mosaic(samples, centre=centre)
    assert_equal((got["image"], got["label"]), expected)
