import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix, MultilabelCounts

F2 = functools.partial(metrics.f_beta, beta=2.0)
PER_CLASS = {
    "iou": metrics.iou,
    "dice": metrics.dice,
    "f2": F2,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
}
SCALARS = {
    "pixel_accuracy": metrics.pixel_accuracy,
    "mean_accuracy": metrics.mean_accuracy,
    "mean_iou": metrics.mean_iou,
    "mean_dice": metrics.mean_dice,
    "frequency_weighted_iou": metrics.frequency_weighted_iou,
    "micro_iou": functools.partial(metrics.micro, metrics.iou),
    "micro_specificity": functools.partial(metrics.micro, metrics.specificity),
    "macro_f2": functools.partial(metrics.macro, F2),
    "weighted_precision": functools.partial(metrics.weighted, metrics.precision),
    "foreground_iou": lambda counts: metrics.macro(metrics.iou, metrics.foreground(counts)),
    "cohen_kappa": metrics.cohen_kappa,
    "matthews_correlation": metrics.matthews_correlation,
}
SCORES = PER_CLASS | SCALARS
TABLES = {"pixel_accuracy", "cohen_kappa", "matthews_correlation"}


@functools.cache
def everything(names=tuple(SCORES)):
    """All scores, compiled once for each shape of counts."""
    return jax.jit(lambda counts: {name: SCORES[name](counts) for name in names})


def counts_of(labels, predictions, num_classes):
    counts = ConfusionMatrix.zero(num_classes)
    return counts.update(labels=jnp.asarray(labels), predictions=jnp.asarray(predictions))


def limbs_of(values):
    """Limbs of Python's integers of any size."""
    values = np.asarray(values, object)
    return np.stack([(values >> s & 0xFFFFFF).astype(np.uint32) for s in (0, 24, 48)], -1)


def matrix(values):
    return ConfusionMatrix(jnp.asarray(limbs_of(values)))


def divided(a, b):
    return Fraction(a, b) if b else None


def mean(values, weights=None):
    weights = [1] * len(values) if weights is None else weights
    pairs = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    return divided(sum(v * w for v, w in pairs), sum(w for _, w in pairs))


def in_fractions(table):
    """Every score of `[K][K]` counts in whole numbers and fractions; roots are rounded, nothing else is."""
    classes = range(len(table))
    total = sum(map(sum, table))
    true = [sum(row) for row in table]
    predicted = [sum(row[c] for row in table) for c in classes]
    tp = [table[c][c] for c in classes]
    fp, fn = ([x - y for x, y in zip(marginal, tp, strict=True)] for marginal in (predicted, true))
    tn = [total - a - b - c for a, b, c in zip(tp, fp, fn, strict=True)]
    rows = list(zip(tp, fp, fn, tn, strict=True))
    forms = {
        "iou": lambda tp, fp, fn, tn: divided(tp, tp + fp + fn),
        "dice": lambda tp, fp, fn, tn: divided(2 * tp, 2 * tp + fp + fn),
        "f2": lambda tp, fp, fn, tn: divided(5 * tp, 5 * tp + 4 * fn + fp),
        "precision": lambda tp, fp, fn, tn: divided(tp, tp + fp),
        "recall": lambda tp, fp, fn, tn: divided(tp, tp + fn),
        "specificity": lambda tp, fp, fn, tn: divided(tn, tn + fp),
    }
    scores = {name: [form(*row) for row in rows] for name, form in forms.items()}
    pooled = [sum(part) for part in (tp, fp, fn, tn)]
    chance = sum(t * p for t, p in zip(true, predicted, strict=True))
    spread = [total**2 - sum(x * x for x in marginal) for marginal in (true, predicted)]
    found = total * sum(tp) - chance
    root = float(spread[0]) ** 0.5 * float(spread[1]) ** 0.5
    scalars = {
        "pixel_accuracy": divided(sum(tp), total),
        "mean_accuracy": mean(scores["recall"]),
        "mean_iou": mean(scores["iou"]),
        "mean_dice": mean(scores["dice"]),
        "frequency_weighted_iou": mean(scores["iou"], true),
        "micro_iou": forms["iou"](*pooled),
        "micro_specificity": forms["specificity"](*pooled),
        "macro_f2": mean(scores["f2"]),
        "weighted_precision": mean(scores["precision"], true),
        "foreground_iou": mean(scores["iou"][1:]),
        "cohen_kappa": divided(found, total**2 - chance),
        "matthews_correlation": float(found) / root if root else None,
    }
    return {
        name: np.array([np.nan if v is None else float(v) for v in np.atleast_1d(values)])
        for name, values in (scores | scalars).items()
    }


def check(table, atol=1e-6):
    """On the device in float32 and on the host in float64."""
    expected = in_fractions(table)
    found = everything()(matrix(table))
    host = {name: score(np.array(table, np.int64)) for name, score in SCORES.items()}
    for name, values in expected.items():
        values = values if name in PER_CLASS else values[0]
        np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)
        np.testing.assert_allclose(host[name], values, rtol=0, atol=1e-12, err_msg=name)
        assert found[name].dtype == jnp.float32
        assert host[name].dtype == np.float64


count = st.one_of(
    st.just(0),
    st.integers(0, 9),
    st.integers(0, 2**20),
    st.integers(0, 2**58),
    st.sampled_from([2**24 - 1, 2**24 + 1, 2**32, 2**53 + 1, 10**12]),
)


@settings(max_examples=300)
@given(st.lists(st.lists(count, min_size=3, max_size=3), min_size=3, max_size=3))
@pytest.mark.slow
def test_scores_are_those_of_fractions(table):
    check(table)


@pytest.mark.parametrize(
    "table",
    [
        [[10**12 - 10**8, 0, 0], [0, 10**8, 0], [0, 0, 0]],
        [[10**12, 10**4, 3], [10**4, 1, 0], [7, 0, 1]],  # 99.99 % one class, kappa near zero
        [[10**12, 10**6, 10**6], [10**6, 1, 1], [10**6, 1, 1]],  # kappa 1e-6 below zero
        [[10**6, 10**6, 10**6]] * 3,  # kappa and correlation are exactly zero
        [[2**56 + 1, 2**56, 2**56], [2**56, 2**56 + 1, 2**56], [2**56, 2**56, 2**56 + 1]],
        [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 2**61, 0], [2**61, 0, 0], [0, 0, 0]],
    ],
)
def test_unbalanced_huge_and_nearly_empty_counts(table):
    check(table)


def test_float32_alone_would_lose_kappa():
    """What subtracting shares in float32 gives for one of the tables above."""
    table = np.array([[10**12, 10**6, 10**6], [10**6, 1, 1], [10**6, 1, 1]])
    shares = (table / table.sum()).astype(np.float32)
    observed = np.trace(shares)
    expected = (shares.sum(0) * shares.sum(1)).sum(dtype=np.float32)
    naive = (observed - expected) / (1 - expected)
    exact = in_fractions(table.tolist())["cohen_kappa"][0]
    assert abs(naive - exact) > 1e-3
    assert abs(float(metrics.cohen_kappa(matrix(table))) - exact) < 1e-9


@pytest.mark.parametrize("num_classes", [150, 1000])
@pytest.mark.sample(1)
def test_means_over_many_classes_keep_their_digits(num_classes):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 2**16, (num_classes, num_classes))
    table[np.diag_indices(num_classes)] = rng.integers(0, 2**36, num_classes)
    names = ("mean_iou", "frequency_weighted_iou", "micro_iou", "cohen_kappa", "pixel_accuracy")
    found = everything(names)(ConfusionMatrix(jnp.asarray(limbs_of(table))))
    for name in names:
        np.testing.assert_allclose(found[name], SCORES[name](table), rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", SCORES)
def test_every_kind_of_counts_is_scored_alike(name):
    table = np.array([[5, 1, 0], [2, 7, 0], [0, 0, 0]])
    expected = SCORES[name](table)
    score = SCORES[name]
    for counts in (matrix(table), jnp.asarray(table), jnp.asarray(table, jnp.uint8)):
        np.testing.assert_allclose(score(counts), expected, atol=1e-6)
        assert isinstance(score(counts), jax.Array)
    for counts in (jax.device_get(matrix(table)), table.astype(np.float32), table.tolist()):
        np.testing.assert_array_equal(score(counts), expected)
        assert isinstance(score(counts), np.ndarray | np.floating)
    if name not in TABLES:
        np.testing.assert_array_equal(score(metrics.confusion_counts(table)), expected)


@pytest.mark.slow
def test_x64_scores_in_float64():
    with jax.enable_x64(True):
        table = np.array([[10**12, 3], [10**5, 1]])
        for counts in (matrix(table), jnp.asarray(table)):
            for name, score in SCORES.items():
                np.testing.assert_allclose(score(counts), score(table), rtol=1e-12, err_msg=name)
                assert score(counts).dtype == jnp.float64


@pytest.mark.slow
def test_counts_of_several_images_are_scored_in_parallel():
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 50, (4, 3, 3))
    tables[1] = 0
    together = ConfusionMatrix(jnp.asarray(limbs_of(tables)))
    found = everything()(together)
    mapped = jax.jit(jax.vmap(everything().__wrapped__))(together)
    for name, score in SCORES.items():
        expected = [score(table) for table in tables]
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(mapped[name], expected, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_multilabel_counts_are_scored_table_by_table():
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 50, (3, 2, 2))
    counts = MultilabelCounts(jnp.asarray(limbs_of(tables)))
    for name, score in PER_CLASS.items():
        expected = [score(table)[1] for table in tables]
        np.testing.assert_allclose(score(counts), expected, atol=1e-6, err_msg=name)
        parts = metrics.ConfusionCounts(
            *(part.sum(keepdims=True) for part in metrics.confusion_counts(counts))
        )
        np.testing.assert_allclose(metrics.micro(score, counts), score(parts)[0], atol=1e-6)
    for name in ("cohen_kappa", "matthews_correlation"):
        expected = [SCORES[name](table) for table in tables]
        np.testing.assert_allclose(SCORES[name](counts), expected, atol=1e-6)
    right = tables[:, [0, 1], [0, 1]].sum()
    np.testing.assert_allclose(metrics.pixel_accuracy(counts), right / tables.sum(), atol=1e-6)
    several = MultilabelCounts(jnp.asarray(limbs_of(np.stack([tables, tables + 1]))))
    assert metrics.pixel_accuracy(several).shape == (2,)
    assert metrics.mean_iou(several).shape == (2,)


def test_an_absent_class_is_neither_right_nor_wrong():
    counts = np.array([[5, 0, 0], [0, 0, 0], [0, 0, 5]])
    np.testing.assert_array_equal(metrics.iou(counts), [1, np.nan, 1])
    assert (
        metrics.mean_iou(counts) == metrics.mean_dice(counts) == metrics.mean_accuracy(counts) == 1
    )


def test_a_class_that_is_only_predicted_scores_zero():
    counts = np.array([[4, 1], [0, 0]])
    np.testing.assert_array_equal(metrics.iou(counts), [0.8, 0])
    assert metrics.mean_iou(counts) == 0.4
    assert metrics.mean_accuracy(counts) == 0.8


def test_a_prediction_that_is_wrong_everywhere_scores_zero():
    """With 8 of 10 classes absent, counting each of those as 1 makes it 0.80 (smp's zero_division=1)."""
    labels = np.array([[[0, 1, 0, 1]]])
    counts = counts_of(labels, 1 - labels, 10).to_numpy()
    assert (
        metrics.mean_iou(counts) == metrics.mean_dice(counts) == metrics.pixel_accuracy(counts) == 0
    )
    assert np.isnan(metrics.iou(counts)).sum() == 8
    smp = np.where(np.isnan(metrics.iou(counts)), 1, metrics.iou(counts)).mean()
    assert smp == 0.8


def test_scores_are_those_of_the_data_set_not_the_mean_of_images():
    """992 of 1000 pixels found, all in one image: IoU is 0.992; the mean of images is 0.5 (torchmetrics' MeanIoU)."""
    labels = np.zeros((2, 40, 40), np.int32)
    labels[0].ravel()[:992] = 1
    labels[1].ravel()[:8] = 1
    predictions = labels.copy()
    predictions[1] = 0
    together = counts_of(labels, predictions, 2)
    one, other = (counts_of(labels[i : i + 1], predictions[i : i + 1], 2) for i in range(2))
    assert metrics.iou((one + other).to_numpy())[1] == metrics.iou(together.to_numpy())[1] == 0.992
    assert np.mean([metrics.iou(c.to_numpy())[1] for c in (one, other)]) == 0.5


def test_mean_is_over_classes_not_over_pixels():
    """Micro-averaged IoU is 98 / 102."""
    counts = np.array([[98, 0], [2, 0]])
    assert metrics.mean_iou(counts) == (98 / 100 + 0) / 2
    assert metrics.micro(metrics.iou, counts) == 98 / 102


def test_micro_scores_of_exclusive_classes_are_the_pixel_accuracy():
    table = np.random.default_rng(0).integers(0, 99, (4, 4))
    for score in (metrics.precision, metrics.recall, metrics.dice):
        assert metrics.micro(score, table) == pytest.approx(metrics.pixel_accuracy(table))


def test_f_beta_lies_between_precision_and_recall():
    table = np.random.default_rng(0).integers(1, 99, (4, 4))
    np.testing.assert_allclose(metrics.f_beta(table, beta=0), metrics.precision(table))
    np.testing.assert_allclose(metrics.f_beta(table, beta=1e6), metrics.recall(table), rtol=1e-9)
    np.testing.assert_allclose(metrics.f_beta(table, beta=1), metrics.dice(table))


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=4, max_size=4),
    st.permutations(range(4)),
)
def test_permuting_classes_permutes_scores(table, order):
    table, order = np.array(table), list(order)
    for name, score in SCORES.items():
        moved = score(table[np.ix_(order, order)])
        expected = score(table)
        if name in PER_CLASS:
            expected = expected[order]
        if name != "foreground_iou":
            np.testing.assert_allclose(moved, expected, rtol=1e-12, err_msg=name)


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=3, max_size=3),
    st.sampled_from([2, 1000, 2**40]),
)
def test_scores_do_not_depend_on_how_often_a_data_set_is_seen(table, times):
    table = np.array(table)
    for name, score in SCORES.items():
        np.testing.assert_allclose(score(times * table), score(table), rtol=1e-12, err_msg=name)


def test_without_pixels_there_is_no_score():
    for name, score in SCORES.items():
        for counts in (
            np.zeros((3, 3), np.int64),
            ConfusionMatrix.zero(3),
            jnp.zeros((3, 3), jnp.int32),
        ):
            result = score(counts)
            assert np.isnan(result).all(), name
            assert np.shape(result) == ((3,) if name in PER_CLASS else ())


def test_bad_input_is_named():
    for name, score in SCORES.items():
        with pytest.raises(InputError, match=r"\[K, K\].*\(2, 3\)"):
            score(np.zeros((2, 3), np.int64))
        with pytest.raises(InputError, match="whole numbers"):
            score(np.full((2, 2), 0.25))
        with pytest.raises(InputError, match="whole numbers of pixels, not float32"):
            score(jnp.ones((2, 2)))
        with pytest.raises(InputError, match="not negative, one is -3"):
            score(np.full((2, 2), -3))
        if name in TABLES:
            with pytest.raises(InputError, match="whole tables"):
                score(metrics.confusion_counts(np.eye(2, dtype=int)))
    for beta in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="beta is"):
            metrics.f_beta(np.eye(2, dtype=int), beta=beta)
