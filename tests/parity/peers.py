"""The peers to compare with, and weights for both sides that depend on names and shapes alone.

Imported by the tests of this folder and by `make_references.py`; neither torch nor a peer is
imported before it is asked for.
"""

import importlib
import sys
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import jax
import numpy as np

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def load(name: str) -> ModuleType:
    """A peer's module; ImportError where it cannot be imported.

    Released wheels of torchvision, which timm and segmentation_models_pytorch need, do not import
    beside a CPU-only torch unless stand-ins for its compiled operators are registered first, which
    `../shared/reference/torch_cpu.py` does where it is at hand.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name != "torch":
            if REFERENCE.is_dir() and str(REFERENCE) not in sys.path:
                sys.path.append(str(REFERENCE))
            if REFERENCE.is_dir():
                importlib.import_module("torch_cpu")
        try:
            return importlib.import_module(name)
        except RuntimeError as error:  # what torchvision raises beside a torch it was not built for
            raise ImportError(f"{name}: {error}") from error


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict with random values, BatchNorm's scales, biases and statistics among them.

    Every tensor has a generator of its own, seeded by its name, so that both sides agree whatever
    their order. The sizes keep activations near one through the deepest network.
    """
    return {name: _weight(name, shape, seed) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    if len(shape) > 1:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("weight"):
        values = rng.uniform(0.2, 0.8, shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal noise `[N, H, W, C]`."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fast_jit(function):
    """Small shapes run once: what counts is the time to compile."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
