"""Folded normalisations give the same logits, in every network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from flax.traverse_util import flatten_dict

from jaxseg import encoders
from jaxseg.inference import fold_batch_norm
from jaxseg.nn import ConvNorm

QUICK = ("fcn_8s", "unet", "segnet")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in zoo.NETWORKS
    ],
)
def test_logits_are_the_same(name):
    model = zoo.small_model(name)
    variables = zoo.random_variables(zoo.shapes(model)[1])
    folded = fold_batch_norm(variables)
    names = {"/".join(path[-2:]) for path in flatten_dict(folded["params"])}
    assert not any(leaf.startswith("norm/") for leaf in names) or "fpn" in name  # GroupNorm stays
    assert "batch_stats" not in folded
    images = np.random.default_rng(0).normal(size=(1, *zoo.SIZE, 3)).astype(np.float32)
    run = zoo.fast_jit(lambda variables, images: model.apply(variables, images).logits)
    before, after = (np.asarray(run(tree, images)) for tree in (variables, folded))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert np.abs(before).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", encoders.names())
def test_features_are_the_same(name):
    model = encoders.create(name)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    template = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = zoo.random_variables(template)
    run = zoo.fast_jit(lambda variables, images: model.apply(variables, images))
    before, after = run(variables, images), run(fold_batch_norm(variables), images)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_a_bias_of_the_convolution_is_folded_too():
    block, images = ConvNorm(2, use_bias=True), jnp.ones((1, 4, 4, 3))
    template = jax.eval_shape(lambda: block.init(jax.random.key(0), images, train=False))
    variables = zoo.random_variables(template)
    before = block.apply(variables, images, train=False)
    after = block.apply(fold_batch_norm(variables), images, train=False)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_what_is_not_a_block_stays():
    norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    own = {"params": {"mine": norm}, "batch_stats": {"mine": {"mean": jnp.ones(2)}}}
    assert fold_batch_norm(own) == own


def test_folded_variables_cannot_be_trained():
    block, images = ConvNorm(2), jnp.ones((1, 4, 4, 3))
    folded = fold_batch_norm(block.init(jax.random.key(0), images, train=False))
    with pytest.raises(Exception, match="scale"):
        block.apply(folded, images, train=True, mutable=["batch_stats"])
