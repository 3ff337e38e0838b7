"""float32 at 2048x2048 pixels, against float64: rounding must not grow with the image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

pytestmark = pytest.mark.slow
# Other tests compile quickly and compute little; millions of pixels are worth optimising for.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal_loss,
    "poly": losses.poly_loss,
    "ohem": losses.ohem_cross_entropy,
    "topk": losses.topk_cross_entropy,
    "dice": losses.dice_loss,
    "dice_per_image": functools.partial(losses.dice_loss, per_image=True),
    "generalized_dice": losses.generalized_dice_loss,
    "jaccard": losses.jaccard_loss,
    "focal_tversky": losses.focal_tversky_loss,
    "mcc": losses.mcc_loss,
    "lovasz_softmax": losses.lovasz_softmax_loss,
    "lovasz_hinge": losses.lovasz_hinge_loss,
    "soft_cldice": losses.soft_cldice_loss,
    "boundary": losses.boundary_loss,
    "hausdorff": losses.hausdorff_loss,
}


def large(num_classes):
    """Logits that lean towards their labels, which lie in tiles; a class of 0.1 %, some pixels ignored."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, num_classes, (1, 32, 32)), np.ones((1, 64, 64), np.int64))
    labels[labels == 1] = 0
    labels[:, :64, :66] = 1
    labels[:, :, 1000:1010] = 255
    logits = rng.standard_normal((1, 2048, 2048, num_classes), np.float32)
    for c in range(num_classes):
        logits[..., c] += 2 * (labels == c)
    return logits, labels.astype(np.int32)


@pytest.fixture(scope="module")
def three_classes():
    return large(3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.sample(0, 6)
def test_value_and_gradient_of_three_classes(three_classes, name):
    logits, labels = three_classes
    step = jit(jax.value_and_grad(LOSSES[name]))
    value, gradient = (np.asarray(x) for x in step(logits, labels))
    with jax.enable_x64(True):
        expected, slope = (np.asarray(x) for x in step(logits.astype(np.float64), labels))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    error = np.abs(gradient - slope) / (np.abs(slope) + np.abs(slope).mean())
    # Where errors tie in float32, rounding decides which of two gradients a pixel has, in Lovasz losses above all.
    assert np.quantile(error, 0.999) < 1e-4
    assert error.mean() < 1e-5


@pytest.fixture(scope="module")
def many_classes():
    return large(150)


@pytest.fixture(scope="module")
def exact(many_classes):
    """Sums in float64, 64 rows at a time: of -log p_y, and of p y, p and y for each class."""
    logits, labels = many_classes
    nll, sums = 0.0, np.zeros((3, logits.shape[-1]))
    for start in range(0, 2048, 64):
        y = labels[0, start : start + 64].ravel()
        z = logits[0, start : start + 64].reshape(len(y), -1)[y != 255].astype(np.float64)
        y = y[y != 255]
        z -= z.max(-1, keepdims=True)
        p = np.exp(z)
        total = p.sum(-1, keepdims=True)
        p /= total
        own = np.arange(len(y)), y
        nll += (np.log(total[:, 0]) - z[own]).sum()
        np.add.at(sums[0], y, p[own])
        sums[1] += p.sum(0)
        sums[2] += np.bincount(y, minlength=logits.shape[-1])
    return nll, sums


@pytest.mark.parametrize("name", ["cross_entropy", "jaccard", "generalized_dice", "dice"])
@pytest.mark.sample(0, 2)
def test_value_of_150_classes(many_classes, exact, name):
    logits, labels = many_classes
    nll, (overlap, predicted, true) = exact
    assert (true > 0).all()
    weights = 1 / true**2
    expected = {
        "cross_entropy": nll / true.sum(),
        "dice": np.mean(1 - 2 * overlap / (predicted + true)),
        "jaccard": np.mean(1 - overlap / (predicted + true - overlap)),
        "generalized_dice": 1
        - 2 * (weights * overlap).sum() / (weights * (predicted + true)).sum(),
    }
    np.testing.assert_allclose(jit(LOSSES[name])(logits, labels), expected[name], rtol=3e-6)


def test_gradient_of_150_classes(many_classes):
    """Of the cross-entropy it is (p - y) / n, at every pixel by itself."""
    logits, labels = many_classes
    gradient = jit(jax.grad(losses.cross_entropy))(logits, labels)
    rows = np.s_[0, 100:102]
    z = logits[rows].astype(np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    slope = (p - (labels[rows][..., None] == np.arange(150))) / (labels != 255).sum()
    slope[labels[rows] == 255] = 0
    np.testing.assert_allclose(np.asarray(gradient[rows]), slope, rtol=1e-5, atol=1e-14)
    assert jnp.isfinite(gradient).all()
