"""jaxseg: image segmentation in JAX.

Its packages (`jaxseg.models`, `jaxseg.losses`, `jaxseg.train`, ...) are imported on first use (PEP 562), so that
`import jaxseg` imports only jax, flax and optax.
"""

import importlib
import typing

__version__ = "0.2.0"

_ROOMS = frozenset(
    [
        "collective",
        "compiler",
        "data",
        "distance",
        "encoders",
        "errors",
        "inference",
        "losses",
        "metrics",
        "models",
        "nn",
        "parallel",
        "pretrained",
        "recipe",
        "registry",
        "report",
        "runs",
        "tasks",
        "train",
        "tree_paths",
        "typing",
    ]
)
_NAMES = {
    "create": "models",
    "init": "train",
    "predict": "inference",
    "Output": "typing",
    "Recipe": "recipe",
}

if typing.TYPE_CHECKING:
    from jaxseg import (
        collective,
        compiler,
        data,
        distance,
        encoders,
        errors,
        inference,
        losses,
        metrics,
        models,
        nn,
        parallel,
        pretrained,
        recipe,
        registry,
        report,
        runs,
        tasks,
        train,
        tree_paths,
    )
    from jaxseg.inference import predict
    from jaxseg.models import create
    from jaxseg.recipe import Recipe
    from jaxseg.train import init
    from jaxseg.typing import Output

__all__ = sorted(_ROOMS - {"typing"}) + sorted(_NAMES)


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"jaxseg.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jaxseg.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_ROOMS, *_NAMES])
