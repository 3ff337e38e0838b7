"""What a compiled `value_and_grad` needs beside its arguments and results, in bytes of the logits. Nothing is run."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxseg import losses

PIXELWISE = {
    "cross_entropy": losses.cross_entropy,
    "label_smoothing": functools.partial(losses.cross_entropy, label_smoothing=0.1),
    "focal": losses.focal_loss,
    "poly": losses.poly_loss,
    "ohem": losses.ohem_cross_entropy,
    "topk": losses.topk_cross_entropy,
}
SIZE = (2, 64, 64)


def temporaries(loss, num_classes, dtype=jnp.float32, multilabel=False, size=SIZE):
    logits = jax.ShapeDtypeStruct((*size, num_classes), dtype)
    labels = jax.ShapeDtypeStruct(logits.shape if multilabel else size, jnp.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (logits.size * logits.dtype.itemsize)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_classes", [1, 2, 3, 9, 12, 21, 150])
@pytest.mark.parametrize("name", PIXELWISE)
def test_pixelwise_losses_need_less_than_their_logits(name, num_classes, dtype):
    assert temporaries(PIXELWISE[name], num_classes, dtype) < 0.6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", PIXELWISE)
def test_multilabel_losses_as_well(name, dtype):
    assert temporaries(PIXELWISE[name], 3, dtype, multilabel=True) < 0.6


@pytest.mark.parametrize("num_classes", [11, 12, 21])
@pytest.mark.parametrize("name", PIXELWISE)
def test_weighted_losses_as_well(name, num_classes):
    weighted = functools.partial(PIXELWISE[name], class_weights=jnp.ones(num_classes))
    assert temporaries(weighted, num_classes) < 0.6


@pytest.mark.parametrize("name", PIXELWISE)
def test_columns_that_do_not_divide_as_well(name):
    assert temporaries(PIXELWISE[name], 2, size=(2, 48, 83)) < 0.6


def test_what_automatic_differentiation_would_need():
    """The limit says something: the plain form exceeds it."""

    def plain(logits, labels):
        chosen = jax.nn.one_hot(labels, logits.shape[-1])
        return -(jax.nn.log_softmax(logits) * chosen).sum(-1).mean()

    assert temporaries(plain, 21) > 0.9
