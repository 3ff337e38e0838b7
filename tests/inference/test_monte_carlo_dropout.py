"""Monte-Carlo dropout: dropout alone is on, and masks differ from sample to sample."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import fast_jit, noise, random_variables, shapes
from harness.models import create

from jaxseg.errors import InputError
from jaxseg.inference import MonteCarloDropout
from jaxseg.models import averaging
from jaxseg.nn import BatchNorm, Dropout
from jaxseg.typing import Output


class Network(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, images, train=False):
        x = BatchNorm(name="norm")(images, train=train)
        return Output(Dropout(self.rate)(x, train=train))


def variables_of(model, channels=3):
    return random_variables(shapes(model, (1, 4, 4, channels))[1])


def test_mean_of_many_masks_is_the_output_without_and_statistics_are_the_running_ones():
    model, images = Network(), noise(1, 3, 3, 3)
    variables = variables_of(model)
    wrapper = MonteCarloDropout(model, samples=4000, average=averaging.OUTPUTS)
    got = fast_jit(wrapper.apply)(variables, images).logits
    plain = model.apply(variables, images).logits
    np.testing.assert_allclose(got, plain, rtol=0, atol=0.05 * np.abs(plain).max())


def test_without_dropout_it_is_the_model():
    model, images = Network(rate=0.0), noise(1, 3, 3, 3)
    variables = variables_of(model)
    output = MonteCarloDropout(model, samples=3).apply(variables, images)
    expected = jax.nn.log_softmax(model.apply(variables, images).logits)
    np.testing.assert_allclose(output.logits, expected, rtol=0, atol=1e-5)
    assert np.abs(output.mutual_information).max() < 1e-6


def test_same_seed_is_the_same_and_another_is_not():
    model, images = Network(), noise(1, 4, 4, 3)
    variables = variables_of(model)
    first, again, other = (
        MonteCarloDropout(model, samples=3, seed=seed).apply(variables, images).logits
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.slow
def test_a_network_with_dropout_is_uncertain():
    model, images = create("deeplab_v3"), noise(1, 32, 32, 3)
    variables = random_variables(shapes(model)[1])
    output = fast_jit(MonteCarloDropout(model, samples=4).apply)(variables, images)
    assert output.mutual_information.shape == output.entropy.shape == (1, 32, 32)
    assert (np.asarray(output.mutual_information) <= np.asarray(output.entropy)).all()
    assert np.asarray(output.mutual_information).mean() > 1e-3


def test_no_sample_and_training_are_errors():
    with pytest.raises(InputError, match="at least 1"):
        MonteCarloDropout(Network(), samples=0)
    with pytest.raises(InputError, match="train the model itself"):
        MonteCarloDropout(Network()).apply({}, jnp.ones((1, 2, 2, 3)), train=True)
