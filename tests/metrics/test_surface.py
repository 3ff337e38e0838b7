import functools

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxseg.errors import InputError
from jaxseg.metrics.surface import (
    _quantile,
    average_symmetric_surface_distance,
    hausdorff_distance,
    normalized_surface_dice,
)

CLASSES = 4
SHAPE = (7, 17, 23)
OPTIONS = [
    (normalized_surface_dice, {"tolerance": 0}),
    (normalized_surface_dice, {"tolerance": 2**0.5}),
    (normalized_surface_dice, {"tolerance": (0.0, 1.0, 2.0, 5.0)}),
    (hausdorff_distance, {}),
    (hausdorff_distance, {"percentile": 95}),
    (hausdorff_distance, {"percentile": 33.3}),
    (hausdorff_distance, {"percentile": 0}),
    (average_symmetric_surface_distance, {}),
]
SPACED = [
    (normalized_surface_dice, {"tolerance": 1.5}),
    (hausdorff_distance, {"percentile": 95}),
    (average_symmetric_surface_distance, {}),
]


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


def edge(labels, numbers, number):
    """What an erosion by a cross takes away that sees ignored pixels as inside, and beyond the image as outside."""
    mask = (labels != 255) & (numbers == number)
    return mask & ~ndimage.binary_erosion(mask | (labels == 255))


def expected(score, labels, predictions, classes, spacing=(1.0, 1.0), **options):
    """MONAI's formulas, in float64: SciPy's erosion and distance transform, NumPy's percentile."""

    def of_class(true, predicted, number):
        edges = edge(true, true, number), edge(true, predicted, number)
        if not edges[0].any() or not edges[1].any():
            if not edges[0].any() and not edges[1].any():
                return np.nan
            return 0.0 if score is normalized_surface_dice else np.inf
        distances = [
            ndimage.distance_transform_edt(~other, sampling=spacing)[one]
            for one, other in (edges, edges[::-1])
        ]
        together = np.concatenate(distances)
        if score is normalized_surface_dice:
            tolerance = np.broadcast_to(options["tolerance"], classes)[number]
            return (together <= tolerance).mean()
        if score is hausdorff_distance:
            return max(np.percentile(each, options.get("percentile", 100)) for each in distances)
        return together.mean()

    return np.array(
        [
            [of_class(true, predicted, c) for c in range(classes)]
            for true, predicted in zip(labels, predictions, strict=True)
        ]
    )


@pytest.mark.parametrize(("score", "options"), OPTIONS)
@pytest.mark.sample(3)
def test_is_the_formula_of_monai(score, options):
    for ignored in (False, True):
        labels, predictions = cases(ignored)
        result = compiled(score, **options)(labels, predictions)
        oracle = expected(score, labels, predictions, CLASSES, **options)
        np.testing.assert_allclose(result, oracle, rtol=1e-6, atol=1e-6)
        assert np.isnan(oracle).any()
        assert (oracle == (0 if score is normalized_surface_dice else np.inf)).any()


@pytest.mark.parametrize("spacing", [(2.0, 1.0), (0.4, 0.7)])
@pytest.mark.parametrize(("score", "options"), SPACED)
@pytest.mark.sample(2)
def test_spacing_is_the_size_of_a_pixel(score, options, spacing):
    labels, predictions = cases(ignored=True)
    options = {**options, "spacing": spacing}
    result = compiled(score, **options)(labels, predictions)
    oracle = expected(score, labels, predictions, CLASSES, **options)
    np.testing.assert_allclose(result, oracle, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 1, 12), (2, 11, 1), (2, 1, 1)])
@pytest.mark.sample(1)
def test_narrow_images_have_edges_too(shape):
    labels, predictions = np.random.default_rng(1).integers(0, 2, (2, *shape))
    for score, options in SPACED:
        result = compiled(score, num_classes=1, **options)(labels, predictions)
        oracle = expected(score, labels, predictions, 2, **options)
        np.testing.assert_allclose(result, oracle, rtol=1e-6, atol=1e-6)


def test_a_mask_that_only_one_has_is_infinitely_far():
    labels = np.zeros((2, 5, 6), np.int32)
    labels[0, 2, 2] = 1
    predictions = np.zeros_like(labels)
    predictions[1, 2, 2] = 2
    for score, options in [OPTIONS[2], *OPTIONS[4::3]]:
        missing = 0 if score is normalized_surface_dice else np.inf
        scores = compiled(score, **options)(labels, predictions)
        np.testing.assert_array_equal(scores[:, 1], [missing, np.nan])
        np.testing.assert_array_equal(scores[:, 2], [np.nan, missing])
        np.testing.assert_array_equal(scores[:, 3], [np.nan, np.nan])


@pytest.mark.parametrize(("score", "options"), SPACED)
def test_predictions_at_ignored_pixels_do_not_matter(score, options):
    labels, predictions = cases(ignored=True)
    other = np.where(labels == 255, np.random.default_rng(2).integers(-3, 300, SHAPE), predictions)
    run = compiled(score, **options)
    np.testing.assert_array_equal(run(labels, predictions), run(labels, other))
    assert np.isnan(run(labels, other)[6]).all()


@pytest.mark.parametrize(("score", "options"), SPACED)
def test_truth_and_prediction_may_be_exchanged(score, options):
    labels, predictions = cases()
    run = compiled(score, **options)
    np.testing.assert_allclose(run(labels, predictions), run(predictions, labels), rtol=1e-6)


@pytest.mark.parametrize(("score", "options"), SPACED)
@pytest.mark.sample(1)
def test_no_jit_and_x64_change_nothing(score, options):
    labels, predictions = cases(ignored=True)
    labels, predictions = labels[3:5], predictions[3:5]
    oracle = expected(score, labels, predictions, CLASSES, **options)
    for dtype, rtol in ((jnp.float32, 1e-6), (jnp.float64, 1e-13)):
        with jax.enable_x64(dtype == jnp.float64):
            result = score(labels=labels, predictions=predictions, num_classes=CLASSES, **options)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, oracle, rtol=rtol)


def test_a_distance_of_just_the_tolerance_is_within_it():
    """3 x 0.1 is 0.30000000000000004 in float64; a user who says 0.3 means three pixels."""
    labels = np.zeros((1, 3, 9), np.int32)
    labels[0, 1, 1] = 1
    predictions = np.roll(labels, 3, 2)
    for tolerance, share in ((0.3, 1), (0.2999, 0)):
        score = compiled(normalized_surface_dice, tolerance=tolerance, spacing=(0.1, 0.1))
        assert score(labels, predictions)[0, 1] == share


def test_many_distances_are_summed_to_float32s_digits():
    labels, predictions = np.random.default_rng(3).integers(0, 2, (2, 1, 512, 512))
    labels[..., 200:] = 0
    run = compiled(average_symmetric_surface_distance, num_classes=2)
    oracle = expected(average_symmetric_surface_distance, labels, predictions, 2)
    np.testing.assert_allclose(run(labels, predictions), oracle, rtol=1e-6)


quantile = jax.jit(_quantile, static_argnames="percentile")


@settings(max_examples=100)
@given(
    values=arrays.arrays(np.float32, (2, 4, 6), elements=st.floats(0, 2.0**100, width=32)),
    among=arrays.arrays(bool, (2, 4, 6)),
    percentile=st.sampled_from([0, 5, 50, 95, 99.9, 100]),
)
def test_quantiles_are_numpys(values, among, percentile):
    result = quantile(values, among, percentile)
    for got, each, here in zip(result, values, among, strict=True):
        if here.any():
            oracle = np.percentile(each[here].astype(np.float64), percentile)
            np.testing.assert_allclose(got, oracle, rtol=1e-6)


@pytest.mark.parametrize("percentile", [95, 99.9, 97.31, 100 / 3])
def test_ranks_are_exact_among_a_million(percentile):
    """0.95 (n - 1) in float32 is off by a sixteenth of a rank here."""
    size = 1_000_003
    values = np.random.default_rng(4).permutation(size).astype(np.float32) ** 2 / 1000
    result = quantile(values.reshape(1, size), np.ones((1, size), bool), percentile)
    oracle = np.percentile(values.astype(np.float64), percentile)
    np.testing.assert_allclose(result, oracle, rtol=1.5e-7)


def test_memory_does_not_grow_with_classes():
    shape = jax.ShapeDtypeStruct((2, 64, 64), jnp.int32)
    temporary = [
        compiled(hausdorff_distance, num_classes=k, percentile=95)
        .lower(shape, shape)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for k in (2, 150)
    ]
    assert temporary[1] < temporary[0] + 4 * 64 * 64


def test_bad_input_is_named():
    image = jnp.zeros((1, 2, 2), jnp.int32)
    given = {"labels": image, "predictions": image, "num_classes": 3}
    for tolerance in (-1, np.inf, np.nan, (1, 2), (1, 2, -1)):
        with pytest.raises(InputError, match=r"tolerance is .* one or 3 finite numbers"):
            normalized_surface_dice(**given, tolerance=tolerance)
    for percentile in (-1, 101, np.nan):
        with pytest.raises(InputError, match=f"percentile is {percentile}"):
            hausdorff_distance(**given, percentile=percentile)
    for score, options in SPACED:
        with pytest.raises(InputError, match="spacing is"):
            score(**given, **options, spacing=(0.0, 1.0))
        with pytest.raises(InputError, match="predictions are class ids"):
            score(**{**given, "predictions": image.astype(jnp.float32)}, **options)
        with pytest.raises(InputError, match="num_classes is 0"):
            score(**{**given, "num_classes": 0}, **options)
