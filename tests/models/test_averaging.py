"""Means of outputs against their definitions in float64."""

import functools

import jax
import numpy as np
import pytest
from harness.encoders import noise
from scipy.special import expit, log_softmax, softmax

from jaxseg.models import averaging
from jaxseg.typing import Output


def mean(average, outputs):
    total = functools.reduce(average.add, [average.start(Output(x)) for x in outputs])
    return average.finish(total, len(outputs))


def entropy(p):
    return -(p * np.log(p)).sum(-1)


@pytest.mark.parametrize("average", [averaging.PROBABILITIES, averaging.UNCERTAINTY])
def test_softmax_of_the_logits_is_the_mean_of_probabilities(average):
    outputs = 3 * noise(4, 2, 5, 3, 6)
    got = softmax(np.float64(mean(average, outputs).logits), -1)
    np.testing.assert_allclose(got, softmax(outputs.astype(np.float64), -1).mean(0), rtol=1e-5)


@pytest.mark.parametrize("average", [averaging.PROBABILITIES, averaging.UNCERTAINTY])
def test_sigmoid_of_one_logit_is_the_mean_of_probabilities(average):
    outputs = 3 * noise(4, 2, 5, 3, 1)
    got = expit(np.float64(mean(average, outputs).logits))
    np.testing.assert_allclose(got, expit(outputs.astype(np.float64)).mean(0), rtol=1e-5)


def test_improbable_classes_keep_finite_logits():
    outputs = np.float32([[[[[-300.0, 0.0, 300.0]]]], [[[[-290.0, 0.0, 310.0]]]]])
    expected = np.logaddexp(*log_softmax(outputs.astype(np.float64), -1)) - np.log(2)
    np.testing.assert_allclose(mean(averaging.PROBABILITIES, outputs).logits, expected, rtol=1e-6)
    one = mean(averaging.PROBABILITIES, outputs[..., :1])
    np.testing.assert_allclose(one.logits, -290 - np.log(2), rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_entropy_and_mutual_information_are_the_definitions(classes):
    outputs = 3 * noise(5, 2, 4, 3, classes)
    got = mean(averaging.UNCERTAINTY, outputs)
    wide = outputs.astype(np.float64)
    p = softmax(wide, -1) if classes > 1 else np.concatenate([expit(wide), expit(-wide)], -1)
    total, expected = entropy(p.mean(0)), entropy(p).mean(0)
    np.testing.assert_allclose(got.entropy, total, rtol=1e-5)
    np.testing.assert_allclose(got.mutual_information, total - expected, rtol=0, atol=2e-6)


def test_outputs_that_agree_have_no_mutual_information_and_certain_ones_no_entropy():
    outputs = np.stack([noise(1, 2, 2, 3)] * 3)
    agreed = mean(averaging.UNCERTAINTY, outputs)
    assert (np.asarray(agreed.mutual_information) < 1e-6).all()
    assert (np.asarray(agreed.entropy) > 0.01).all()
    certain = mean(averaging.UNCERTAINTY, np.float32([[[[[200.0, -200.0]]]]] * 2))
    assert certain.entropy.tolist() == certain.mutual_information.tolist() == [[[0.0]]]


def test_outputs_are_averaged_as_they_are():
    outputs = noise(3, 1, 2, 2, 4)
    got = mean(averaging.OUTPUTS, outputs)
    np.testing.assert_allclose(got.logits, outputs.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "average", [averaging.PROBABILITIES, averaging.UNCERTAINTY, averaging.OUTPUTS]
)
@pytest.mark.parametrize("classes", [1, 3])
def test_empty_total_adds_nothing(average, classes):
    start = average.start(Output(noise(1, 2, 2, classes)))
    empty = jax.tree.map(lambda x: np.full_like(x, average.empty), start)
    jax.tree.map(np.testing.assert_array_equal, average.add(empty, start), start)
