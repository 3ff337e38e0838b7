"""The checks that every registered encoder passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import (
    SIZE,
    check_features,
    check_gradients,
    check_updates,
    fast_jit,
    noise,
    params,
    quick_names,
    random_variables,
    relative_error,
    shapes,
    variants,
)

from jaxseg import encoders
from jaxseg.errors import InputError

VARIANTS = params(variants(), quick_names())
OUTPUT_STRIDES = (8, 16, 32)


def has(encoder, field):
    return field in {f.name for f in dataclasses.fields(encoder)}


def grid(encoder):
    """The encoder with every depth and output stride."""
    for depth in range(1, encoder.depth + 1):
        for stride in OUTPUT_STRIDES if has(encoder, "output_stride") else (None,):
            yield encoder.clone(
                depth=depth, **({} if stride is None else {"output_stride": stride})
            )


@pytest.mark.parametrize("name", encoders.names())
@pytest.mark.sample(4, 8)
def test_builder_is_an_attribute_and_features_have_their_shapes(name):
    encoder = encoders.create(name)
    assert encoder == getattr(encoders, name)()
    assert encoder.strides[0] in (2, 4)
    assert list(encoder.strides) == sorted(encoder.strides)
    features, variables = shapes(encoder, (2, *SIZE, 3))
    check_features(features, encoder, (2, *SIZE, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.sample(2)
def test_features_with_any_depth_stride_and_size(name):
    full = None
    for encoder in grid(variants()[name]):
        assert len(encoder.strides) == len(encoder.channels) == encoder.depth
        assert encoder.channels == variants()[name].channels[: encoder.depth]
        features, variables = shapes(encoder, (1, 7, 64, 3))
        check_features(features, encoder, (1, 7, 64, 3))
        if encoder.depth == variants()[name].depth:
            assert full in (None, jax.tree.map(jnp.shape, variables))  # dilation adds none
            full = jax.tree.map(jnp.shape, variables)
    for images in ((1, 1, 1, 3), (3, 65, 63, 3)):
        for train in (False, True):
            features, _ = shapes(variants()[name], images, train=train)
            check_features(features, variants()[name], images)


@pytest.mark.parametrize("name", VARIANTS)
def test_features_with_any_number_of_channels(name):
    for channels in (1, 12):
        encoder = variants()[name].clone(in_channels=channels)
        features, _ = shapes(encoder, (1, *SIZE, channels))
        check_features(features, encoder, (1, *SIZE, channels))
        with pytest.raises(InputError, match=f"have 4 channels, but .* in_channels={channels}"):
            shapes(encoder, (1, 8, 8, 4))


@pytest.mark.parametrize("name", VARIANTS)
def test_impossible_fields_are_named(name):
    encoder = variants()[name]
    family, depths = type(encoder).__name__, encoder.depth
    for depth in (0, depths + 1):
        with pytest.raises(InputError, match=f"depth={depth}: a {family} has 1 to {depths} feat"):
            encoder.clone(depth=depth)
    with pytest.raises(InputError, match="in_channels=0: an image has at least one channel"):
        encoder.clone(in_channels=0)
    if has(encoder, "output_stride"):
        with pytest.raises(InputError, match=f"output_stride=4: a {family} can have"):
            encoder.clone(output_stride=4)


@pytest.mark.parametrize("name", VARIANTS)
def test_bfloat16_features_with_float32_parameters(name):
    encoder = variants()[name].clone(dtype=jnp.bfloat16)
    features, variables = shapes(encoder)
    assert {feature.dtype for feature in features} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


class Subject:
    """An encoder with random variables, images, and what its compiled functions make of them."""

    def __init__(self, name):
        self.encoder = variants()[name]
        self.variables = random_variables(shapes(self.encoder)[1])
        self.images = noise(2, *SIZE, 3)
        self.features = fast_jit(self.encoder.apply)(self.variables, self.images)
        compiled = fast_jit(jax.value_and_grad(self.loss, has_aux=True))
        (_, (self.train_features, self.updated)), self.gradients = compiled(
            self.variables["params"]
        )

    def loss(self, parameters):
        variables = {**self.variables, "params": parameters}
        rngs = {"dropout": jax.random.key(0)}
        features, updated = self.encoder.apply(
            variables, self.images, train=True, mutable=True, rngs=rngs
        )
        weights = (noise(*f.shape, seed=i) for i, f in enumerate(features))
        total = sum((f * w).mean() for f, w in zip(features, weights, strict=True))
        return total, (features, updated)


@pytest.fixture(scope="module", params=VARIANTS)
def subject(request):
    return Subject(request.param)


@pytest.mark.sample(2)
def test_features_are_finite_and_of_moderate_size(subject):
    check_features(subject.features, subject.encoder, subject.images.shape)
    for feature in (*subject.features, *subject.train_features):
        assert np.isfinite(feature).all()
        assert 0.01 < feature.std() < 100


@pytest.mark.sample(2)
def test_gradient_reaches_every_parameter(subject):
    check_gradients(subject.gradients)


@pytest.mark.sample(2)
def test_training_changes_batch_statistics_alone(subject):
    check_updates(subject.variables, subject.updated)


@pytest.mark.sample(2)
def test_one_image_without_jit_has_the_same_features(subject):
    alone = subject.encoder.apply(subject.variables, subject.images[1:])
    for feature, expected in zip(alone, subject.features, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(feature / scale, expected[1:] / scale, rtol=0, atol=1e-5)


@pytest.mark.sample(2)
def test_bfloat16_features_are_near_float32(subject):
    encoder = subject.encoder.clone(dtype=jnp.bfloat16)
    features = fast_jit(encoder.apply)(subject.variables, subject.images)
    for feature, exact in zip(features, subject.features, strict=True):
        assert 0 < relative_error(feature.astype(jnp.float32), exact) < 2e-2


def test_pmap_has_the_features_of_jit():
    name = quick_names()[0]
    encoder, images = variants()[name], noise(2, *SIZE, 3)
    variables = random_variables(shapes(encoder)[1])
    expected = fast_jit(encoder.apply)(variables, images)
    features = jax.pmap(encoder.apply, in_axes=(None, 0))(variables, images[:, None])
    for feature, other in zip(features, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(feature[:, 0] / scale, other / scale, rtol=0, atol=1e-5)
