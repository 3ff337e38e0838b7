import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import ndimage

from jaxseg.errors import InputError
from jaxseg.metrics.boundary import boundary_f_score, boundary_iou
from jaxseg.metrics.edges import Masks, class_edges, near
from jaxseg.metrics.surface import average_symmetric_surface_distance, hausdorff_distance

CLASSES = 4
SHAPE = (7, 17, 23)
SCORES = [boundary_iou, boundary_f_score]


@functools.cache
def compiled(score, **options):
    options = {"num_classes": CLASSES, **options}
    return jax.jit(
        lambda labels, predictions: score(labels=labels, predictions=predictions, **options)
    )


def blobs(rng, shape, classes):
    noise = rng.normal(size=(classes, *shape))
    return np.stack([ndimage.gaussian_filter(each, 3) for each in noise]).argmax(0)


def cases(ignored=False):
    """Noise, blobs, one class everywhere, one pixel, a class that is missed, values of no class, and all ignored."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, CLASSES, (2, *SHAPE))
    for i in (1, 5):
        labels[i] = blobs(rng, SHAPE[1:], CLASSES)
        predictions[i] = np.roll(labels[i], (1, 2), (0, 1))
    labels[2], predictions[2] = 1, 1
    labels[3], predictions[3] = 0, 0
    labels[3, 5, 7], predictions[3, 6, 9] = 2, 2
    labels[4], predictions[4] = 3, blobs(rng, SHAPE[1:], 3)
    labels[5, 3:5], predictions[5, 9:12] = 100, -1
    if ignored:
        labels = np.where(rng.random(SHAPE) < 0.15, 255, labels)
        labels[1, :6, :9], labels[6] = 255, 255
    return labels, predictions


def masks_of(labels, predictions, number):
    counted = labels != 255
    true, predicted = counted & (labels == number), counted & (predictions == number)
    return true, predicted, counted & ~true, counted & ~predicted


def near_outside(mask, outside, reach, square):
    """The pixels of a mask with something outside near them, pixel by pixel."""
    found = np.zeros_like(mask)
    height, width = mask.shape
    span = range(-reach, reach + 1)
    steps = [(a, b) for a in span for b in span if square or a == 0 or b == 0]
    for y, x in zip(*np.nonzero(mask), strict=True):
        for a, b in steps:
            row, column = y + a, x + b
            inside = 0 <= row < height and 0 <= column < width
            found[y, x] |= not inside or outside[row, column]
    return found


def iou_by_pixels(true, predicted, outside_true, outside_predicted, ratio):
    reach = max(1, round(ratio * np.sqrt(true.shape[0] ** 2 + true.shape[1] ** 2)))
    a = near_outside(true, outside_true, reach, square=True)
    b = near_outside(predicted, outside_predicted, reach, square=True)
    return (a & b).sum() / (a | b).sum() if (a | b).any() else np.nan


def f_score_by_pixels(true, predicted, outside_true, outside_predicted, tolerance):
    if tolerance is None:
        tolerance = 0.0075 * np.sqrt(true.shape[0] ** 2 + true.shape[1] ** 2)
    edges = (
        near_outside(true, outside_true, 1, False),
        near_outside(predicted, outside_predicted, 1, False),
    )
    if not edges[0].any() or not edges[1].any():
        return 0.0 if edges[0].any() or edges[1].any() else np.nan
    places = [np.argwhere(edge) for edge in edges]
    distances = np.sqrt(((places[0][:, None] - places[1][None]) ** 2).sum(-1))
    recall = (distances.min(1) <= tolerance).mean()
    precision = (distances.min(0) <= tolerance).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def by_pixels(score, labels, predictions, classes, *options):
    return np.array(
        [
            [score(*masks_of(true, predicted, c), *options) for c in range(classes)]
            for true, predicted in zip(labels, predictions, strict=True)
        ]
    )


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_boundary_iou_is_that_of_sets_of_pixels(ratio, ignored):
    """Distances of 1 and 3 pixels."""
    labels, predictions = cases(ignored)
    result = compiled(boundary_iou, dilation_ratio=ratio)(labels, predictions)
    expected = by_pixels(iou_by_pixels, labels, predictions, CLASSES, ratio)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    assert np.isnan(expected).any()
    assert np.isnan(expected).all(axis=1).any() == ignored


def test_boundary_iou_is_iou_where_the_boundary_is_the_mask():
    """At a distance that reaches beyond the image from everywhere."""
    labels, predictions = cases(ignored=True)

    def region(true, predicted, *_):
        either = (true | predicted).sum()
        return (true & predicted).sum() / either if either else np.nan

    result = compiled(boundary_iou, dilation_ratio=3.0)(labels, predictions)
    expected = by_pixels(region, labels, predictions, CLASSES)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_boundary_iou_erodes_again_and_again_as_the_authors_do(ratio):
    """By a square of side 3, once for each pixel of the distance, after a frame of zeros."""
    labels, predictions = cases()
    times = max(1, round(ratio * np.hypot(*SHAPE[1:])))

    def boundary(mask):
        square = np.ones((3, 3))
        eroded = ndimage.binary_erosion(np.pad(mask, 1), square, iterations=times)
        return mask & ~eroded[1:-1, 1:-1]

    def score(true, predicted, *_):
        a, b = boundary(true), boundary(predicted)
        return (a & b).sum() / (a | b).sum() if (a | b).any() else np.nan

    result = compiled(boundary_iou, dilation_ratio=ratio)(labels, predictions)
    expected = by_pixels(score, labels, predictions, CLASSES)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("tolerance", [None, 0, 1.5])
def test_boundary_f_score_is_that_of_sets_of_pixels(tolerance, ignored):
    labels, predictions = cases(ignored)
    result = compiled(boundary_f_score, tolerance=tolerance)(labels, predictions)
    expected = by_pixels(f_score_by_pixels, labels, predictions, CLASSES, tolerance)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    assert np.nanmin(expected) == 0
    assert np.isnan(expected).any()


@pytest.mark.parametrize("shape", [(1, 1, 9), (2, 11, 1), (1, 1, 1), (2, 2, 30)])
def test_narrow_images_have_boundaries_too(shape):
    labels, predictions = np.random.default_rng(1).integers(0, 2, (2, *shape))
    result = compiled(boundary_iou, num_classes=1)(labels, predictions)
    expected = by_pixels(iou_by_pixels, labels, predictions, 2, 0.02)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    result = compiled(boundary_f_score, num_classes=1, tolerance=1)(labels, predictions)
    expected = by_pixels(f_score_by_pixels, labels, predictions, 2, 1)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_the_tolerance_of_the_paper_is_0_0075_diagonals():
    """A tolerance of 3 pixels at 240x320; a square that moved by 3 or by 4."""
    labels = np.zeros((2, 240, 320), np.int32)
    labels[:, 100:150, 100:150] = 1
    predictions = np.stack([np.roll(labels[0], move, 1) for move in (3, 4)])
    scores = np.asarray(compiled(boundary_f_score, num_classes=2)(labels, predictions))
    assert scores[0].tolist() == [1, 1]
    assert 0.5 < scores[1, 1] < 0.8


def test_edges_are_what_scipys_erosion_takes_away():
    labels, predictions = cases()
    for number in range(CLASSES):
        masks = masks_of(labels, predictions, number)
        edges = class_edges(Masks(*map(jnp.asarray, masks)))
        for mask, edge in zip(masks[:2], edges.pixels, strict=True):
            expected = [each ^ ndimage.binary_erosion(each) for each in mask]
            np.testing.assert_array_equal(edge, expected)


@pytest.mark.parametrize("reach", [1, 2, 3, 4, 7, 12, 40])
@pytest.mark.sample(3)
def test_near_is_scipys_dilation_with_a_frame(reach):
    outside = np.random.default_rng(reach).random((2, 19, 25)) < 0.005
    for square in (True, False):
        ones = np.ones((2 * reach + 1, 2 * reach + 1), bool)
        kernel = ones if square else ones & (np.indices(ones.shape) == reach).any(0)
        expected = [ndimage.binary_dilation(each, kernel, border_value=1) for each in outside]
        np.testing.assert_array_equal(near(jnp.asarray(outside), reach, square=square), expected)


def test_ignored_pixels_make_no_edge():
    """An object half of which is ignored has its outline but no cut; one in ignored surroundings has no edge."""
    labels = np.zeros((2, 9, 9), np.int32)
    labels[:, 3:6, 3:6] = 1
    labels[0, :, 4:], labels[1][labels[1] == 0] = 255, 255
    true, predicted, *outside = masks_of(labels, labels, 1)
    edges = class_edges(Masks(*map(jnp.asarray, (true, predicted, *outside)))).pixels[0]
    assert np.argwhere(edges[0]).tolist() == [[3, 3], [4, 3], [5, 3]]
    assert not edges[1].any()
    scores = compiled(boundary_f_score, num_classes=2)(labels, labels)
    assert np.isnan(scores[1]).all()
    assert scores[0].tolist() == [1, 1]


@pytest.mark.parametrize("score", SCORES)
def test_predictions_at_ignored_pixels_do_not_matter(score):
    labels, predictions = cases(ignored=True)
    other = np.where(labels == 255, np.random.default_rng(2).integers(-3, 300, SHAPE), predictions)
    run = compiled(score)
    np.testing.assert_array_equal(run(labels, predictions), run(labels, other))
    assert np.isnan(run(labels, other)[6]).all()


@pytest.mark.parametrize("score", SCORES)
def test_ignore_index_is_a_label_like_any_other(score):
    labels, predictions = cases(ignored=True)
    expected = compiled(score)(labels, predictions)
    for other in (-1, 9):
        moved = np.where(labels == 255, other, labels)
        np.testing.assert_array_equal(
            compiled(score, ignore_index=other)(moved, predictions), expected
        )


@pytest.mark.parametrize("score", SCORES)
def test_any_integer_type_and_no_jit_change_nothing(score):
    labels, predictions = cases(ignored=True)
    labels[labels == 100], predictions[predictions == -1] = 100, 77
    expected = compiled(score)(labels, predictions)
    result = score(
        labels=labels.astype(np.uint8), predictions=predictions.astype(np.int16), num_classes=4
    )
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.slow
def test_divided_batches_have_the_same_scores(score):
    labels, predictions = (x[:6] for x in cases(ignored=True))
    expected = compiled(score)(labels, predictions)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    divided = PartitionSpec("data")
    run = compiled(score).__wrapped__
    sharding = NamedSharding(mesh, divided)
    by_jit = jax.jit(run, in_shardings=sharding, out_shardings=sharding)
    np.testing.assert_allclose(by_jit(labels, predictions), expected, rtol=1e-6)
    by_shard = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=divided, out_specs=divided))
    np.testing.assert_allclose(by_shard(labels, predictions), expected, rtol=1e-6)


def test_memory_does_not_grow_with_classes():
    shape = jax.ShapeDtypeStruct((2, 64, 64), jnp.int32)
    temporary = [
        compiled(boundary_f_score, num_classes=k)
        .lower(shape, shape)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for k in (2, 150)
    ]
    assert temporary[1] < temporary[0] + 4 * 64 * 64


@pytest.mark.parametrize("score", SCORES)
def test_bad_input_is_named(score):
    image = jnp.zeros((1, 2, 2), jnp.int32)
    with pytest.raises(InputError, match=r"\(1, 2, 2\) and predictions \(1, 2, 3\)"):
        score(labels=image, predictions=jnp.zeros((1, 2, 3), jnp.int32), num_classes=2)
    with pytest.raises(InputError, match=r"\(2, 2\) and predictions \(2, 2\) must both be \[N"):
        score(labels=image[0], predictions=image[0], num_classes=2)
    with pytest.raises(InputError, match="labels are class ids, integers, not float32"):
        score(labels=image.astype(jnp.float32), predictions=image, num_classes=2)
    with pytest.raises(InputError, match="num_classes is 0"):
        score(labels=image, predictions=image, num_classes=0)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_bad_distances_are_named(value):
    image = jnp.zeros((1, 2, 2), jnp.int32)
    with pytest.raises(InputError, match=f"dilation_ratio is {value}"):
        boundary_iou(labels=image, predictions=image, num_classes=2, dilation_ratio=value)
    if value != 0:
        with pytest.raises(InputError, match=f"tolerance is {value}"):
            boundary_f_score(labels=image, predictions=image, num_classes=2, tolerance=value)


@pytest.mark.parametrize("score", [*SCORES, hausdorff_distance, average_symmetric_surface_distance])
@pytest.mark.sample(2)
def test_several_ignored_labels_are_one_and_none_ignores_nothing(score):
    labels, predictions = cases(ignored=True)
    two = np.where((labels == 255) & (np.arange(SHAPE[2]) % 2 == 0), -1, labels)
    kwargs = {"predictions": predictions, "num_classes": CLASSES}
    expected = score(labels=labels, **kwargs)
    np.testing.assert_array_equal(score(labels=two, ignore_index=(-1, 255), **kwargs), expected)
    everything = score(labels=labels, ignore_index=None, **kwargs)
    np.testing.assert_array_equal(everything, score(labels=labels, ignore_index=77, **kwargs))
    assert not np.array_equal(everything, expected, equal_nan=True)
