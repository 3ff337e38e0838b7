"""What holds for every batch: drawn by hypothesis, with few shapes so that little is compiled."""

import functools

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.losses import cross_entropy, dice_loss, jaccard_loss

SHAPE, K = (4, 3, 2), 3
LOSSES = {
    "cross_entropy": cross_entropy,
    "dice": dice_loss,
    "jaccard": jaccard_loss,
    "dice_per_image": functools.partial(dice_loss, per_image=True),
}
batches = st.tuples(
    arrays.arrays(np.float32, (*SHAPE, K), elements=st.floats(-20, 20, width=32)),
    arrays.arrays(np.int32, SHAPE, elements=st.sampled_from([0, 1, 2, 255])),
)
quick = settings(max_examples=40, deadline=None, derandomize=True)


@functools.cache
def compiled(name, parts=1):
    """Value and gradient of the logits, with the batch on as many devices as there are parts (by vmap)."""

    def run(logits, labels):
        split = [x.reshape(parts, x.shape[0] // parts, *x.shape[1:]) for x in (logits, labels)]
        step = jax.vmap(jax.value_and_grad(LOSSES[name]), axis_name="data")
        values, gradients = step(*split)
        return values, gradients.reshape(logits.shape) / parts

    return jax.jit(run)


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(batch=batches, data=st.data())
def test_ignored_pixels_have_no_influence(name, batch, data):
    logits, labels = batch
    noise = data.draw(arrays.arrays(np.float32, logits.shape, elements=st.floats(width=32)))
    other = np.where((labels == 255)[..., None], noise, logits)
    for got, expected in zip(
        compiled(name)(other, labels), compiled(name)(logits, labels), strict=True
    ):
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(batch=batches, seed=st.integers(0, 99))
def test_the_order_of_pixels_does_not_matter(name, batch, seed):
    logits, labels = batch
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.prod(SHAPE[1:]))
    images = rng.permutation(SHAPE[0])
    logits_moved = logits.reshape(SHAPE[0], -1, K)[images][:, order].reshape(logits.shape)
    labels_moved = labels.reshape(SHAPE[0], -1)[images][:, order].reshape(SHAPE)
    values = [compiled(name)(logits, labels)[0], compiled(name)(logits_moved, labels_moved)[0]]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", LOSSES)
@quick
@given(batch=batches)
def test_cutting_the_batch_over_devices_changes_nothing(name, parts, batch):
    value, gradient = compiled(name)(*batch)
    values, gradients = compiled(name, parts)(*batch)
    np.testing.assert_allclose(values, np.broadcast_to(value, parts), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients, gradient, rtol=1e-4, atol=1e-6)


@quick
@given(batch=batches)
def test_a_gradient_moves_no_probability_in_or_out(batch):
    """A softmax does not change when all logits of a pixel move together."""
    _, gradient = compiled("cross_entropy")(*batch)
    np.testing.assert_allclose(np.asarray(gradient).sum(-1), 0, atol=1e-6)
    assert jnp.shape(gradient) == (*SHAPE, K)
