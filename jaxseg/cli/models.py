"""`jaxseg models`: the architectures and encoders that a recipe can name, with their sizes."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.table import Table

from jaxseg import encoders, models
from jaxseg.cli import arguments
from jaxseg.cli.progress import console
from jaxseg.errors import InputError

_USUAL = ("resnet18", "vgg16")
"""The encoders that architectures are shown on, the first of them that one stands on."""


def main(argv: Sequence[str]) -> int:
    """Lists what `create` knows; parameters are counted, nothing is computed."""
    parser = arguments.parser("models", "List architectures and encoders with their parameters.")
    parser.parse_args(argv)
    architectures = Table("architecture", "on", "millions", "what it is")
    for name in models.names():
        encoder, model = _on_usual(name)
        summary = (inspect.getdoc(getattr(models, name)) or "").partition("\n")[0]
        architectures.add_row(name, encoder, _millions(model), summary)
    backbones = Table("encoder", "millions", "channels of its features")
    for name in encoders.names():
        encoder = encoders.create(name)
        backbones.add_row(name, _millions(encoder), " ".join(map(str, encoder.channels)))
    shown = console()
    shown.print("Parameters, those of architectures for 21 classes:")
    shown.print(architectures)
    shown.print(backbones)
    shown.print('An encoder of your own: --model.encoder "package.module:builder"')
    return 0


def _on_usual(name: str) -> tuple[str, Any]:
    """An architecture on the first encoder that it stands on, and that one's name."""
    if not models.takes_encoder(name):
        return "-", models.create(name, num_classes=21)
    for encoder in (*_USUAL, *encoders.names()):
        try:
            return encoder, models.create(name, encoder=encoder, num_classes=21)
        except InputError:
            continue
    raise InputError(f"model {name!r} stands on no encoder of jaxseg")


def _millions(module: Any) -> str:
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return f"{sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) / 1e6:.1f}"
