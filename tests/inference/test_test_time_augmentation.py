"""Test-time augmentation: exact inverses, every symmetry once, resized outputs, and means."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import fast_jit, noise
from scipy.special import softmax

from jaxseg.errors import InputError
from jaxseg.inference import SlidingWindow, TestTimeAugmentation
from jaxseg.models import averaging
from jaxseg.nn import bilinear
from jaxseg.typing import Output

ALL_FLIPS, ALL_ROTATIONS = ("horizontal", "vertical"), (0, 90, 180, 270)


class Pixelwise(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return Output(jnp.sin(images))


class Ramp(nn.Module):
    """The images plus a ramp to the right and a steeper one down, so that each symmetry differs."""

    @nn.compact
    def __call__(self, images, train=False):
        _, height, width, _ = images.shape
        ramp = jnp.arange(float(width))[None, :] + 10 * jnp.arange(float(height))[:, None] ** 2
        return Output(images + ramp.reshape(1, height, width, 1))


def logits(wrapper, images):
    return np.asarray(fast_jit(wrapper.apply)({}, images).logits)


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (1, 1)])
@pytest.mark.parametrize("rotations", [(0,), (90,), ALL_ROTATIONS])
@pytest.mark.parametrize("flips", [(), ("vertical",), ALL_FLIPS])
def test_inverses_are_exact(size, rotations, flips):
    images = noise(2, *size, 3)
    model = TestTimeAugmentation(Pixelwise(), flips, rotations, average=averaging.OUTPUTS)
    np.testing.assert_allclose(logits(model, images), np.sin(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@pytest.mark.parametrize(
    ("flips", "rotations", "count"),
    [
        ((), (0,), 1),
        (("horizontal",), (0,), 2),
        (ALL_FLIPS, (0, 180), 4),
        (ALL_FLIPS, ALL_ROTATIONS, 8),
        (("vertical",), (-90, 270, 450), 4),
    ],
)
def test_every_symmetry_counts_once(size, flips, rotations, count):
    images = noise(1, *size, 1)
    found = {}
    for degrees in rotations:
        for v in (1, -1) if "vertical" in flips else (1,):
            for h in (1, -1) if "horizontal" in flips else (1,):
                moved = np.rot90(images, degrees // 90, (1, 2))[:, ::v, ::h]
                output = np.asarray(Ramp().apply({}, moved).logits)[:, ::v, ::h]
                back = np.rot90(output, -(degrees // 90), (1, 2))
                found[back.tobytes()] = back
    assert len(found) == count
    model = TestTimeAugmentation(Ramp(), flips, rotations, average=averaging.OUTPUTS)
    expected = np.mean(list(found.values()), axis=0)
    np.testing.assert_allclose(logits(model, images), expected, rtol=1e-6)


def test_scales_are_resized_there_and_back():
    images = noise(1, 7, 10, 2)
    model = TestTimeAugmentation(
        Pixelwise(), (), scales=(0.5, 1.0, 1.75), average=averaging.OUTPUTS
    )
    sizes = [(4, 5), (7, 10), (12, 18)]  # halves are rounded up
    expected = np.mean([bilinear(jnp.sin(bilinear(images, s)), (7, 10)) for s in sizes], axis=0)
    np.testing.assert_allclose(logits(model, images), expected, rtol=0, atol=1e-6)


def test_mean_is_that_of_probabilities_by_default():
    images = noise(1, 3, 4, 5)

    class Left(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return Output(images * jnp.linspace(-2.0, 2.0, 4).reshape(1, 1, 4, 1))

    apart = [np.asarray(Left().apply({}, images[:, :, ::s]).logits)[:, :, ::s] for s in (1, -1)]
    expected = softmax(np.float64(apart), -1).mean(0)
    got = softmax(np.float64(logits(TestTimeAugmentation(Left()), images)), -1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_uncertainty_is_zero_where_all_agree():
    images, flips = noise(1, 4, 4, 3), ALL_FLIPS
    model = TestTimeAugmentation(Pixelwise(), flips, average=averaging.UNCERTAINTY)
    assert np.abs(model.apply({}, images).mutual_information).max() < 1e-6
    model = TestTimeAugmentation(Ramp(), flips, average=averaging.UNCERTAINTY)
    assert model.apply({}, images).entropy.shape == (1, 4, 4)


def test_windows_inside_of_augmentation():
    images = noise(1, 9, 13, 3)
    model = TestTimeAugmentation(
        SlidingWindow(Pixelwise(), (4, 4)), scales=(1.0,), average=averaging.OUTPUTS
    )
    np.testing.assert_allclose(logits(model, images), np.sin(images), rtol=0, atol=1e-6)


def test_a_network_is_compiled_once_for_all_symmetries_of_a_square():
    calls = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            calls.append(images.shape)
            return Output(images)

    model = TestTimeAugmentation(Counting(), ALL_FLIPS, ALL_ROTATIONS)
    jax.make_jaxpr(model.apply)({}, jnp.ones((1, 4, 4, 2)))
    assert len(calls) == 2  # once for its shape, once for its program


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flips": ("diagonal",)}, "horizontal"),
        ({"rotations": (45,)}, "90"),
        ({"rotations": ()}, "at least one"),
        ({"scales": (0.0,)}, "greater than 0"),
        ({"scales": ()}, "at least one"),
    ],
)
def test_fields_out_of_range_are_errors(fields, message):
    with pytest.raises(InputError, match=message):
        TestTimeAugmentation(Pixelwise(), **fields)


def test_training_is_an_error():
    with pytest.raises(InputError, match="train the model itself"):
        TestTimeAugmentation(Pixelwise()).apply({}, jnp.ones((1, 2, 2, 2)), train=True)
