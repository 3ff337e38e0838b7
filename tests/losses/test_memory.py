"""Memory of a compiled `value_and_grad` beside its arguments and results. Nothing is run."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxseg import compiler, losses

CASES = {
    "cross_entropy": losses.cross_entropy,
    "label_smoothing": functools.partial(losses.cross_entropy, label_smoothing=0.1),
    "focal": losses.focal_loss,
    "poly": losses.poly_loss,
    "ohem": losses.ohem_cross_entropy,
    "topk": losses.topk_cross_entropy,
    "dice": losses.dice_loss,
}
# In float32 logits: 1 for cross-entropies and 2 for others, plus sums of rows and, for OHEM, a mask of a byte per logit.
# XLA of jax 0.12 keeps one map of the logits' size more for 3 to 21 classes.
MORE = 1.0 if jax.__version_info__ >= (0, 11) else 0.0
LIMITS = {name: 2.0 + MORE for name in CASES} | {
    "cross_entropy": 1.1 + MORE,
    "label_smoothing": 1.1 + MORE,
    "ohem": 2.4 + MORE,
    "topk": 2.4 + MORE,
}
SIZE = (2, 64, 64)


def temporaries(loss, num_classes, dtype=jnp.float32, multilabel=False, size=SIZE):
    """Temporary bytes of the program, compiled as a train step is, per byte of the logits in float32."""
    logits = jax.ShapeDtypeStruct((*size, num_classes), dtype)
    labels = jax.ShapeDtypeStruct(logits.shape if multilabel else size, jnp.int32)
    compiled = compiler.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * logits.size)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 9, 12, 21, 150])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(10)
def test_temporaries_stay_below_limit(name, num_classes):
    assert temporaries(CASES[name], num_classes) < LIMITS[name]


@pytest.mark.parametrize("num_classes", [1, 2, 3, 9, 12, 21, 150])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(7)
def test_temporaries_bfloat16_add_one_float32_copy(name, num_classes):
    assert temporaries(CASES[name], num_classes, jnp.bfloat16) < LIMITS[name] + 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(2)
def test_temporaries_multilabel_stay_below_limit(name):
    assert temporaries(CASES[name], 3, multilabel=True) < LIMITS[name]
    assert temporaries(CASES[name], 3, jnp.bfloat16, multilabel=True) < LIMITS[name] + 1


@pytest.mark.parametrize("num_classes", [11, 12, 21])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(3)
def test_temporaries_weighted_stay_below_limit(name, num_classes):
    weighted = functools.partial(CASES[name], class_weights=jnp.ones(num_classes))
    assert temporaries(weighted, num_classes) < LIMITS[name]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(2)
def test_temporaries_odd_size_stay_below_limit(name):
    assert temporaries(CASES[name], 2, size=(2, 48, 83)) < LIMITS[name]


def test_temporaries_of_kept_maps_exceed_every_limit():
    """The gradient of a scan keeps the map of each step."""

    def repeated_sine(logits, labels):
        return jax.lax.scan(lambda x, _: (jnp.sin(x), None), logits, length=4)[0].sum()

    assert temporaries(repeated_sine, 21) > max(LIMITS.values())
