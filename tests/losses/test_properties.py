"""What holds for every loss and every batch: drawn by hypothesis, with few shapes so that little is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import losses

SHAPE, K, IGNORED = (4, 4, 3), 3, 255
LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "smoothed": functools.partial(losses.cross_entropy, label_smoothing=0.1),
    "focal": losses.focal_loss,
    "poly": losses.poly_loss,
    "ohem": functools.partial(losses.ohem_cross_entropy, min_kept=3),
    "topk": functools.partial(losses.topk_cross_entropy, fraction=0.4),
    "dice": losses.dice_loss,
    "dice_per_image": functools.partial(losses.dice_loss, per_image=True),
    "generalized_dice": losses.generalized_dice_loss,
    "jaccard": losses.jaccard_loss,
    "tversky": losses.tversky_loss,
    "focal_tversky": losses.focal_tversky_loss,
    "log_cosh_dice": losses.log_cosh_dice_loss,
    "mcc": losses.mcc_loss,
    "lovasz_softmax": losses.lovasz_softmax_loss,
    "lovasz_hinge": losses.lovasz_hinge_loss,
    "soft_cldice": losses.soft_cldice_loss,
    "boundary": losses.boundary_loss,
    "hausdorff": losses.hausdorff_loss,
}
BATCH_WISE = {
    "ohem_of_the_batch": functools.partial(losses.ohem_cross_entropy, min_kept=7, per_image=False),
    "topk_of_the_batch": functools.partial(losses.topk_cross_entropy, per_image=False),
}
SPATIAL = {"soft_cldice", "boundary", "hausdorff"}  # what lies where matters to them
MODES = {"binary": (1, 2), "multiclass": (K, K), "multilabel": (K, 2)}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_mode = pytest.mark.parametrize(
    "mode", ["binary", "multiclass", pytest.param("multilabel", marks=pytest.mark.slow)]
)
few = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 0.1, 3.0, 20.0])


def drawn(mode, seed, scale, ignored=0.3):
    """Logits and labels, some of them ignored and the last image wholly; one class may be absent."""
    rng = np.random.default_rng(seed)
    channels, classes = MODES[mode]
    logits = rng.uniform(-1, 1, (*SHAPE, channels)) * scale
    shares = rng.dirichlet(np.full(classes, 0.5))
    labels = rng.choice(classes, (*SHAPE, K) if mode == "multilabel" else SHAPE, p=shares)
    labels[rng.random(labels.shape) < ignored] = IGNORED
    labels[-1] = IGNORED
    return logits.astype(np.float32), labels.astype(np.int32)


def ignored_logits(labels, channels):
    ignored = labels == IGNORED
    return ignored if ignored.ndim == 4 else np.broadcast_to(ignored[..., None], (*SHAPE, channels))


@functools.cache
def compiled(name, parts=1):
    """Value and gradient of the logits, with the batch on as many devices as there are parts (by vmap)."""

    def run(logits, labels):
        split = [x.reshape(parts, x.shape[0] // parts, *x.shape[1:]) for x in (logits, labels)]
        step = jax.vmap(jax.value_and_grad((LOSSES | BATCH_WISE)[name]), axis_name="data")
        values, gradients = step(*split)
        return values, gradients.reshape(logits.shape) / parts

    return jax.jit(run)


@every_mode
@every_loss
@few
@given(seed=seeds, scale=scales, noise=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1.0]))
@pytest.mark.sample(9)
def test_ignored_pixels_have_no_influence(name, mode, seed, scale, noise):
    logits, labels = drawn(mode, seed, scale)
    ignored = ignored_logits(labels, logits.shape[-1])
    plain = compiled(name)(logits, labels)
    noisy = compiled(name)(np.where(ignored, np.float32(noise), logits), labels)
    for got, expected in zip(noisy, plain, strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(got, expected)
    assert not np.asarray(plain[1])[ignored].any()


@every_mode
@every_loss
@pytest.mark.sample(6)
def test_nothing_but_ignored_pixels_is_no_loss_and_no_gradient(name, mode):
    logits, labels = drawn(mode, 0, 1.0, ignored=1.0)
    logits = np.random.default_rng(0).choice([1.0, np.nan, np.inf, -np.inf], logits.shape)
    value, gradient = compiled(name)(logits.astype(np.float32), labels)
    assert not np.asarray(value).any()
    assert not np.asarray(gradient).any()


@every_mode
@every_loss
@few
@given(seed=seeds, saturated=st.booleans())
@pytest.mark.sample(7)
def test_extreme_logits_give_finite_numbers(name, mode, seed, saturated):
    logits, labels = drawn(mode, seed, 1e4)
    logits = np.sign(logits) * 1e4 if saturated else logits
    for value in compiled(name)(logits.astype(np.float32), labels):
        assert np.isfinite(value).all()


@pytest.mark.slow
@every_mode
@every_loss
@few
@given(seed=seeds, scale=st.sampled_from([1.0, 1e4]))
def test_bfloat16_gives_the_value_of_float32_and_stays_finite(name, mode, seed, scale):
    logits, labels = drawn(mode, seed, scale)
    half = jnp.asarray(logits, jnp.bfloat16)
    value, gradient = compiled(name)(half, labels)
    expected, _ = compiled(name)(half.astype(jnp.float32), labels)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


@every_mode
@every_loss
@few
@given(seed=seeds, scale=scales)
def test_the_order_of_pixels_and_images_does_not_matter(name, mode, seed, scale):
    logits, labels = drawn(mode, seed, scale)
    rng = np.random.default_rng(seed)
    images, order = rng.permutation(SHAPE[0]), rng.permutation(np.prod(SHAPE[1:]))

    def moved(x):
        if name in SPATIAL:
            return x[images, ::-1, ::-1]
        flat = x.reshape(SHAPE[0], -1, *x.shape[3:])[images]
        return flat[:, order].reshape(x.shape)

    here, there = (
        compiled(name)(*pair) for pair in ((logits, labels), (moved(logits), moved(labels)))
    )
    np.testing.assert_allclose(here[0], there[0], rtol=1e-5, atol=1e-6)
    if scale:  # where logits tie, a gradient is one of many
        np.testing.assert_allclose(moved(np.asarray(here[1])), there[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
@every_loss
@few
@given(seed=seeds, scale=scales)
@pytest.mark.sample(9)
def test_the_order_of_classes_does_not_matter(name, mode, seed, scale):
    logits, labels = drawn(mode, seed, scale)
    order = np.random.default_rng(seed).permutation(K)
    if mode == "multilabel":
        moved = labels[..., order]
    else:
        moved = np.where(labels == IGNORED, IGNORED, np.argsort(order)[labels % K])
    here, there = (
        compiled(name)(*pair) for pair in ((logits, labels), (logits[..., order], moved))
    )
    np.testing.assert_allclose(here[0], there[0], rtol=1e-5, atol=1e-6)
    if scale:
        expected = np.asarray(here[1])[..., order]
        np.testing.assert_allclose(expected, there[1], rtol=1e-4, atol=1e-6)


@every_mode
@pytest.mark.parametrize("name", LOSSES | BATCH_WISE)
@few
@given(seed=seeds, scale=scales)
@pytest.mark.sample(9)
def test_cutting_the_batch_over_devices_changes_nothing(name, mode, seed, scale):
    logits, labels = drawn(mode, seed, scale)
    value, gradient = compiled(name)(logits, labels)
    values, gradients = compiled(name, 4)(logits, labels)
    np.testing.assert_allclose(values, np.broadcast_to(value, 4), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients, gradient, rtol=1e-4, atol=1e-6)


@every_mode
@every_loss
@pytest.mark.sample(6)
def test_gradient_is_the_finite_difference(name, mode):
    """Along one direction, in float64, far from ties."""
    logits, labels = drawn(mode, 1, 3.0)
    logits = logits.astype(np.float64)
    along = np.random.default_rng(1).normal(size=logits.shape)
    with jax.enable_x64(True):
        _, gradient = compiled(name)(logits, labels)
        ahead, behind = (
            np.asarray(compiled(name)(logits + step * along, labels)[0]) for step in (1e-6, -1e-6)
        )
    slope = (np.asarray(gradient) * along).sum()
    np.testing.assert_allclose(slope, (ahead - behind).item() / 2e-6, rtol=1e-6, atol=1e-9)


@every_mode
@every_loss
def test_a_label_that_is_none_makes_the_loss_no_number(name, mode):
    logits, labels = drawn(mode, 0, 1.0, ignored=0.0)
    for wrong in (MODES[mode][1], -1):
        labels[0, 1, 1] = wrong
        assert np.isnan(compiled(name)(logits, labels)[0]).all()


@few
@given(seed=seeds, scale=scales)
def test_a_gradient_moves_no_probability_in_or_out(seed, scale):
    """A softmax does not change when all logits of a pixel move together."""
    _, gradient = compiled("cross_entropy")(*drawn("multiclass", seed, scale))
    np.testing.assert_allclose(np.asarray(gradient).sum(-1), 0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.sample(4)
def test_several_ignored_labels_are_one_and_none_ignores_nothing(name):
    logits, labels = drawn("multiclass", 3, 1.0)
    two = np.where((labels == IGNORED) & (np.arange(3) > 0), -1, labels)
    expected = float(LOSSES[name](logits, labels))
    assert float(LOSSES[name](logits, two, ignore_index=(-1, IGNORED))) == expected
    clean = np.where(labels == IGNORED, 0, labels)
    everything = float(LOSSES[name](logits, clean, ignore_index=None))
    assert everything == float(LOSSES[name](logits, clean)) != expected


HARD = {"focal", "ohem", "poly", "topk", "lovasz_softmax", "lovasz_hinge"}  # need class ids
SOFT = [name for name in LOSSES if name not in HARD]


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.sample(4)
def test_rounding_of_soft_labels_is_no_mistake_and_more_is(name):
    """0.1 added ten times in float32 is 1.0000001."""
    logits, labels = drawn("multiclass", 3, 1.0, ignored=0.0)
    exact = jax.nn.one_hot(np.where(labels == IGNORED, 0, labels), K)
    tenth = np.float32(exact) * np.float32(0.1)
    summed = functools.reduce(np.add, [tenth] * 10)
    assert summed.max() > 1
    loss = LOSSES[name]
    np.testing.assert_allclose(
        loss(logits, summed - np.float32(1e-7)), loss(logits, exact), rtol=1e-5
    )
    np.testing.assert_allclose(loss(logits, summed), loss(logits, exact), rtol=1e-5)
    assert np.isnan(loss(logits, summed * np.float32(1.07)))
