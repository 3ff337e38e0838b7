"""jaxseg: image segmentation in JAX.

The rooms (`jaxseg.models`, `jaxseg.losses`, `jaxseg.train`, ...) are imported on first use (PEP 562), so that
`import jaxseg` needs no more than jax, flax and optax.
"""

import importlib
import typing

__version__ = "0.1.0"

_ROOMS = frozenset(
    [
        "classifiers",
        "collective",
        "compiler",
        "data",
        "decoders",
        "distance",
        "encoders",
        "errors",
        "inference",
        "losses",
        "metrics",
        "models",
        "networks",
        "nn",
        "pretrained",
        "recipe",
        "report",
        "train",
        "typing",
    ]
)
_NAMES = {"create": "models", "Output": "typing", "Recipe": "recipe"}

if typing.TYPE_CHECKING:
    from jaxseg import (
        classifiers,
        collective,
        compiler,
        data,
        decoders,
        distance,
        encoders,
        errors,
        inference,
        losses,
        metrics,
        models,
        networks,
        nn,
        pretrained,
        recipe,
        report,
        train,
    )
    from jaxseg.models import create
    from jaxseg.recipe import Recipe
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
