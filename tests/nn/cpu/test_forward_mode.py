"""Every network has forward-mode differentiation inside `nn.cpu.disabled`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders
from jaxseg.errors import InputError
from jaxseg.nn import cpu

KEY = jax.random.key(0)


def create(name):
    """A network on the smallest encoder that it takes."""
    if not jaxseg.models.takes_encoder(name):
        return jaxseg.create(name, num_classes=2)
    try:
        return jaxseg.create(name, encoder="resnet18", num_classes=2)
    except InputError:  # it needs a VGG
        return jaxseg.create(name, encoder="vgg11_bn", num_classes=2)


def trace_forward_mode(apply, variables, images):
    """Traces a derivative of all results along parameters and images, which fails at a `custom_vjp`."""

    def derivative(variables, images):
        return jax.jvp(apply, (variables, images), (variables, images))

    with cpu.disabled():
        jax.eval_shape(derivative, variables, images)


@pytest.mark.parametrize("name", jaxseg.models.names())
@pytest.mark.sample(2)
def test_every_model_has_forward_mode_in_training(name):
    model, images = create(name), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, images)

    def apply(variables, images):
        rngs = {"dropout": KEY}
        output, _ = model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        return output.logits

    trace_forward_mode(apply, variables, images)


ONE_OF_EACH_FAMILY = {type(encoders.create(name)): name for name in reversed(encoders.names())}


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY.values())
def test_every_encoder_family_has_forward_mode(name):
    encoder, images = encoders.create(name), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(encoder.init, KEY, images)
    trace_forward_mode(encoder.apply, variables, images)


@pytest.mark.slow
def test_forward_mode_of_a_network_equals_reverse_mode():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        encoder = encoders.resnet18(depth=3, param_dtype=jnp.float64)
        images = jnp.asarray(rng.normal(size=(2, 16, 24, 3)))
        model = jaxseg.create("unet", encoder=encoder, num_classes=2, channels=(8, 6, 4))
        variables = jax.jit(model.init)(KEY, images)

        @jax.jit
        def apply(images):
            output = model.apply(variables, images, train=True, mutable=["batch_stats"])[0]
            return jnp.sin(output.logits)

        direction = jnp.asarray(rng.normal(size=images.shape))
        y, back = jax.vjp(apply, images)
        weight = jnp.asarray(rng.normal(size=y.shape))
        with cpu.disabled():
            plain, tangent = jax.jvp(apply, (images,), (direction,))
        np.testing.assert_allclose(plain, y, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            (weight * tangent).sum(), (back(weight)[0] * direction).sum(), rtol=1e-9
        )
