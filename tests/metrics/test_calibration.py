import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import losses, metrics
from jaxseg.errors import InputError
from jaxseg.metrics import Calibration

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
    each = [
        [x[y == c].mean() if (y == c).any() else np.nan for c in range(p.shape[-1])]
        for x in (brier, nll)
    ]
    return {
        "expected_calibration_error": error / len(y),
        "brier_score": brier.mean(),
        "negative_log_likelihood": nll.mean(),
        "brier_per_class": each[0],
        "nll_per_class": each[1],
    }


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_every_quantity_is_that_of_the_pixels(num_classes, bins):
    logits, labels = drawn(num_classes)
    sums = update()(Calibration.zero(num_classes, bins=bins), logits, labels)
    for name, expected in directly(logits, labels, bins).items():
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(sums), expected, rtol=0, atol=1e-6, err_msg=name)
        host = score(jax.device_get(sums))
        np.testing.assert_allclose(host, expected, rtol=0, atol=1e-6, err_msg=name)


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


def test_one_logit_and_two_classes_are_calibrated_alike():
    logits, labels = drawn(1)
    two = np.concatenate([np.zeros_like(logits), logits], -1)
    one, other = (update()(Calibration.zero(2), x, labels) for x in (logits, two))
    for name in directly(logits, labels, 15):
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(one), score(other), rtol=0, atol=2e-7, err_msg=name)


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
