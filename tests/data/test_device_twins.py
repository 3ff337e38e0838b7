"""Each transform of the device beside its twin of albumentations, on the same explicit numbers.

What OpenCV rounds decides the tolerances: the weights of its resize have 11 bits; its hues are steps of two degrees;
before version 5 the places of its warps are steps of 1/32 of a pixel, labels' places of 1/1024.
"""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.augment import alb  # behind its door, which keeps it from contacting a server
from jaxseg.data.device_augment import adjust_colour, blur, elastic_field, mosaic, view
from jaxseg.data.shapes import Shapes

mixing = pytest.importorskip("albumentations.augmentations.mixing.functional")

SIZE = (60, 80)
FILL = (124, 116, 104)
OUTSIDE = {"fill": FILL, "fill_mask": 255, "p": 1}
OLD = int(cv2.__version__.split(".")[0]) < 5
WARP = 2 * 255 / 64 + 1 if OLD else 1
"""Half a step along both axes across the steepest edge, and a rounding."""
LABELS = 0.02 if OLD else 0.0
"""The share of labels that may differ: places within half a step of the border of two pixels."""


@pytest.fixture(scope="module", params=["shapes", "noise"])
def record(request):
    if request.param == "shapes":
        return Shapes(3, SIZE, seed=5)[1]
    rng = np.random.default_rng(0)  # every place is a steep edge
    return {
        "image": rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, 7, SIZE).astype(np.uint8),
    }


def twin(transform, record):
    out = alb.Compose([transform])(image=record["image"], mask=record["label"])
    return out["image"], out["mask"]


def seen(record, size=SIZE, **options):
    def look(image, label):
        return view(image, label, size=size, fill=FILL, **options)

    image, label = jax.jit(look)(record["image"], record["label"])
    assert (image.dtype, label.dtype) == (np.uint8, record["label"].dtype)
    return np.asarray(image), np.asarray(label)


def largest(one, other):
    return np.abs(one.astype(float) - other.astype(float)).max()


def same(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("transform", "flip"),
    [(alb.HorizontalFlip(p=1), (False, True)), (alb.VerticalFlip(p=1), (True, False))],
)
def test_flips_are_exact(record, transform, flip):
    same(seen(record, flip=flip), twin(transform, record))


def test_crops_are_exact(record):
    crop = alb.Crop(33, 7, 81, 39, pad_if_needed=True, pad_position="top_left", **OUTSIDE)
    same(seen(record, (32, 48), corner=(7, 33)), twin(crop, record))


def test_padding_is_exact(record):
    pad = alb.Pad((5, 9, 2, 1), **OUTSIDE)  # left, top, right, bottom
    same(seen(record, (70, 87), corner=(-9, -5)), twin(pad, record))


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 2.0])
def test_scales(record, factor):
    """Images to one level, for OpenCV's weights have 11 bits; labels exactly, but where a place lies on the very border of
    two pixels: there either of the two is nearest."""
    size = tuple(int(side * factor) for side in SIZE)
    resize = alb.RandomScale(
        (factor - 1, factor - 1), mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1
    )
    (image, label), expected = seen(record, size, scale=factor), twin(resize, record)
    assert largest(image, expected[0]) <= 1
    ties = [
        ((2 * np.arange(new) + 1) * old % (2 * new) == 0)
        for new, old in zip(size, SIZE, strict=True)
    ]
    clear = ~(ties[0][:, None] | ties[1])
    np.testing.assert_array_equal(label[clear], expected[1][clear])
    assert clear.mean() == {0.5: 0, 0.75: 4 / 9, 1.25: 16 / 25, 2.0: 1}[factor]


@pytest.mark.parametrize("angle", [-30.0, 10.0, 90.0])
def test_rotations(record, angle):
    expected = twin(alb.Rotate((angle, angle), **OUTSIDE), record)
    same_but_for_the_rim(seen(record, angle=angle), expected)


def test_rotation_and_scale_about_the_centre(record):
    """Albumentations' `Affine` keeps the centre where it is; a corner does the same here."""
    affine = alb.Affine(
        scale=1.25, rotate=20.0, interpolation=cv2.INTER_LINEAR, **OUTSIDE, fit_output=False
    )
    corner = (0.125 * SIZE[0], 0.125 * SIZE[1])
    got = seen(record, scale=1.25, angle=20.0, corner=corner)
    same_but_for_the_rim(got, twin(affine, record))


def test_elastic_displacements(record):
    field = elastic_field(4 * jax.random.normal(jax.random.key(0), (3, 3, 2)), SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    maps = {"map_y": y + np.asarray(field[..., 0]), "map_x": x + np.asarray(field[..., 1])}
    elastic = alb.ElasticTransform(**OUTSIDE)
    expected = (
        elastic.apply(record["image"], **maps),
        elastic.apply_to_mask(record["label"], **maps),
    )
    same_but_for_the_rim(seen(record, displacement=field), expected)


def same_but_for_the_rim(got, expected):
    """Labels exactly, images to what OpenCV rounds; but for the rim of the image.

    There OpenCV mixes the outermost half pixel with the fill, and we do not: an image keeps its edge.
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
def test_colours(record, change, levels):
    """In floating point to a thousandth of a level. In uint8 albumentations cuts brightness and contrast off instead of
    rounding them, a level; its hues are rounded to two degrees, one degree is 255 / 60 levels of a saturated colour,
    and its saturation has 8 bits, another level and a rounding; in a chain these add up."""
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
def test_blur_to_a_rounding(record, sigma):
    radius = math.ceil(3 * sigma)
    kernel = 2 * radius + 1
    expected, label = twin(alb.GaussianBlur((kernel, kernel), (sigma, sigma), p=1), record)
    got = blur(jnp.asarray(record["image"]), sigma, radius=radius)
    assert largest(np.asarray(got), expected) <= 1
    np.testing.assert_array_equal(label, record["label"])


@pytest.mark.parametrize("centre", [(20, 30), (45, 60), (30, 17)])
def test_mosaics_are_exact(centre):
    records = [Shapes(4, SIZE, seed=3)[index] for index in range(4)]
    middle = [side - at + side // 2 for side, at in zip(SIZE, centre, strict=True)]
    places = mixing.calculate_cell_placements((2, 2), SIZE, SIZE, (middle[1], middle[0]))
    cells = mixing.process_all_mosaic_geometries(
        canvas_shape=SIZE,
        cell_shape=SIZE,
        placement_to_item_index={place: index for index, place in enumerate(places)},
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
    images, labels = (jnp.stack([r[key] for r in records]) for key in ("image", "label"))
    same(mosaic(images, labels, centre=centre), expected)
