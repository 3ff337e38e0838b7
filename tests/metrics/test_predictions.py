import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import data
from jaxseg.errors import InputError
from jaxseg.metrics import (
    ConfusionMatrix,
    MultilabelCounts,
    ThresholdSweep,
    labels_from_logits,
    map_labels,
    multilabel_from_logits,
)
from jaxseg.metrics.predictions import as_int32


def test_labels_from_logits_are_the_most_probable_class():
    logits = jnp.array([[[[0.1, 0.9, 0.5], [2.0, 2.0, 1.0]]]], jnp.bfloat16)
    labels = labels_from_logits(logits)
    assert labels.dtype == jnp.int32
    assert labels.tolist() == [[[1, 0]]]


@settings(max_examples=40)
@given(st.floats(0.001, 0.999), st.integers(0, 99))
def test_a_threshold_is_one_of_the_probability(threshold, seed):
    logits = np.random.default_rng(seed).normal(0, 4, (2, 3, 4, 1))
    expected = 1 / (1 + np.exp(-logits)) > threshold
    found = labels_from_logits(jnp.asarray(logits, jnp.float32), threshold=threshold)
    np.testing.assert_array_equal(found, expected[..., 0])
    several = multilabel_from_logits(jnp.asarray(logits, jnp.float32), threshold=threshold)
    np.testing.assert_array_equal(several, expected)


def test_thresholds_at_the_ends_and_where_probabilities_round_to_one():
    logits = jnp.array([-200.0, -20.0, 0.0, 20.0, 200.0]).reshape(1, 1, 5, 1)

    def positive(threshold):
        return labels_from_logits(logits, threshold=threshold)[0, 0].tolist()

    assert positive(0.0) == [1] * 5
    assert positive(1.0) == [0] * 5
    assert positive(0.5) == [0, 0, 0, 1, 1]
    assert positive(1 - 1e-12) == [0, 0, 0, 0, 1]  # every logit above 17 has a probability of 1
    assert positive(1e-12) == [0, 1, 1, 1, 1]


def test_one_threshold_for_every_precision():
    """In bfloat16 the cut-off itself is not rounded."""
    logits = jnp.array([2.1875, 2.203125], jnp.bfloat16).reshape(1, 1, 2, 1)
    threshold = 1 / (1 + math.exp(-2.195))
    assert labels_from_logits(logits, threshold=threshold).tolist() == [[[0, 1]]]


def test_bad_thresholds_are_named():
    logits = jnp.zeros((1, 1, 1, 1))
    for threshold in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"threshold is {threshold}"):
            labels_from_logits(logits, threshold=threshold)
    with pytest.raises(InputError, match=r"needs one logit, there are 3.*multilabel_from_logits"):
        labels_from_logits(jnp.zeros((1, 1, 1, 3)), threshold=0.3)


def test_one_logit_and_two_classes_count_alike():
    """A sigmoid of z is a softmax over 0 and z."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(2, 4, 4, 1)), jnp.float32)
    labels = rng.integers(0, 2, (2, 4, 4))
    two = jnp.concatenate([jnp.zeros_like(z), z], -1)
    one, other = (
        ConfusionMatrix.zero(x.shape[-1]).update(labels=labels, predictions=labels_from_logits(x))
        for x in (z, two)
    )
    np.testing.assert_array_equal(one.to_numpy(), other.to_numpy())


@settings(max_examples=30)
@given(
    st.dictionaries(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 4)), min_size=1),
    st.integers(0, 99),
)
def test_the_maps_of_data_sets_map_here_as_well(ids, seed):
    ids = dict.fromkeys(range(7)) | ids
    mapped = data.LabelMap(ids)
    labels = np.random.default_rng(seed).choice([*range(7), 255], (2, 3, 4)).astype(np.uint8)
    found = map_labels(labels, mapped(np.arange(7)))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, mapped(labels))


def test_reduce_zero_label():
    labels = np.array([0, 1, 2, 150, 255, 151], np.uint8)
    table = (255, *range(150))
    assert map_labels(labels, table).tolist() == [255, 0, 1, 149, 255, 255]
    reduced = data.LabelMap(reduce_zero_label=True)
    np.testing.assert_array_equal(map_labels(labels[:5], table), reduced(labels[:5]))


def test_other_ids_become_ignored():
    labels = jnp.array([-7, 3, 0, 200, 2**31 - 1], jnp.int32)
    assert map_labels(labels, (5, 6), ignore_index=-1).tolist() == [-1, -1, 5, -1, -1]
    np.testing.assert_array_equal(jax.jit(lambda x: map_labels(x, (5, 6)))(labels)[2], 5)


@pytest.mark.parametrize("table", [(), [[0]], (0.5,)])
def test_bad_tables_are_named(table):
    with pytest.raises(InputError, match="new id of each id"):
        map_labels(jnp.zeros(3, jnp.int32), table)


def test_integers_that_are_too_long_are_no_classes():
    """Cut to 32 bits they could be."""
    with jax.enable_x64(True):
        labels = jnp.asarray(np.array([2**32 + 1, -(2**32), 1, -1]))
        assert as_int32(labels, "labels").tolist() == [2**31 - 1, -(2**31), 1, -1]
        counts = ConfusionMatrix.zero(2).update(
            labels=labels.reshape(1, 2, 2), predictions=jnp.ones((1, 2, 2), jnp.int32)
        )
        assert counts.to_numpy().tolist() == [[0, 0], [0, 1]]
    assert as_int32(jnp.array([2**32 - 1, 3], jnp.uint32), "labels").tolist() == [2**31 - 1, 3]


def test_multilabel_bad_input_is_named():
    counts = MultilabelCounts.zero(3)
    labels = jnp.zeros((1, 2, 2, 3), jnp.int32)
    with pytest.raises(InputError, match="num_classes is 0"):
        MultilabelCounts.zero(0)
    with pytest.raises(InputError, match=r"must both be \[N, H, W, K\]"):
        counts.update(labels=labels, predictions=labels[..., 0])
    with pytest.raises(InputError, match="of 2 classes, the counts of 3"):
        counts.update(labels=labels[..., :2], predictions=labels[..., :2])
    with pytest.raises(InputError, match="labels are class ids, integers, not float32"):
        counts.update(labels=labels.astype(jnp.float32), predictions=labels)
    with pytest.raises(InputError, match="single images"):
        MultilabelCounts.per_image(labels=labels, predictions=labels).update(
            labels=labels, predictions=labels
        )
    with pytest.raises(InputError, match="cannot be added"):
        counts + MultilabelCounts.zero(2)


def test_multilabel_counts_are_those_of_each_class():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 255, 7], (3, 4, 5, 6)).astype(np.int16)
    predictions = rng.choice([0, 1], labels.shape).astype(np.int8)
    found = MultilabelCounts.zero(6).update(
        labels=labels, predictions=predictions, ignore_index=(255, 7)
    )
    each = MultilabelCounts.per_image(labels=labels, predictions=predictions, ignore_index=255)
    for c in range(6):
        for true in range(2):
            for predicted in range(2):
                pixels = (labels[..., c] == true) & (predictions[..., c] == predicted)
                assert found.to_numpy()[c, true, predicted] == pixels.sum()
                np.testing.assert_array_equal(
                    each.to_numpy()[:, c, true, predicted], pixels.sum((1, 2))
                )
    np.testing.assert_array_equal(found.to_float(), found.to_numpy())


@pytest.mark.sample(1)
def test_a_sweep_at_one_half_is_the_confusion_matrix():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32)
    labels = rng.choice([0, 1, 255], (2, 8, 8))
    sweep = ThresholdSweep.zero(1).update(labels=labels, probabilities=jax.nn.sigmoid(logits))
    tp, fp, fn, tn = (int(x[128, 0]) for x in sweep.confusion_counts())
    counts = ConfusionMatrix.zero(1).update(labels=labels, predictions=labels_from_logits(logits))
    assert counts.to_numpy().tolist() == [[tn, fp], [fn, tp]]
