import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import losses, metrics
from jaxseg.errors import InputError
from jaxseg.metrics import Calibration, exact_integers, probability_sums
from jaxseg.metrics.histogram import bin_of

SHAPE = (2, 9, 7)


@functools.cache
def update():
    return jax.jit(lambda sums, logits, labels: sums.update(logits=logits, labels=labels))


def drawn(num_classes, seed=0, scale=3.0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (*shape, num_classes)).astype(np.float32)
    labels = rng.integers(0, max(num_classes, 2), shape)
    labels[rng.random(shape) < 0.2] = 255
    return logits, labels.astype(np.uint8)


def directly(logits, labels, bins):
    """Every quantity in float64, pixel by pixel."""
    valid = labels != 255
    z, y = logits[valid].astype(np.float64), labels[valid]
    if z.shape[-1] == 1:
        z = np.concatenate([np.zeros_like(z), z], -1)
    log_p = z - np.logaddexp.reduce(z, -1, keepdims=True)
    p, rows = np.exp(log_p), np.arange(len(y))
    confidence, right = p.max(-1), p.argmax(-1) == y
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = place == b
        error += abs(right[inside].sum() - confidence[inside].sum())
    brier = ((p - np.eye(p.shape[-1])[y]) ** 2).sum(-1)
    nll = -log_p[rows, y]
    per_class = []
    for c in range(p.shape[-1]):
        of_class, is_class = p[:, c], y == c
        place = np.minimum((of_class * bins).astype(int), bins - 1)
        gaps = [(is_class[place == b] - of_class[place == b]).sum() for b in range(bins)]
        per_class.append(np.abs(gaps).sum() / len(y) if is_class.any() else np.nan)
    each = [
        [x[y == c].mean() if (y == c).any() else np.nan for c in range(p.shape[-1])]
        for x in (brier, nll)
    ]
    return {
        "expected_calibration_error": error / len(y),
        "ece_per_class": per_class,
        "brier_score": brier.mean(),
        "negative_log_likelihood": nll.mean(),
        "brier_per_class": each[0],
        "nll_per_class": each[1],
    }


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("num_classes", [1, 2, 5])
@pytest.mark.sample(1)
def test_every_quantity_is_that_of_the_pixels(num_classes, bins):
    logits, labels = drawn(num_classes)
    sums = update()(Calibration.zero(num_classes, bins=bins), logits, labels)
    for name, expected in directly(logits, labels, bins).items():
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(sums), expected, rtol=0, atol=1e-6, err_msg=name)
        host = score(jax.device_get(sums))
        np.testing.assert_allclose(host, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_class_without_truth_has_no_calibration_error():
    """However sure the network is of it; the other classes' errors are over all pixels, its own included."""
    logits, labels = drawn(4)
    labels[labels == 2] = 0
    logits[..., 2] += 2
    sums = update()(Calibration.zero(4), logits, labels)
    found = np.asarray(metrics.ece_per_class(sums))
    assert np.isnan(found).tolist() == [False, False, True, False]
    np.testing.assert_allclose(found, directly(logits, labels, 15)["ece_per_class"], atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_pixel_is_as_wrong_as_its_probability_is_far_from_its_truth(label):
    labels = np.full((1, 1, 1), label, np.uint8)
    sums = update()(Calibration.zero(2), np.log([[[[0.9, 0.1]]]]).astype(np.float32), labels)
    expected = [0.1, np.nan] if label == 0 else [np.nan, 0.9]
    np.testing.assert_allclose(metrics.ece_per_class(sums), expected, atol=1e-6)


@pytest.mark.slow
def test_gaps_of_opposite_sign_in_one_bin_cancel_and_in_two_do_not():
    probabilities = np.array([0.55, 0.65, 0.55, 0.65]).reshape(1, 1, 4)
    logits = np.log(np.stack([1 - probabilities, probabilities], -1)).astype(np.float32)
    labels = np.array([1, 0, 1, 1], np.uint8).reshape(1, 1, 4)
    for bins, expected in ((1, 0.15), (10, (0.9 + 0.3) / 4)):
        sums = update()(Calibration.zero(2, bins=bins), logits, labels)
        np.testing.assert_allclose(metrics.ece_per_class(sums)[1], expected, atol=1e-6)


@pytest.mark.slow
def test_the_bins_of_a_class_hold_every_pixel_once():
    logits, labels = drawn(5)
    sums = update()(Calibration.zero(5), logits, labels)
    np.testing.assert_array_equal(exact_integers.total(sums.class_truth, -1), sums.pixels)
    total = exact_integers.to_float(
        exact_integers.total(exact_integers.total(sums.class_probability, -1), -1)
    )
    assert float(total) / 2**24 == pytest.approx((labels != 255).sum(), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 7), (3, 16, 8), (2, 130, 101), (0, 4, 4)])
@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.sample(3)
def test_every_way_to_sum_probabilities_gives_the_same_whole_numbers(num_classes, shape):
    """Chunk by chunk, image by image and as masks; many blocks are full of probabilities of 1."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.05] * num_classes, shape).astype(np.float32)
    valid = rng.random(shape) < 0.8
    if shape[0] > 1:
        p[1], valid[1] = np.eye(num_classes)[0], True
    p[~valid] = np.nan
    place = np.asarray(bin_of(jnp.asarray(p), 15))
    multiples = np.round(np.where(np.isnan(p), 0, p) * 2.0**24).astype(np.int64)
    expected = np.zeros((num_classes, 15), np.int64)
    for c in range(num_classes):
        np.add.at(expected[c], place[..., c][valid], multiples[..., c][valid])
    images = probability_sums.sums_by_image
    ways = (
        probability_sums.sums_in_chunks,
        functools.partial(images, tables=probability_sums.added),
        functools.partial(images, tables=probability_sums.masked),
    )
    for way in ways:
        found = jax.jit(functools.partial(way, bins=15))(p, valid)
        np.testing.assert_array_equal(exact_integers.to_numpy(found), expected)
    found = jax.jit(probability_sums.sums_by_bin, static_argnums=2)(p, valid, 15)
    np.testing.assert_array_equal(exact_integers.to_numpy(found), expected)


def test_the_reliability_diagram():
    logits, labels = drawn(4)
    sums = update()(Calibration.zero(4, bins=5), logits, labels)
    diagram = metrics.reliability(sums)
    valid = labels != 255
    p = np.asarray(jax.nn.softmax(logits), np.float64)[valid]
    right = p.argmax(-1) == labels[valid]
    assert diagram.edges.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert np.isnan(diagram.confidence[0])  # of 4 classes one has a quarter at least
    assert np.isnan(diagram.accuracy[0])
    assert float(diagram.pixels[0]) == 0
    for b in range(1, 5):
        inside = (p.max(-1) >= b / 5) & (p.max(-1) < (b + 1) / 5)
        assert float(diagram.pixels[b]) == inside.sum()
        assert float(diagram.confidence[b]) == pytest.approx(p.max(-1)[inside].mean(), abs=1e-6)
        assert float(diagram.accuracy[b]) == pytest.approx(right[inside].mean(), abs=1e-6)


@pytest.mark.slow
def test_one_logit_and_two_classes_are_calibrated_alike():
    logits, labels = drawn(1)
    two = np.concatenate([np.zeros_like(logits), logits], -1)
    one, other = (update()(Calibration.zero(2), x, labels) for x in (logits, two))
    for name in directly(logits, labels, 15):
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(one), score(other), rtol=0, atol=2e-7, err_msg=name)


@pytest.mark.slow
def test_the_likelihood_is_the_cross_entropy():
    logits, labels = drawn(3)
    sums = update()(Calibration.zero(3), logits, labels)
    loss = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(metrics.negative_log_likelihood(sums), loss, atol=1e-6)


def test_sums_do_not_depend_on_the_order_of_pixels_to_the_last_digit():
    logits, labels = drawn(3)
    order = np.random.default_rng(1).permutation(labels.size)
    mixed = logits.reshape(-1, 3)[order].reshape(logits.shape)
    found = update()(Calibration.zero(3), mixed, labels.reshape(-1)[order].reshape(SHAPE))
    expected = update()(Calibration.zero(3), logits, labels)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_billion_pixels_lose_no_digits():
    """Doubling 30 times: 1e11 pixels have the scores of the first 126."""
    sums = update()(Calibration.zero(3), *drawn(3))
    add = jax.jit(Calibration.__add__)
    many = sums
    for _ in range(30):
        many = add(many, many)
    assert float(metrics.reliability(many).pixels.sum()) > 1e11
    for name in directly(*drawn(3), 15):
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(many), score(sums), rtol=0, atol=2e-7, err_msg=name)


@pytest.mark.slow
def test_many_pixels_of_one_batch_lose_no_digits():
    """A float32 sum of 300,000 values of 0.1 is off in the third digit where it is taken one by one."""
    logits = jnp.zeros((1, 600, 500, 1)) + 2.0
    labels = jnp.ones((1, 600, 500), jnp.uint8)
    sums = update()(Calibration.zero(1), logits, labels)
    expected = np.log1p(np.exp(-2.0))
    assert float(metrics.negative_log_likelihood(sums)) == pytest.approx(expected, abs=1e-7)


@settings(max_examples=40)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6),
    st.lists(st.integers(0, 2), min_size=2, max_size=2),
)
@pytest.mark.slow
def test_large_logits_and_one_or_two_pixels(values, labels):
    logits = np.array(values, np.float32).reshape(1, 1, 2, 3)
    sums = update()(Calibration.zero(3), logits, np.array(labels, np.uint8).reshape(1, 1, 2))
    expected = directly(logits, np.array(labels).reshape(1, 1, 2), 15)
    nll = expected["negative_log_likelihood"]
    found = metrics.negative_log_likelihood(sums)
    np.testing.assert_allclose(found, nll, rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(metrics.brier_score(sums), expected["brier_score"], atol=1e-6)


def test_what_never_happens_is_infinitely_unlikely():
    logits = jnp.array([[[[0.0, -jnp.inf, -jnp.inf], [0.0, 0.0, 0.0]]]])
    sums = update()(Calibration.zero(3), logits, jnp.array([[[1, 2]]], jnp.uint8))
    np.testing.assert_allclose(metrics.nll_per_class(sums), [np.nan, np.inf, np.log(3)], rtol=1e-6)
    assert np.isinf(metrics.negative_log_likelihood(sums))
    assert float(metrics.brier_score(sums)) == pytest.approx((2 + 2 / 3) / 2)


def test_a_likelihood_beyond_the_range_is_infinite_not_wrong():
    for value, expected in ((65_000.0, 65_000.0), (66_000.0, np.inf)):
        logits = jnp.full((1, 1, 1, 1), value)
        sums = update()(Calibration.zero(1), logits, jnp.zeros((1, 1, 1), jnp.uint8))
        assert float(metrics.negative_log_likelihood(sums)) == expected


def test_logits_that_are_no_numbers_are_not_hidden():
    logits, labels = drawn(3)
    logits[1, 2, 3], labels[1, 2, 3] = np.nan, 1
    sums = update()(Calibration.zero(3), logits, labels)
    for name in directly(*drawn(3), 15):
        assert np.isnan(getattr(metrics, name)(sums)).all()


def test_short_floats_are_widened():
    logits, labels = drawn(3)
    logits = jnp.asarray(logits).astype(jnp.bfloat16)
    short = update()(Calibration.zero(3), logits, labels)
    full = update()(Calibration.zero(3), logits.astype(jnp.float32), labels)
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(full), strict=True):
        np.testing.assert_array_equal(a, b)
    expected = directly(np.asarray(logits.astype(jnp.float32)), labels, 15)["ece_per_class"]
    np.testing.assert_allclose(metrics.ece_per_class(short), expected, rtol=0, atol=1e-6)


def test_without_pixels_there_is_no_score():
    logits, labels = drawn(3)
    ignored = update()(Calibration.zero(3), logits, np.full_like(labels, 255))
    for sums in (Calibration.zero(3), ignored, jax.device_get(ignored)):
        for name in directly(*drawn(3), 15):
            assert np.isnan(getattr(metrics, name)(sums)).all()


def test_bad_input_is_named():
    sums = Calibration.zero(3)
    labels = jnp.zeros((1, 2, 2), jnp.int32)
    for classes, bins in ((0, 15), (2, 0)):
        with pytest.raises(InputError, match=f"{classes} classes and {bins} bins"):
            Calibration.zero(classes, bins=bins)
    with pytest.raises(InputError, match="K the 3 classes"):
        sums.update(logits=jnp.zeros((1, 2, 2, 4)), labels=labels)
    with pytest.raises(InputError, match="do not fit"):
        sums.update(logits=jnp.zeros((1, 2, 2, 3)), labels=labels[:, 1:])
    with pytest.raises(InputError, match="do not fit"):
        sums.update(logits=jnp.zeros((1, 2, 2, 3), jnp.int32), labels=labels)
    with pytest.raises(InputError, match=r"\(15, 3\) cannot be added to \(10, 3\)"):
        sums + Calibration.zero(3, bins=10)
