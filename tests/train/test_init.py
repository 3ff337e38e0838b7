"""Initialization: the values of `model.init`, from one program, with the statistics of its initializers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders
from jaxseg.tree_paths import path_name

KEY = jax.random.key(0)


class Network(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(16, (3, 3), kernel_init=nn.initializers.orthogonal())(images)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(5, bias_init=nn.initializers.normal())(x)


def test_init_equals_model_init():
    key = jax.random.key(1)
    ours = jaxseg.init(Network(), key, channels=2, size=(8, 6))
    theirs = Network().init(key, jnp.zeros((1, 8, 6, 2)))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_init_at_another_size_equals_the_default():
    model, key = Network(), jax.random.key(2)
    results = [jaxseg.init(model, key), jaxseg.init(model, key, size=(32, 48))]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_init_with_another_key_differs():
    kernels = [
        jaxseg.init(Network(), jax.random.key(seed))["params"]["Dense_0"]["kernel"]
        for seed in (0, 1)
    ]
    assert np.abs(kernels[0] - kernels[1]).min() > 0


def test_init_runs_under_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.vmap(lambda key: jaxseg.init(Network(), key))(keys)["params"]["Conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 3, 3, 16)


def test_init_under_jit_and_eval_shape_gives_the_shapes():
    expected = jax.tree.map(jnp.shape, jaxseg.init(Network(), jax.random.key(0)))
    for transform in (jax.jit, lambda f: lambda key: jax.eval_shape(f, key)):
        got = transform(lambda key: jaxseg.init(Network(), key))(jax.random.key(0))
        assert jax.tree.map(jnp.shape, got) == expected


def test_init_of_an_encoder_with_four_channels_needs_no_option():
    encoder = encoders.resnet18(in_channels=4, depth=2)
    for model in (encoder, jaxseg.create("fcn", encoder=encoder, num_classes=2)):
        variables = jax.eval_shape(lambda key, model=model: jaxseg.init(model, key), KEY)
        kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"])]
        assert (7, 7, 4, 64) in kernels


@pytest.mark.slow
def test_init_of_an_encoder_has_kaiming_statistics():
    """Mean 0 and standard deviation sqrt(2 / fan_out), each to five standard errors, for every kernel."""
    model = jaxseg.create("unet", encoder="resnet18", num_classes=3)
    params = jaxseg.init(model, jax.random.key(0))["params"]["encoder"]
    kernels = [
        (path_name(path), np.asarray(leaf, np.float64))
        for path, leaf in jax.tree.leaves_with_path(params)
        if leaf.ndim == 4
    ]
    assert len(kernels) == 20
    for path, kernel in kernels:
        height, width, _, features = kernel.shape
        expected = np.sqrt(2 / (height * width * features))
        error = 5 / np.sqrt(kernel.size)
        assert abs(kernel.mean() / expected) < error, path
        assert abs(kernel.std() / expected - 1) < error, path
    corners = [kernel.ravel()[:20] for _, kernel in kernels]
    assert (
        np.abs(np.corrcoef(corners) - np.eye(20)).max() < 0.95
    )  # no two kernels share their random bits
