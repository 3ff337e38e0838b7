"""Columns in parts are columns at once: values, gradients, and what is made of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses
from jaxseg.losses.columns import BLOCKS, sums_over_columns

WIDTHS = (1, BLOCKS - 1, BLOCKS, 2 * BLOCKS, 2 * BLOCKS + 5)


def scaled(logits, labels, constants, power):
    hit = jnp.where(labels[..., None] == 1, logits**power, 0)
    return hit * constants, -hit


@pytest.mark.parametrize("width", WIDTHS)
def test_sums_and_their_gradient(width):
    rng = np.random.default_rng(width)
    logits, labels = rng.normal(size=(2, 3, width, 2)), rng.integers(0, 2, (2, 3, width))
    slopes = rng.normal(size=(2, 2, 3, 2))
    hit = labels[..., None] == 1
    with jax.enable_x64(True):
        weights = jnp.array([[[[1.0, 3.0]]]])
        sums, pull = jax.vjp(
            lambda z: sums_over_columns(scaled, (2,), z, labels, weights), jnp.asarray(logits)
        )
        gradient = pull(tuple(jnp.asarray(slopes)))[0]
    squares = np.where(hit, logits**2, 0)
    np.testing.assert_allclose(sums[0], squares.sum(2) * [1, 3], rtol=1e-14)
    np.testing.assert_allclose(sums[1], -squares.sum(2), rtol=1e-14)
    slope = (slopes[0] * [1, 3] - slopes[1])[:, :, None]
    np.testing.assert_allclose(gradient, np.where(hit, 2 * logits * slope, 0), rtol=1e-14)


@pytest.fixture(scope="module")
def pair():
    logits = jax.random.normal(jax.random.key(0), (2, 4, 19, 3))
    return logits, jax.random.randint(jax.random.key(1), (2, 4, 19), 0, 3)


def test_gradients_have_derivatives_in_both_directions(pair):
    logits, labels = pair

    def plain(z):
        return losses.softmax_cross_entropy(z, labels).mean()

    def slope(z):
        return jax.grad(losses.cross_entropy)(z, labels)

    direction = jnp.cos(logits)
    expected = jax.jvp(jax.grad(plain), (logits,), (direction,))[1]
    forward = jax.jit(lambda z: jax.jvp(slope, (z,), (direction,))[1])(logits)
    reverse = jax.jit(lambda z: jax.vjp(slope, z)[1](direction)[0])(logits)
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(reverse, expected, rtol=1e-5, atol=1e-8)


def test_many_losses_at_once(pair):
    logits, labels = pair
    both = jax.value_and_grad(losses.ohem_cross_entropy)
    many = jax.jit(jax.vmap(both, (0, None)))(jnp.stack([logits, -logits]), labels)
    for index, sign in enumerate((1, -1)):
        alone = both(sign * logits, labels)
        np.testing.assert_allclose(many[0][index], alone[0], rtol=1e-6)
        np.testing.assert_allclose(many[1][index], alone[1], rtol=1e-5, atol=1e-8)
