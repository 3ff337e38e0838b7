"""Fixtures for comparisons with PyTorch's world."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import peers

from jaxseg import pretrained

sys.path.append(str(Path(__file__).parent))  # torch_fcn and make_references lie beside it


def _fixture(name):
    @pytest.fixture(scope="session", name=name)
    def peer():
        try:
            return peers.load(name)
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported here: {error}")

    return peer


torch = _fixture("torch")
timm = _fixture("timm")
smp = _fixture("segmentation_models_pytorch")
torchvision = _fixture("torchvision")


def template_of(model, channels=3):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))


@pytest.fixture(scope="session")
def shapes_of():
    """A function that gives the names and shapes of a model's state dict."""

    def names(model, source, channels=3):
        template = template_of(model, channels)
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), template)
        state_dict = pretrained.to_torch(model, zeros, source=source)
        return {name: value.shape for name, value in state_dict.items()}

    return names


@pytest.fixture(scope="session")
def variables_like(shapes_of):
    """A function that makes a state dict with random values, and a model's variables of it."""

    def make(model, source, channels=3, state_dict=None):
        template = template_of(model, channels)
        if state_dict is None:
            state_dict = peers.weights(shapes_of(model, source, channels))
        return state_dict, pretrained.from_torch(model, template, state_dict, source=source)

    return make


@pytest.fixture(scope="session")
def run_torch(torch):
    """A function that evaluates a torch model with these weights, all of them, on NHWC images."""

    def to_numpy(y):
        return y.numpy().transpose(0, 2, 3, 1) if y.ndim == 4 else y.numpy()

    def run(model, state_dict, images):
        model.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()}, strict=True)
        with torch.no_grad():
            y = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return [to_numpy(f) for f in y] if isinstance(y, list | tuple) else to_numpy(y)

    return run
