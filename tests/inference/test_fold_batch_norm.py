"""Folded batch normalizations leave logits and features as they are, in every network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from harness.encoders import SIZE, fast_jit, noise, params, random_variables, shapes
from harness.models import cases, encoders_of, small_model

from jaxseg import encoders, models
from jaxseg.inference import fold_batch_norm
from jaxseg.nn import ConvNorm

QUICK = [name for name, _ in cases()[1] if "resnet18" in encoders_of(name)][:3]


@pytest.mark.parametrize("name", params(models.names(), QUICK))
@pytest.mark.slow
def test_folded_model_has_the_same_logits(name):
    model = small_model(name)
    variables = random_variables(shapes(model)[1])
    folded = fold_batch_norm(variables)
    names = {"/".join(path[-2:]) for path in flatten_dict(folded["params"])}
    assert not any(leaf.startswith("norm/") for leaf in names) or "fpn" in name  # GroupNorm stays
    assert "batch_stats" not in folded
    images = noise(1, *SIZE, 3, seed=0)
    run = fast_jit(lambda variables, images: model.apply(variables, images).logits)
    before, after = (np.asarray(run(tree, images)) for tree in (variables, folded))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert np.abs(before).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", encoders.names())
def test_folded_encoder_has_the_same_features(name):
    model = encoders.create(name)
    variables = random_variables(shapes(model)[1])
    images, run = noise(1, 32, 32, 3, seed=0), fast_jit(model.apply)
    before, after = run(variables, images), run(fold_batch_norm(variables), images)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_bias_of_the_convolution_is_folded():
    block, images = ConvNorm(2, use_bias=True), jnp.ones((1, 4, 4, 3))
    template = jax.eval_shape(lambda: block.init(jax.random.key(0), images, train=False))
    variables = random_variables(template)
    before = block.apply(variables, images, train=False)
    after = block.apply(fold_batch_norm(variables), images, train=False)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_normalization_outside_of_a_conv_norm_stays():
    norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    own = {"params": {"mine": norm}, "batch_stats": {"mine": {"mean": jnp.ones(2)}}}
    assert fold_batch_norm(own) == own


def test_folded_variables_cannot_be_trained():
    block, images = ConvNorm(2), jnp.ones((1, 4, 4, 3))
    folded = fold_batch_norm(block.init(jax.random.key(0), images, train=False))
    with pytest.raises(Exception, match="scale"):
        block.apply(folded, images, train=True, mutable=["batch_stats"])
