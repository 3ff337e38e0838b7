"""Derivatives beyond the gradient: forward mode, second derivatives, and `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses
from jaxseg.typing import Output


@pytest.fixture(scope="module")
def pair():
    logits = jax.random.normal(jax.random.key(0), (2, 4, 19, 3))
    return logits, jax.random.randint(jax.random.key(1), (2, 4, 19), 0, 3)


def test_second_derivatives_forward_equal_reverse(pair):
    logits, labels = pair

    def reference(z):
        return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[..., None], -1).mean()

    def gradient(z):
        return jax.grad(losses.cross_entropy)(z, labels)

    direction = jnp.cos(logits)
    expected = jax.jvp(jax.grad(reference), (logits,), (direction,))[1]
    forward = jax.jit(lambda z: jax.jvp(gradient, (z,), (direction,))[1])(logits)
    reverse = jax.jit(lambda z: jax.vjp(gradient, z)[1](direction)[0])(logits)
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(reverse, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.sample(3)
def test_forward_mode_equals_gradient(pair, name):
    logits, labels = pair
    loss_fn = losses.make_loss_fn({name: 1.0})

    def loss(z):
        return loss_fn(Output(z), {"label": labels})[0]

    direction = jnp.cos(logits)
    # Not compiled: fused programs round the two sides of a tie differently, and so take other subgradients.
    slope = jax.jvp(loss, (logits,), (direction,))[1]
    expected = (jax.grad(loss)(logits) * direction).sum()
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.slow
def test_second_derivative_at_zero_logits_is_a_quarter(num_classes, smoothing):
    def loss(z):
        logits = jnp.stack([jnp.zeros(()), z]) if num_classes == 2 else z[None]
        labels = jnp.ones((1, 1, 1), jnp.int32)
        return losses.cross_entropy(logits[None, None, None], labels, label_smoothing=smoothing)

    assert jax.grad(jax.grad(loss))(0.0) == pytest.approx(0.25)


def test_vmap_ohem_equals_separate_calls(pair):
    logits, labels = pair
    step = jax.value_and_grad(losses.ohem_cross_entropy)
    values, gradients = jax.jit(jax.vmap(step, (0, None)))(jnp.stack([logits, -logits]), labels)
    for index, sign in enumerate((1, -1)):
        value, gradient = step(sign * logits, labels)
        np.testing.assert_allclose(values[index], value, rtol=1e-6)
        np.testing.assert_allclose(gradients[index], gradient, rtol=1e-5, atol=1e-8)
