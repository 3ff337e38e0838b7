"""Small batches with everything in them, and what it takes to compare with the originals in one process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import peers

K = 4


@pytest.fixture
def batch():
    """`batch(num_classes)`: float64 logits and labels; class 2 is absent and image 2 is ignored."""

    def make(num_classes=K, ignore_index=255, dtype=np.int32, seed=0):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(3, 5, 4, num_classes)) * 2
        labels = rng.choice([c for c in range(max(num_classes, 2)) if c != 2], (3, 5, 4))
        ignored = rng.random(labels.shape) < 0.3
        ignored[2] = True
        return logits, np.where(ignored, ignore_index, labels).astype(dtype)

    return make


@pytest.fixture(scope="session")
def batches():
    """`batches(num_classes, shape, ...)`: several pairs of logits and labels, which float32 holds exactly.

    Every image has a counted pixel of every class, `absent` ones excepted.
    """

    def make(num_classes, shape=(3, 5, 4), *, kind="ids", ignored=0.3, absent=(), seeds=(0, 1, 2)):
        return [_batch(s, num_classes, shape, kind, ignored, absent) for s in seeds]

    return make


def _batch(seed, num_classes, shape, kind, ignored, absent):
    rng = np.random.default_rng([seed, num_classes, *shape])
    logits = rng.normal(0, 2, (*shape, num_classes)).astype(np.float32).astype(np.float64)
    there = [c for c in range(max(num_classes, 2)) if c not in absent]
    if kind == "ids":
        labels = rng.choice(there, shape)
        first = labels.reshape(shape[0], -1)[:, : len(there)]
        first[:] = there[: first.shape[1]]
        mask = rng.random(shape) < ignored
        mask.reshape(shape[0], -1)[:, : len(there)] = False
        labels = np.where(mask, 255, labels).astype(np.int32)
    elif kind == "multilabel":
        labels = rng.integers(0, 2, logits.shape)
        labels.reshape(shape[0], -1, num_classes)[:, 0] = 1
        labels[..., list(absent)] = 0
        mask = rng.random(logits.shape) < ignored
        mask.reshape(shape[0], -1, num_classes)[:, 0] = False
        labels = np.where(mask, 255, labels).astype(np.int32)
    else:  # shares of classes, some of them 0 and 1
        labels = rng.integers(0, 5, (*shape, max(num_classes, 2))) + 0.25
        labels = np.where(
            rng.random(shape)[..., None] < 0.3, labels == labels.max(-1, keepdims=True), labels
        )
        labels = (labels / labels.sum(-1, keepdims=True)).astype(np.float32)
        labels = labels[..., 1:] if num_classes == 1 else labels
        labels[rng.random(shape) < ignored] = 255
    return logits, labels


@pytest.fixture(scope="session")
def torch():
    return _load("torch")


@pytest.fixture(scope="session")
def torchvision():
    return _load("torchvision")


@pytest.fixture(scope="session")
def smp_losses():
    return _load("segmentation_models_pytorch").losses


def _load(name):
    try:
        return peers.load(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported here: {error}")


@pytest.fixture
def compare(request, torch):
    """`compare(ours, theirs, batches)`: values and gradients in float64; the first case of a test in float32 as well.

    Both return arrays of one shape, which may be a scalar's; `theirs` is given `[N, K, H, W]` tensors, logits in
    float64 and labels in int64 or float64.
    """

    def compare(ours, theirs, batches, *, rtol=1e-10):
        @jax.jit
        def run(logits, labels):
            value, pull = jax.vjp(lambda z: ours(z, labels), logits)
            return value, pull(jnp.asarray(_cotangent(value.shape), value.dtype))[0]

        for logits, labels in batches:
            expected = _in_torch(torch, theirs, logits, labels)
            with jax.enable_x64(True):
                got = run(jnp.asarray(logits), labels)
            for ours_is, theirs_is in zip(got, expected, strict=True):
                assert ours_is.dtype == jnp.float64
                assert ours_is.shape == theirs_is.shape
                np.testing.assert_allclose(ours_is, theirs_is, rtol=rtol, atol=1e-12)
            if request.node.originalname not in _in_float32:
                _in_float32.add(request.node.originalname)
                for ours_is, theirs_is in zip(
                    run(jnp.asarray(logits, jnp.float32), labels), expected, strict=True
                ):
                    assert ours_is.dtype == jnp.float32
                    largest = np.abs(theirs_is).max()
                    np.testing.assert_allclose(ours_is, theirs_is, rtol=1e-5, atol=1e-5 * largest)

    return compare


_in_float32 = set()
"""Tests of which a case has been compared in float32: one program more to compile."""


def _in_torch(torch, theirs, logits, labels):
    """Value and gradient."""
    z = torch.tensor(_channels_first(logits), requires_grad=True)
    labels = _channels_first(labels)
    labels = labels.astype(np.float64 if labels.dtype.kind == "f" else np.int64)
    value = theirs(z, torch.tensor(labels))
    assert value.dtype == torch.float64
    value.backward(torch.tensor(_cotangent(value.shape)))
    value, gradient = value.detach().numpy(), z.grad.movedim(1, -1).numpy()
    assert np.isfinite(value).all()
    assert np.abs(gradient).max() > 0
    return value, gradient


def _channels_first(x):
    return np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x


def _cotangent(shape):
    """So that a gradient that ended up at another pixel shows; of a scalar, 1."""
    return np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape)
