"""Folded batch normalizations leave logits and features as they are, in every network."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from harness.encoders import SIZE, fast_jit, noise, random_variables, shapes, variants
from harness.models import small_model

from jaxseg import models
from jaxseg.inference import fold_batch_norm
from jaxseg.nn import BatchNorm, ConvNorm


@pytest.mark.parametrize("name", models.names())
@pytest.mark.sample(2)
def test_folded_model_has_the_same_logits(name):
    model = small_model(name)
    variables = random_variables(shapes(model)[1])
    folded = fold_batch_norm(model, variables)
    names = {"/".join(path[-2:]) for path in flatten_dict(folded["params"])}
    assert not any(leaf.startswith("norm/") for leaf in names) or "fpn" in name  # GroupNorm stays
    assert "batch_stats" not in folded
    images = noise(1, *SIZE, 3, seed=0)
    run = fast_jit(lambda variables, images: model.apply(variables, images).logits)
    before, after = (np.asarray(run(tree, images)) for tree in (variables, folded))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert np.abs(before).max() > 1e-3


@pytest.mark.parametrize("name", variants())
@pytest.mark.sample(3)
def test_folded_encoder_has_the_same_features(name):
    model = variants()[name]
    variables = random_variables(shapes(model)[1])
    images, run = noise(1, *SIZE, 3, seed=0), fast_jit(model.apply)
    before, after = run(variables, images), run(fold_batch_norm(model, variables), images)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_bias_of_the_convolution_is_folded():
    block, images = ConvNorm(2, use_bias=True), jnp.ones((1, 4, 4, 3))
    template = jax.eval_shape(lambda: block.init(jax.random.key(0), images, train=False))
    variables = random_variables(template)
    before = block.apply(variables, images, train=False)
    after = block.apply(fold_batch_norm(block, variables), images, train=False)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_epsilon_is_that_of_the_normalization():
    block, images = ConvNorm(2, norm=partial(BatchNorm, epsilon=0.1)), jnp.ones((1, 4, 4, 3))
    variables = block.init(jax.random.key(0), images)
    folded = fold_batch_norm(block, variables)
    kernels = (tree["params"]["conv"]["kernel"] for tree in (folded, variables))
    np.testing.assert_allclose(
        *(kernel * f for kernel, f in zip(kernels, (np.sqrt(1.1), 1), strict=True)), rtol=1e-6
    )


class OwnNetwork(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = BatchNorm(name="mine")(images, train=False)
        return ConvNorm(2, name="block")(x)


def test_normalization_outside_of_a_conv_norm_stays():
    model = OwnNetwork()
    variables = random_variables(shapes(model)[1])
    folded = fold_batch_norm(model, variables)
    assert folded["batch_stats"] == {"mine": variables["batch_stats"]["mine"]}
    assert folded["params"]["mine"] == variables["params"]["mine"]
    assert set(folded["params"]["block"]) == {"conv"}


def test_folding_twice_is_folding_once():
    model = variants()["resnet18"]
    folded = fold_batch_norm(model, random_variables(shapes(model)[1]))
    jax.tree.map(np.testing.assert_array_equal, fold_batch_norm(model, folded), folded)


def test_folded_variables_cannot_be_trained():
    block, images = ConvNorm(2), jnp.ones((1, 4, 4, 3))
    folded = fold_batch_norm(block, block.init(jax.random.key(0), images, train=False))
    with pytest.raises(Exception, match="scale"):
        block.apply(folded, images, train=True, mutable=["batch_stats"])
