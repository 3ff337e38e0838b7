"""Tests rare class sampling: weights against the formula, sampled frequencies, and exact resumption."""

import jax
import numpy as np
import pytest

from jaxseg import data
from jaxseg.data.host.sampling import WeightedSamples
from jaxseg.data.targets import labels
from jaxseg.errors import InputError

PIXELS = np.array([[90, 10, 0], [100, 0, 0], [60, 20, 20], [100, 0, 0]])


class Source:
    """Four images whose pixels are their index."""

    num_classes, classes, targets = 3, ("a", "b", "c"), labels()

    def __len__(self):
        return 4

    def __getitem__(self, index):
        label = np.repeat(np.arange(3), PIXELS[index]).astype(np.uint8).reshape(10, 10)
        return {"image": np.full((10, 10, 1), index, np.uint8), "label": label, "name": str(index)}


def weights(temperature=0.3):
    return data.rare_class_weights(data.class_pixels(Source()), temperature)


def indices(batches, count):
    with batches:
        return np.concatenate([next(batches)["image"][:, 0, 0, 0] for _ in range(count)])


def chi_square(sampled, expected):
    count = np.bincount(sampled, minlength=len(expected))
    assert not count[expected == 0].any()
    wanted = expected[expected > 0] * len(sampled)
    return ((count[expected > 0] - wanted) ** 2 / wanted).sum()


def test_class_pixels_omits_ignored_pixels():
    np.testing.assert_array_equal(data.class_pixels(Source()), PIXELS)

    class Ignoring(Source):
        targets = labels(2)

    np.testing.assert_array_equal(data.class_pixels(Ignoring()), PIXELS * [1, 1, 0])


def test_rare_class_weights_equal_formula():
    frequency = np.array([350, 30, 20]) / 400
    chance = np.exp((1 - frequency) / 0.3)
    chance /= chance.sum()
    np.testing.assert_allclose(data.class_probabilities(PIXELS, 0.3), chance, rtol=1e-12)
    # Class a is in four images, b in two, c in one.
    by_hand = [
        chance[0] / 4 + chance[1] / 2,
        chance[0] / 4,
        chance[0] / 4 + chance[1] / 2 + chance[2],
        chance[0] / 4,
    ]
    np.testing.assert_allclose(weights(), by_hand, rtol=1e-12)
    assert abs(weights().sum() - 1) < 1e-12


@pytest.mark.parametrize("temperature", [1e-4, 0.01, 1e9])
def test_rare_class_weights_extreme_temperatures_are_finite(temperature):
    got = weights(temperature)
    assert abs(got.sum() - 1) < 1e-12
    if temperature < 1e-3:
        np.testing.assert_allclose(got, [0, 0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("by", ["host", "device"])
def test_sampling_frequencies_follow_weights(by):
    """16.27 is the 0.1 % quantile of chi-square with three degrees of freedom; the samples are deterministic."""
    expected = weights()
    if by == "host":
        sampled = [WeightedSamples(np.arange(4), expected, seed=5)[place] for place in range(8000)]
    else:
        order = data.weighted(np.tile(expected, 2000))
        sampled = np.asarray(order(jax.random.key(5), 0)) % 4
    assert chi_square(np.asarray(sampled), expected) < 16.27
    assert chi_square(np.asarray(sampled), np.full(4, 0.25)) > 100


def test_sampling_never_returns_zero_weights():
    expected = np.array([0.5, 0.0, 0.5, 0.0])
    host = np.array(
        [WeightedSamples(np.arange(4), expected, seed=1)[place] for place in range(500)]
    )
    device = np.asarray(data.weighted(np.tile(expected, 200))(jax.random.key(1), 0)) % 4
    assert set(host) == set(device) == {0, 2}


def loader(**options):
    return data.train_batches(
        Source(), None, **{"batch_size": 4, "seed": 3, "weights": weights(), **options}
    )


def test_weighted_batches_resume_exactly():
    whole = indices(loader(), 8)
    np.testing.assert_array_equal(indices(loader(start_step=5), 3), whole[20:])
    assert chi_square(indices(loader(), 500), weights()) < 16.27
    assert not np.array_equal(indices(loader(seed=4), 8), whole)


@pytest.mark.parametrize("count", [2, 4])
def test_weighted_batches_any_process_count_equal(count):
    whole = indices(loader(), 6)
    parts = [indices(loader(shard=(index, count)), 6).reshape(6, -1) for index in range(count)]
    batches = np.sort(whole.reshape(6, -1), axis=1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts, axis=1), axis=1), batches)


def test_weighted_batches_augment_repeats_differently():
    def augment(record, rng):
        return {**record, "image": np.full_like(record["image"], rng.integers(256))}

    only = np.array([0.0, 0.0, 1.0, 0.0])
    with data.train_batches(Source(), augment, batch_size=16, seed=0, weights=only) as batches:
        batch = next(batches)
    assert set(batch["names"]) == {"2"}
    assert len(np.unique(batch["image"])) > 8


@pytest.mark.parametrize(
    "wrong", [[1.0, 1.0], [1, 1, 1, -1], [0, 0, 0, 0], [1, 1, 1, np.nan]], ids=str
)
def test_invalid_weights_raise(wrong):
    with pytest.raises(InputError, match="weights"):
        WeightedSamples(Source(), wrong, seed=0)


def test_invalid_temperature_or_no_labels_raise():
    with pytest.raises(InputError, match="temperature of rare class sampling is 0"):
        data.rare_class_weights(PIXELS, 0)
    with pytest.raises(InputError, match="no pixel is labelled"):
        data.rare_class_weights(0 * PIXELS, 0.01)
