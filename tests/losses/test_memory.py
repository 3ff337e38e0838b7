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
MANY = (16, 21, 150)
NEW = jax.__version_info__ >= (0, 12)
WRITTEN = pytest.mark.xfail(
    NEW, strict=True, reason="XLA of JAX 0.12 writes what is summed to memory where classes are few"
)


def case(name, num_classes, *, holds):
    """A case, and whether JAX 0.12 holds it as well."""
    return pytest.param(name, num_classes, marks=() if holds else WRITTEN)


def temporaries(loss, num_classes, dtype=jnp.float32, multilabel=False):
    logits = jax.ShapeDtypeStruct((*SIZE, num_classes), dtype)
    labels = jax.ShapeDtypeStruct(logits.shape if multilabel else SIZE, jnp.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (logits.size * logits.dtype.itemsize)


PLAIN = ("cross_entropy", "label_smoothing")


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        *(
            case(name, k, holds=k in MANY or (name in PLAIN and k != 3))
            for name in PIXELWISE
            for k in (1, 2, 3, 4, 16, 21)
        ),
        ("cross_entropy", 150),
    ],
)
def test_pixelwise_losses_need_less_than_their_logits(name, num_classes):
    assert temporaries(PIXELWISE[name], num_classes) < 0.6


@pytest.mark.parametrize(
    ("name", "num_classes"), [case(name, 21, holds=name in PLAIN) for name in PIXELWISE]
)
def test_multilabel_losses_as_well(name, num_classes):
    assert temporaries(PIXELWISE[name], num_classes, multilabel=True) < 0.6


@pytest.mark.parametrize("name", PIXELWISE)
def test_weighted_losses_as_well(name):
    weighted = functools.partial(PIXELWISE[name], class_weights=jnp.ones(21))
    assert temporaries(weighted, 21) < 0.6


BFLOAT16 = [
    *(case(name, k, holds=name in PLAIN and k == 2) for name in PIXELWISE for k in (2, 3, 6)),
    *(
        case(name, 21, holds=name not in ("focal", "poly"))
        for name in PIXELWISE
        if name != "label_smoothing"
    ),
]


@pytest.mark.parametrize(("name", "num_classes"), BFLOAT16)
def test_bfloat16_logits_are_not_copied_to_float32(name, num_classes):
    """Exceptions: one class (0.6, and for mining 2.5), 7 to 16 classes, and label smoothing from 7 on (2 and more)."""
    assert temporaries(PIXELWISE[name], num_classes, jnp.bfloat16) < 0.6


def test_what_automatic_differentiation_would_need():
    """The limit says something: the plain form exceeds it."""

    def plain(logits, labels):
        chosen = jax.nn.one_hot(labels, logits.shape[-1])
        return -(jax.nn.log_softmax(logits) * chosen).sum(-1).mean()

    assert temporaries(plain, 21) > 0.9
