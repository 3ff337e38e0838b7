import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import dice_loss, jaccard_loss

WEIGHTS = {1: [0.5, 3.0], 4: [1.0, 2.0, 5.0, 0.25]}
LOSSES = {"dice": dice_loss, "jaccard": jaccard_loss}


def expected_loss(name, logits, labels, weights, smooth, per_image):
    """Class by class and image by image, over lists of the pixels that count."""
    if logits.shape[-1] == 1:
        probabilities = 1 / (1 + np.exp(-logits))
        classes, weights = [1], [1.0]
    else:
        exponents = np.exp(logits)
        probabilities = exponents / exponents.sum(-1, keepdims=True)
        classes = list(range(logits.shape[-1]))
        weights = [1.0] * len(classes) if weights is None else weights
    groups = [[n] for n in range(len(logits))] if per_image else [list(range(len(logits)))]
    losses, counted = [], []
    for group in groups:
        valid = labels[group] != 255
        for channel, (c, weight) in enumerate(zip(classes, weights, strict=True)):
            p = probabilities[group][valid][:, channel]
            y = labels[group][valid] == c
            if not y.any():
                continue
            overlap = p[y].sum()
            if name == "dice":
                score = (2 * overlap + smooth) / (p.sum() + y.sum() + smooth)
            else:
                score = (overlap + smooth) / (p.sum() + y.sum() - overlap + smooth)
            losses.append(1 - score)
            counted.append(weight)
    return np.average(losses, weights=counted)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("weighted", "smooth"), [(False, 0.0), (True, 0.7)])
@pytest.mark.parametrize("num_classes", [1, 4])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.sample(8)
def test_is_what_the_formula_says(batch, name, num_classes, weighted, smooth, per_image):
    logits, labels = batch(num_classes)
    weights = WEIGHTS[num_classes] if weighted else None
    loss = functools.partial(
        LOSSES[name], class_weights=weights, smooth=smooth, per_image=per_image
    )
    with jax.enable_x64(True):
        got = jax.jit(loss)(jnp.asarray(logits), labels)
    expected = expected_loss(name, logits, labels, weights, smooth, per_image)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_numbers_of_smp():
    """smp 0.6: DiceLoss, JaccardLoss, multiclass then binary, on these arrays, where every class is there."""
    logits = np.sin(np.arange(24.0)).reshape(1, 2, 4, 3)
    labels = np.array([[[0, 1, 2, 255], [2, 2, 0, 1]]])
    binary = np.where(labels == 2, 0, labels)
    with jax.enable_x64(True):
        got = [jax.jit(f)(jnp.asarray(logits), labels) for f in LOSSES.values()]
        got += [jax.jit(f)(jnp.asarray(logits[..., :1]), binary) for f in LOSSES.values()]
    np.testing.assert_allclose(
        got,
        [0.7318397773847488, 0.8391606761656103, 0.5524766001639432, 0.7117358163151715],
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_classes_without_truth_do_not_dilute_the_mean(name):
    """Wrong on every pixel, with 8 of 10 classes absent: 1, where dividing by K says 0.2."""
    labels = np.repeat([[[0, 1]]], 4, axis=1)
    logits = 50 * jax.nn.one_hot(1 - labels, 10)
    assert jax.jit(LOSSES[name])(logits, labels) == pytest.approx(1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_classes", [1, 4])
def test_lies_between_the_perfect_and_the_worst_prediction(batch, name, num_classes):
    _, labels = batch(num_classes)
    true = labels % 255
    sign = 2 * true[..., None] - 1 if num_classes == 1 else jax.nn.one_hot(true, num_classes)
    loss = jax.jit(LOSSES[name])
    assert loss(jnp.float32(50 * sign), labels) == pytest.approx(0, abs=1e-6)
    assert loss(jnp.float32(-50 * sign), labels) == pytest.approx(1, abs=1e-6)


def test_no_foreground_is_no_loss_for_one_sigmoid():
    """Dice says nothing of an image without foreground: cross-entropy must."""
    labels = jnp.zeros((1, 2, 2), jnp.uint8)
    value, gradient = jax.jit(jax.value_and_grad(lambda z: dice_loss(z, labels)))(
        jnp.ones((1, 2, 2, 1))
    )
    assert value == 0
    assert not np.asarray(gradient).any()
