import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.inference import make_predict, predict
from jaxseg.tasks.semantic import probabilities
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
    found = jax.jit(make_predict(model, probabilities, preprocess=preprocess))(variables, images)
    chex.assert_equal_shape([found, logits])
    classes = make_predict(model, preprocess=preprocess)(variables, images)
    if logits.shape[-1] == 1:
        np.testing.assert_array_equal(found[..., 0] > 0.5, classes == 1)
    else:
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
        np.testing.assert_array_equal(found.argmax(-1), classes)


def test_the_threshold_of_one_logit_is_exclusive():
    class Same(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return Output(logits=images)

    logits = jnp.array([-1e-6, 0.0, 1e-6]).reshape(1, 1, 3, 1)
    assert make_predict(Same())({}, logits).tolist() == [[[0, 0, 1]]]
    assert make_predict(Same(), probabilities)({}, logits)[0, 0, 1, 0] == 0.5


def test_one_function_serves_any_variables_and_sizes(case):
    model, variables, images, _ = case
    compiled = jax.jit(make_predict(model, preprocess=preprocess))
    assert compiled(variables, images[:1, :1, :1]).shape == (1, 1, 1)
    others = make_variables(1, model.features)
    assert (compiled(others, images) != compiled(variables, images)).any()


def test_predict_takes_one_image_or_a_batch(case):
    model, variables, images, _ = case
    statistics = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    expected = make_predict(model, preprocess=preprocess)(variables, images)
    np.testing.assert_array_equal(predict(model, variables, images, **statistics), expected)
    single = predict(model, variables, images[0], **statistics)
    np.testing.assert_array_equal(single, expected[0])


def test_predict_compiles_once(case, compiled):
    model, variables, images, _ = case
    for _ in range(2):
        predict(model, variables, images[:, :4])
    assert compiled("_classes") == 1


def test_predict_refuses_floats(case):
    model, variables, images, _ = case
    with pytest.raises(InputError, match=r"float32 \[2, 5, 7, 3\]: give uint8"):
        predict(model, variables, images.astype(np.float32))
