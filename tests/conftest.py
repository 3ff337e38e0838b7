"""Fixtures shared by several folders: a small network with BatchNorm and a batch with unevenly ignored pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses
from jaxseg.nn import BatchNorm, Dropout
from jaxseg.typing import Output

K = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks cases of tests with `sample(quick, slow)`: as slow, and what is neither as full, too."""
    groups = {}
    for item in items:
        if item.get_closest_marker("sample"):
            groups.setdefault((item.parent, item.originalname), []).append(item)
    for group in groups.values():
        quick, *slow = group[0].get_closest_marker("sample").args
        every = set(range(len(group)))
        quick, slow = evenly(len(group), quick), every if not slow else evenly(len(group), *slow)
        for i in every - quick:
            group[i].add_marker(pytest.mark.slow)
            if i not in slow:
                group[i].add_marker(pytest.mark.full)


def evenly(count, n):
    """Returns `n` indices below `count`, all of them if there are fewer."""
    return set(np.linspace(0, count - 1, min(n, count)).astype(int).tolist())


class ConvNet(nn.Module):
    """Two convolutions with BatchNorm between them, ours or Flax's own."""

    param_dtype: type = jnp.float32
    flax_norm: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        x = images.astype(self.param_dtype)
        wide = {"use_bias": False, "param_dtype": self.param_dtype}  # a bias would get no gradient
        x = nn.Conv(4, (3, 3), name="conv", **wide)(x)
        if self.flax_norm:
            norm = nn.BatchNorm(not train, momentum=0.9, param_dtype=self.param_dtype, name="norm")
            x = norm(x)
        else:
            x = BatchNorm(param_dtype=self.param_dtype, name="norm")(x, train=train)
        x = nn.relu(x)
        return Output(nn.Conv(K, (1, 1), param_dtype=self.param_dtype, name="head")(x))


class PlainNet(nn.Module):
    """One linear map of each pixel, without statistics, with dropout on request."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        x = Dropout(self.rate)(images, train=train)
        return Output(nn.Dense(K, name="head")(x))


@pytest.fixture(scope="session")
def conv_net():
    return ConvNet


@pytest.fixture(scope="session")
def plain_net():
    return PlainNet


@pytest.fixture(scope="session")
def batch():
    """Eight images; of two devices one, of four devices one or more have nothing but ignored pixels."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 6, 5, 2))
    labels = rng.integers(0, K, (8, 6, 5)).astype(np.uint8)
    labels[4:] = 255
    labels[0, :4] = 255
    labels[1, :, 1] = 255
    return {"image": images, "label": labels}


@pytest.fixture(scope="session")
def loss_fn():
    return losses.make_loss_fn({"cross_entropy": 1.0, "dice": 0.5}, class_weights=[1.0, 2.0, 0.5])


@pytest.fixture(scope="session")
def optimizer():
    return optax.sgd(0.1, momentum=0.9)


@pytest.fixture
def compiled(caplog):
    """How often a program was compiled since the test began, by its name."""
    jax.config.update("jax_log_compiles", True)
    yield lambda name: sum(f"XLA compilation of jit({name})" in text for text in caplog.messages)
    jax.config.update("jax_log_compiles", False)
