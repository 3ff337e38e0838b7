import functools

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix, labels_from_logits

SHAPE = (4, 6, 5)


def drawn(num_classes, seed=0, shape=SHAPE, dtype=np.int32):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, shape)
    labels[rng.random(shape) < 0.2] = 255
    return labels.astype(dtype), rng.integers(0, num_classes, shape).astype(np.int32)


def counted(labels, predictions, num_classes, ignore_index=255):
    """One pixel after the other."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted in zip(labels.ravel(), predictions.ravel(), strict=True):
        if true != ignore_index:
            counts[true, predicted] += 1
    return counts


@functools.cache
def update(ignore_index=255):
    return jax.jit(
        lambda counts, labels, predictions: counts.update(
            labels=labels, predictions=predictions, ignore_index=ignore_index
        )
    )


def matrix(values):
    """A ConfusionMatrix of given counts, Python's integers of any size."""
    limbs = [[[v & 0xFFFFFF, v >> 24 & 0xFFFFFF, v >> 48] for v in row] for row in values]
    return ConfusionMatrix(jnp.array(limbs, jnp.uint32))


@pytest.mark.parametrize(
    ("num_classes", "dtype"), [(2, np.uint8), (5, np.uint8), (5, np.int32), (150, np.int16)]
)
def test_counts_every_pixel_that_is_not_ignored(num_classes, dtype):
    labels, predictions = drawn(num_classes, dtype=dtype)
    counts = update()(ConfusionMatrix.zero(num_classes), labels, predictions)
    np.testing.assert_array_equal(counts.to_numpy(), counted(labels, predictions, num_classes))


@pytest.mark.parametrize("ignore_index", [-1, 0, 7])
def test_any_label_may_be_ignored(ignore_index):
    labels, predictions = drawn(3)
    labels = np.where(labels == 255, ignore_index, labels)
    counts = update(ignore_index)(ConfusionMatrix.zero(3), labels, predictions)
    np.testing.assert_array_equal(counts.to_numpy(), counted(labels, predictions, 3, ignore_index))


def test_rows_are_the_truth():
    counts = update()(ConfusionMatrix.zero(3), jnp.array([[[0]]]), jnp.array([[[2]]]))
    assert counts.to_numpy().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_one_sigmoid_has_two_labels():
    counts = ConfusionMatrix.zero(1)
    assert counts.num_classes == 2
    logits = jnp.array([[[[-1.0], [0.5], [3.0], [0.0]]]])
    counts = update()(counts, jnp.array([[[0, 0, 1, 255]]]), labels_from_logits(logits))
    assert counts.to_numpy().tolist() == [[1, 1], [0, 1]]


def test_what_is_no_class_is_counted_nowhere():
    labels = jnp.array([[[0, 1, 3, -1, 200, 1, 1]]])
    predictions = jnp.array([[[0, 1, 1, 1, 1, 3, -1]]])
    counts = update()(ConfusionMatrix.zero(3), labels, predictions)
    assert counts.to_numpy().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_addition_merges_and_commutes():
    parts = [update()(ConfusionMatrix.zero(5), *drawn(5, seed)) for seed in range(3)]
    a, b, c = parts
    expected = sum(part.to_numpy() for part in parts)
    for total in ((a + b) + c, a + (b + c), c + a + b):
        np.testing.assert_array_equal(total.to_numpy(), expected)


counts_of_any_size = arrays.arrays(object, (2, 2), elements=st.integers(0, 2**62 - 1))


@settings(max_examples=60)
@given(a=counts_of_any_size, b=counts_of_any_size)
def test_sums_are_exact_at_any_size(a, b):
    total = jax.jit(ConfusionMatrix.__add__)(matrix(a), matrix(b))
    assert total.to_numpy().tolist() == (a + b).tolist()
    assert int(total.limbs[..., :2].max()) < 2**24


def test_counting_goes_on_past_every_float_and_int32():
    """Each of 2**24, 2**32 and 2**53 is where some other way of counting stops."""
    for power in (24, 31, 32, 48, 53, 62):
        counts = matrix([[2**power - 1, 0], [0, 2**power]])
        counts = update()(counts, jnp.array([[[0, 1]]]), jnp.array([[[0, 1]]]))
        assert counts.to_numpy().tolist() == [[2**power, 0], [0, 2**power + 1]]


def test_doubling_overflows_int64_with_an_error():
    counts = matrix([[1, 0], [0, 0]])
    add = jax.jit(ConfusionMatrix.__add__)
    for _ in range(63):
        counts = add(counts, counts)
    with pytest.raises(OverflowError, match=r"2\*\*63"):
        counts.to_numpy()
    np.testing.assert_allclose(counts.to_float()[0, 0], 2.0**63)


def test_floats_are_rounded():
    value = 2**40 + 2**17 + 1  # float32 keeps 24 bits: 2**40 and steps of 2**17
    assert float(matrix([[value, 0], [0, 0]]).to_float()[0, 0]) == np.float32(value)


def test_is_a_pytree_that_a_scan_carries():
    labels, predictions = drawn(5)

    def body(counts, pair):
        return counts.update(labels=pair[0][None], predictions=pair[1][None]), None

    scan = jax.jit(lambda counts, pairs: jax.lax.scan(body, counts, pairs)[0])
    counts = scan(ConfusionMatrix.zero(5), (labels, predictions))
    np.testing.assert_array_equal(counts.to_numpy(), counted(labels, predictions, 5))


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
def test_every_strategy_counts_each_pixel_once(strategy, devices):
    """Twice, so that what was counted before is not summed over the devices again."""
    labels, predictions = drawn(5)
    expected = 2 * counted(labels, predictions, 5)
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    everywhere, divided = PartitionSpec(), PartitionSpec("data")
    step = update().__wrapped__
    if strategy == "jit":
        shardings = [NamedSharding(mesh, spec) for spec in (everywhere, divided)]
        run = jax.jit(step, in_shardings=(*shardings, shardings[1]), out_shardings=shardings[0])
    elif strategy == "pmap":
        labels, predictions = (x.reshape(devices, -1, *SHAPE[1:]) for x in (labels, predictions))
        run = jax.pmap(
            step, "data", in_axes=(None, 0, 0), out_axes=None, devices=jax.devices()[:devices]
        )
    else:
        specs = {"in_specs": (everywhere, divided, divided), "out_specs": everywhere}
        run = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs))
    counts = run(ConfusionMatrix.zero(5), labels, predictions)
    counts = run(counts, labels, predictions)
    np.testing.assert_array_equal(counts.to_numpy(), expected)


def test_x64_changes_nothing():
    labels, predictions = drawn(5)
    with jax.enable_x64(True):
        counts = update()(ConfusionMatrix.zero(5), labels.astype(np.int64), predictions)
        assert counts.limbs.dtype == jnp.uint32
        assert counts.to_float().dtype == jnp.float64
    np.testing.assert_array_equal(counts.to_numpy(), counted(labels, predictions, 5))


def test_bad_input_is_named():
    counts = ConfusionMatrix.zero(3)
    labels = jnp.zeros((1, 2, 2), jnp.int32)
    for number in (0, -1):
        with pytest.raises(InputError, match=f"num_classes is {number}"):
            ConfusionMatrix.zero(number)
    with pytest.raises(InputError, match=r"\(1, 2, 2\) and predictions \(1, 2, 3\)"):
        counts.update(labels=labels, predictions=jnp.zeros((1, 2, 3), jnp.int32))
    with pytest.raises(InputError, match="predictions are class ids, integers, not float32"):
        counts.update(labels=labels, predictions=jnp.zeros((1, 2, 2)))
    with pytest.raises(InputError, match=r"3 classes.*of 2"):
        counts + ConfusionMatrix.zero(1)


def test_several_labels_may_be_ignored():
    labels, predictions = drawn(5)
    expected = counted(np.where(labels == 3, 255, labels), predictions, 5)
    for ignored in ((3, 255), [255, 3], (np.int64(3), -1)):
        counts = ConfusionMatrix.zero(5).update(
            labels=labels, predictions=predictions, ignore_index=ignored
        )
        np.testing.assert_array_equal(counts.to_numpy(), expected)
    every = ConfusionMatrix.zero(5).update(labels=labels, predictions=predictions, ignore_index=())
    np.testing.assert_array_equal(every.to_numpy(), counted(labels, predictions, 5))


@pytest.mark.parametrize("num_classes", [2, 5])
def test_counts_of_single_images(num_classes):
    labels, predictions = drawn(num_classes)
    labels[2] = 255
    counts = jax.jit(functools.partial(ConfusionMatrix.per_image, num_classes))(
        labels=labels, predictions=predictions
    )
    expected = [counted(*pair, num_classes) for pair in zip(labels, predictions, strict=True)]
    np.testing.assert_array_equal(counts.to_numpy(), expected)
    assert counts.num_classes == num_classes
    with pytest.raises(InputError, match="single images"):
        counts.update(labels=labels, predictions=predictions)


def test_a_thousand_classes():
    labels, predictions = drawn(1000, dtype=np.int16, shape=(2, 100, 100))
    counts = update()(ConfusionMatrix.zero(1000), labels, predictions)
    np.testing.assert_array_equal(counts.to_numpy(), counted(labels, predictions, 1000))


def test_a_thousand_classes_need_little_memory():
    """One table for the batch, not one for each image."""
    labels = jax.ShapeDtypeStruct((64, 32, 32), jnp.int32)
    counts = jax.eval_shape(lambda: ConfusionMatrix.zero(1000))
    memory = update().lower(counts, labels, labels).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 5 * 1000 * 1000 * 4


tables = st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(
    lambda table: set(table) == set(range(max(table) + 1))
)


@settings(max_examples=20)
@given(table=tables, seed=st.integers(0, 99))
@pytest.mark.slow
def test_merging_counts_is_counting_merged_labels(table, seed):
    labels, predictions = drawn(5, seed)
    counts = update()(ConfusionMatrix.zero(5), labels, predictions).merge(table)
    merged = [np.array([*table, *[255] * 251])[x] for x in (labels, predictions)]
    np.testing.assert_array_equal(counts.to_numpy(), counted(*merged, max(table) + 1))


def test_merging_is_exact_at_any_size():
    merged = matrix([[2**61, 1, 5], [2**61, 2**53, 0], [3, 1, 2**53]]).merge((0, 1, 1))
    assert merged.to_numpy().tolist() == [[2**61, 6], [2**61 + 3, 2**54 + 1]]


@pytest.mark.parametrize("table", [(0, 1), (0, 2, 2), (1, 1, 1), (0, 1, -1), (0.0, 1.0, 1.0)])
def test_tables_that_name_no_classes_are_refused(table):
    with pytest.raises(InputError, match="new class for each of 3"):
        ConfusionMatrix.zero(3).merge(table)
