import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.inference import make_predict, make_probabilities
from jaxseg.typing import Output


class Pixelwise(nn.Module):
    """A linear map of every pixel and a statistic that training would change."""

    features: int

    @nn.compact
    def __call__(self, images, train=False):
        kernel = self.param("kernel", nn.initializers.zeros, (images.shape[-1], self.features))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (images.shape[-1],))
        if train:
            mean.value = images.mean((0, 1, 2))
        return Output(logits=(images - mean.value.reshape(1, 1, 1, -1)) @ kernel)


def preprocess(images):
    return images.astype(jnp.float32) / 255


def make_variables(seed, features):
    kernel = jax.random.normal(jax.random.key(seed), (3, features))
    return {"params": {"kernel": kernel}, "batch_stats": {"mean": jnp.full((3,), 0.5)}}


@pytest.fixture(scope="module", params=[1, 2, 5])
def case(request):
    model = Pixelwise(request.param)
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    variables = make_variables(0, request.param)
    return model, variables, images, model.apply(variables, preprocess(images)).logits


def test_classes_are_those_of_the_logits(case):
    model, variables, images, logits = case
    classes = jax.jit(make_predict(model, preprocess=preprocess))(variables, images)
    chex.assert_shape(classes, (2, 5, 7))
    assert classes.dtype == jnp.int32
    np.testing.assert_array_equal(classes, metrics.labels_from_logits(logits))
    assert len(np.unique(classes)) > 1


def test_probabilities_sum_to_one_and_agree_with_the_classes(case):
    model, variables, images, logits = case
    probabilities = jax.jit(make_probabilities(model, preprocess=preprocess))(variables, images)
    chex.assert_equal_shape([probabilities, logits])
    classes = make_predict(model, preprocess=preprocess)(variables, images)
    if logits.shape[-1] == 1:
        np.testing.assert_array_equal(probabilities[..., 0] > 0.5, classes == 1)
    else:
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
        np.testing.assert_array_equal(probabilities.argmax(-1), classes)


def test_the_threshold_of_one_logit_is_exclusive():
    class Same(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return Output(logits=images)

    logits = jnp.array([-1e-6, 0.0, 1e-6]).reshape(1, 1, 3, 1)
    assert make_predict(Same())({}, logits).tolist() == [[[0, 0, 1]]]
    assert make_probabilities(Same())({}, logits)[0, 0, 1, 0] == 0.5


def test_one_function_serves_any_variables_and_sizes(case):
    model, variables, images, _ = case
    predict = jax.jit(make_predict(model, preprocess=preprocess))
    assert predict(variables, images[:1, :1, :1]).shape == (1, 1, 1)
    others = make_variables(1, model.features)
    assert (predict(others, images) != predict(variables, images)).any()
