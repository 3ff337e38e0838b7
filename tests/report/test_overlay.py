import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.report import colorize, overlay

PALETTE = np.array([[10, 20, 30], [200, 100, 0], [0, 0, 255]], np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_every_pixel_gets_its_class_colour(dtype):
    labels = np.array([[0, 1, 2], [2, 1, 0]], dtype)
    colours = colorize(labels, PALETTE)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, PALETTE[labels])


def test_ignored_pixels_are_a_hatch_that_is_no_class_colour():
    labels = np.full((16, 16), 255)
    labels[:, 8:] = 1
    colours = colorize(labels, PALETTE)
    hatch = {tuple(colour) for colour in colours[:, :8].reshape(-1, 3).tolist()}
    assert len(hatch) == 2
    assert all(r == pytest.approx(g, abs=10) and g == pytest.approx(b, abs=10) for r, g, b in hatch)
    np.testing.assert_array_equal(colours[:, 8:], np.broadcast_to(PALETTE[1], (16, 8, 3)))


def test_another_ignore_index_and_stacked_labels():
    labels = np.array([[[0, -1]], [[1, 2]]])
    colours = colorize(labels, PALETTE, ignore_index=-1)
    assert colours.shape == (2, 1, 2, 3)
    np.testing.assert_array_equal(colours[1, 0], PALETTE[[1, 2]])


def test_an_ignore_index_that_is_also_a_class_is_ignored():
    assert (
        not (colorize(np.zeros((2, 2), int), PALETTE, ignore_index=0) == PALETTE[0]).all(-1).any()
    )


def test_overlay_mixes_inside_and_is_opaque_on_borders():
    image = np.full((3, 4, 3), 100, np.uint8)
    labels = np.array([[1, 1, 1, 2]] * 3)
    mixed = overlay(image, labels, PALETTE, alpha=0.5)
    np.testing.assert_array_equal(mixed[0, 0], [150, 100, 50])
    np.testing.assert_array_equal(mixed[:, 2], np.broadcast_to(PALETTE[1], (3, 3)))
    np.testing.assert_array_equal(mixed[0, 3], [50, 50, 178])
    plain = overlay(image, labels, PALETTE, alpha=0.5, outline=False)
    np.testing.assert_array_equal(plain[0, 2], [150, 100, 50])


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [7, 7, 7]), (1.0, [200, 100, 0])])
def test_overlay_at_the_ends_of_alpha(alpha, expected):
    image = np.full((2, 2), 7, np.uint8)
    mixed = overlay(image, np.ones((2, 2), int), PALETTE, alpha=alpha)
    np.testing.assert_array_equal(mixed, np.broadcast_to(np.array(expected), (2, 2, 3)))


def test_overlay_leaves_ignored_pixels_alone():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    labels = np.full((5, 6), 255)
    labels[2, 2] = 1
    mixed = overlay(image, labels, PALETTE)
    changed = (mixed != image).any(-1)
    assert changed.sum() == 1
    assert changed[2, 2]


def test_overlay_does_not_write_to_its_input():
    image = np.zeros((2, 2, 1), np.uint8)
    overlay(image, np.ones((2, 2), int), PALETTE)
    assert not image.any()


@pytest.mark.parametrize(
    ("labels", "palette", "words"),
    [
        (np.array([[0, 3]]), PALETTE, "label 3, but the palette has 3 colours"),
        (np.array([[-1, 0]]), PALETTE, "label -1"),
        (np.array([[0.0, 1.0]]), PALETTE, "expected integers"),
        (np.array([0, 1]), PALETTE, "expected integers"),
        (np.array([[0]]), PALETTE.astype(float), "expected uint8"),
        (np.array([[0]]), PALETTE[:, :2], "expected uint8"),
        (np.array([[0]]), PALETTE[:0], "expected uint8"),
    ],
)
def test_what_cannot_be_painted(labels, palette, words):
    with pytest.raises(InputError, match=words):
        colorize(labels, palette)


@pytest.mark.parametrize(
    ("image", "alpha", "words"),
    [
        (np.zeros((2, 3, 3), np.uint8), 0.5, "same size"),
        (np.zeros((2, 2, 3)), 0.5, "float64"),
        (np.zeros((2, 2, 4), np.uint8), 0.5, "same size"),
        (np.zeros((2, 2, 3), np.uint8), 1.5, "alpha 1.5"),
        (np.zeros((2, 2, 3), np.uint8), float("nan"), "alpha nan"),
    ],
)
def test_what_cannot_be_laid_over(image, alpha, words):
    with pytest.raises(InputError, match=words):
        overlay(image, np.zeros((2, 2), int), PALETTE, alpha=alpha)
