import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.losses import (
    cross_entropy,
    dice_loss,
    jaccard_loss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from jaxseg.losses.targets import read_targets

WEIGHTS = {1: [0.5, 3.0], 2: [0.5, 3.0], 4: [1.0, 0.0, 2.0, 0.25]}
SCALARS = {"cross_entropy": cross_entropy, "dice": dice_loss, "jaccard": jaccard_loss}


@functools.cache
def compiled(name, ignore_index=255):
    """`(logits, labels, weights) -> (loss, gradient)`, compiled once for each shape and type."""

    def loss(logits, labels, weights):
        return SCALARS[name](logits, labels, ignore_index=ignore_index, class_weights=weights)

    return jax.jit(jax.value_and_grad(loss))


def negative_log_probabilities(logits):
    """`[..., max(K, 2)]` in float64, written out."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], -1)
    shifted = logits - logits.max(-1, keepdims=True)
    return np.log(np.exp(shifted).sum(-1, keepdims=True)) - shifted


def expected_loss(logits, labels, weights, smoothing, ignore_index=255):
    """Loss and weight of each pixel, one after the other."""
    nll = negative_log_probabilities(logits)
    classes = nll.shape[-1]
    weights = np.ones(classes) if weights is None else np.asarray(weights)
    loss, weight = np.zeros(labels.shape), np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        if labels[place] != ignore_index:
            weight[place] = weights[labels[place]]
            spread = sum(weights[c] * nll[place][c] for c in range(classes)) / classes
            own = weight[place] * nll[place][labels[place]]
            loss[place] = (1 - smoothing) * own + smoothing * spread
    return loss, weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_cross_entropy_is_what_the_formula_says(batch, num_classes, weighted, smoothing):
    logits, labels = batch(num_classes)
    weights = WEIGHTS[num_classes] if weighted else None
    options = {"class_weights": weights, "label_smoothing": smoothing}
    loss, weight = expected_loss(logits, labels, weights, smoothing)
    pixelwise = sigmoid_cross_entropy if num_classes == 1 else softmax_cross_entropy
    with jax.enable_x64(True):
        both = jax.jit(
            lambda z: (pixelwise(z, labels, **options), cross_entropy(z, labels, **options))
        )
        got, mean = both(jnp.asarray(logits))
    assert got.dtype == mean.dtype == jnp.float64
    np.testing.assert_allclose(got, loss, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mean, loss.sum() / weight.sum(), rtol=1e-12)


def test_numbers_of_torch():
    """torch 2.13, `F.cross_entropy(z, y, weight=w, ignore_index=255, label_smoothing=s)` on the arrays below."""
    logits = np.sin(np.arange(24.0)).reshape(1, 2, 4, 3)
    labels = np.array([[[0, 1, 2, 255], [2, 2, 0, 1]]])
    with jax.enable_x64(True):
        logits, weights = jnp.asarray(logits), jnp.array([1.0, 2.0, 0.5])
        plain = jax.jit(cross_entropy)(logits, labels)
        weighted = jax.jit(cross_entropy)(logits, labels, class_weights=weights)
        smoothed = jax.jit(functools.partial(cross_entropy, label_smoothing=0.1))
        smooth = smoothed(logits, labels, class_weights=weights)
    np.testing.assert_allclose(
        [plain, weighted, smooth],
        [1.4356553713471822, 1.48711409384478, 1.4753870889442209],
        rtol=1e-12,
    )


def test_a_sigmoid_is_a_softmax_with_one_logit_zero(batch):
    logits, labels = batch(1)
    options = {"class_weights": [0.3, 2.0], "label_smoothing": 0.2}

    @jax.jit
    def both(z):
        pair = jnp.concatenate([jnp.zeros_like(z), z], -1)
        return (
            sigmoid_cross_entropy(z, labels, **options),
            softmax_cross_entropy(pair, labels, **options),
        )

    chex.assert_trees_all_close(*both(jnp.float32(logits)), atol=1e-5)


def test_pos_weight_scales_the_positive_term_and_nothing_else(batch):
    logits, labels = batch(1)
    logits = jnp.float32(logits)
    plain = sigmoid_cross_entropy(logits, labels)
    heavy = sigmoid_cross_entropy(logits, labels, pos_weight=3.0)
    chex.assert_trees_all_close(heavy, jnp.where(labels == 1, 3 * plain, plain), rtol=1e-5)


@pytest.mark.parametrize("num_classes", [1, 4])
@pytest.mark.parametrize("name", SCALARS)
class TestIgnoredPixels:
    def test_have_no_influence_even_when_not_finite(self, batch, name, num_classes):
        logits, labels = batch(num_classes)
        ignored = (labels == 255)[..., None]
        weights = jnp.ones(max(num_classes, 2))
        loss, gradient = compiled(name)(jnp.float32(np.where(ignored, 0, logits)), labels, weights)
        assert np.isfinite(loss)
        assert np.abs(gradient).max() > 0
        assert not np.asarray(gradient)[labels == 255].any()
        for poison in (np.nan, np.inf, -np.inf, 3e38):
            poisoned = jnp.float32(np.where(ignored, poison, logits))
            chex.assert_trees_all_equal(compiled(name)(poisoned, labels, weights), (loss, gradient))

    def test_alone_give_zero_and_no_gradient(self, batch, name, num_classes):
        logits, labels = batch(num_classes)
        logits[0] = np.nan
        labels = np.full_like(labels, 255)
        weights = jnp.float32(WEIGHTS[num_classes])
        loss, gradient = compiled(name)(jnp.float32(logits), labels, weights)
        assert loss == 0
        assert not np.asarray(gradient).any()

    @pytest.mark.sample(2)
    def test_may_have_a_negative_label(self, batch, name, num_classes):
        weights = jnp.float32(WEIGHTS[num_classes])
        logits, labels = batch(num_classes)
        _, negative = batch(num_classes, -1)
        got = compiled(name, -1)(jnp.float32(logits), negative, weights)
        chex.assert_trees_all_equal(got, compiled(name)(jnp.float32(logits), labels, weights))

    def test_are_not_those_whose_label_is_no_class(self, batch, name, num_classes):
        weights = jnp.float32(WEIGHTS[num_classes])
        logits, labels = batch(num_classes)
        for wrong in (max(num_classes, 2), -1):
            labels[0, 0, 0] = wrong
            assert np.isnan(compiled(name)(jnp.float32(logits), labels, weights)[0])


@pytest.mark.parametrize("num_classes", [1, 4])
@pytest.mark.parametrize("name", SCALARS)
class TestEveryLoss:
    @pytest.mark.sample(2)
    def test_gradient_is_the_finite_difference(self, batch, name, num_classes):
        logits, labels = batch(num_classes)
        with jax.enable_x64(True):
            weights = jnp.asarray(WEIGHTS[num_classes], jnp.float64)
            _, gradient = compiled(name)(jnp.asarray(logits), labels, weights)
            along = np.random.default_rng(1).normal(size=logits.shape)
            ahead, behind = (
                compiled(name)(jnp.asarray(logits + step * along), labels, weights)[0]
                for step in (1e-6, -1e-6)
            )
            np.testing.assert_allclose((gradient * along).sum(), (ahead - behind) / 2e-6, rtol=1e-7)

    @pytest.mark.sample(2)
    def test_takes_half_precision_and_computes_in_float32(self, batch, name, num_classes):
        logits, labels = batch(num_classes)
        weights = jnp.float32(WEIGHTS[num_classes])
        half = jnp.asarray(logits, jnp.bfloat16)
        loss, gradient = compiled(name)(half, labels, weights)
        assert loss.dtype == jnp.float32
        assert gradient.dtype == jnp.bfloat16
        assert loss == compiled(name)(half.astype(jnp.float32), labels, weights)[0]


@pytest.mark.parametrize(
    ("ignore_index", "dtype"),
    [
        (255, np.uint8),
        (7, np.uint8),
        (0, np.uint8),
        (-1, np.int8),
        (-100, np.int16),
        (70000, np.int32),
    ],
)
def test_any_integer_is_ignored_in_any_type(ignore_index, dtype):
    labels = np.array([[[1, ignore_index, 2, ignore_index]]], dtype)
    targets = read_targets(jnp.ones((1, 1, 4, 3)), labels, ignore_index)
    assert targets.labels.tolist() == [[[1, 0, 2, 0]]]
    assert targets.valid.tolist() == [[[True, False, True, False]]]
    assert targets.in_range.tolist() == targets.valid.tolist()


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[[1e4, -1e4], [-1e4, 1e4]]]])
    loss, gradient = compiled("cross_entropy")(logits, jnp.array([[[1, 1]]]), jnp.ones(2))
    assert loss == 1e4
    chex.assert_tree_all_finite(gradient)


def test_a_class_of_weight_zero_counts_for_nothing(batch):
    logits, labels = batch()
    without = np.where(labels == 1, 255, labels)
    logits, weights = jnp.float32(logits), jnp.float32([1, 0, 1, 1])
    got, _ = compiled("cross_entropy")(logits, labels, weights)
    expected, _ = compiled("cross_entropy")(logits, without, jnp.ones(4))
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        ((1, 2, 2, 3), (1, 2, 3), {}, r"\(1, 2, 2, 3\) and labels \(1, 2, 3\)"),
        ((1, 2, 2, 3), (1, 2, 2, 1), {}, "do not match"),
        ((1, 2, 2, 3), (1, 2, 2, 2), {}, "do not match"),
        ((2, 2, 3), (2, 2), {}, r"\[N, H, W, K\]"),
        ((1, 2, 2, 3), (1, 2, 2), {"class_weights": [1, 2]}, r"\(2,\).*3 classes need \(3,\)"),
        ((1, 2, 2, 1), (1, 2, 2), {"class_weights": [1]}, r"need \(2,\)"),
        ((1, 2, 2, 2), (1, 2, 2), {"class_weights": [1, -1]}, "not negative"),
        ((1, 2, 2, 2), (1, 2, 2), {"class_weights": [1, np.inf]}, "finite"),
    ],
)
@pytest.mark.parametrize("name", SCALARS)
def test_bad_input_is_named(name, logits, labels, options, message):
    with pytest.raises(InputError, match=message):
        SCALARS[name](jnp.zeros(logits), jnp.zeros(labels, jnp.int32), **options)


def test_labels_and_logits_of_the_wrong_type_or_number_are_named():
    logits, labels = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2), jnp.int32)
    with pytest.raises(InputError, match=r"probabilities of classes.*class ids must be integers"):
        cross_entropy(logits, labels.astype(jnp.float32))
    with pytest.raises(InputError, match="floating, not int32"):
        cross_entropy(logits.astype(jnp.int32), labels)
    for multilabel in (labels, jnp.zeros((1, 2, 2, 1), jnp.int32)):
        with pytest.raises(InputError, match="sigmoid_cross_entropy"):
            softmax_cross_entropy(logits[..., :1], multilabel)
    with pytest.raises(InputError, match=r"one for each of 3 classes, not \(2,\)"):
        sigmoid_cross_entropy(logits, labels, pos_weight=jnp.ones(2))
    with pytest.raises(InputError, match="pos_weight applies to sigmoids"):
        cross_entropy(logits, labels, pos_weight=2.0)
    for function in (cross_entropy, softmax_cross_entropy, sigmoid_cross_entropy):
        with pytest.raises(InputError, match="label_smoothing is"):
            function(logits, labels, label_smoothing=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [1, 3])
def test_float32_sums_of_many_pixels_keep_their_digits(num_classes):
    """21 million pixels: adding ones one by one in float32 would stop at 2**24."""
    shape = (5, 2048, 2048)
    labels = np.zeros(shape, np.uint8)
    labels[:, :, 1024:] = 1
    logits = np.zeros((*shape, num_classes), np.float32)
    logits[..., 0] = 0.3
    for name, function in SCALARS.items():
        with jax.enable_x64(True):
            expected = function(jnp.asarray(logits[:1, :1], jnp.float64), labels[:1, :1])
        got = jax.jit(function)(logits, labels)
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=name)
