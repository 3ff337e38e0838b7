"""`jaxseg models`: the architectures and encoders that a recipe can name, and pretrained weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.table import Table

from jaxseg import encoders, models, pretrained, registry
from jaxseg.cli import arguments
from jaxseg.runs.progress import console


def main(argv: Sequence[str]) -> int:
    """Lists what the registries hold; parameters are counted, nothing is computed."""
    parser = arguments.parser("models", "List architectures and encoders with their parameters.")
    parser.parse_args(argv)
    architectures = Table("architecture", "on", "millions", "what it is")
    for name, builder in models.MODELS.items():
        encoder = _first_encoder(name)
        model = models.create(name, encoder=encoder, num_classes=21)
        summary = registry.summary(builder)
        architectures.add_row(name, encoder or "-", _millions(model), summary)
    backbones = Table("encoder", "millions", "channels of its features", "pretrained weights")
    for name in encoders.names():
        encoder = encoders.create(name)
        weights = [hub for hub, published in pretrained.HUB.items() if published.builder == name]
        channels = " ".join(map(str, encoder.channels))
        backbones.add_row(name, _millions(encoder), channels, "\n".join(weights))
    shown = console()
    shown.print("Parameters, those of architectures for 21 classes:")
    shown.print(architectures)
    shown.print(backbones)
    shown.print('An encoder of your own: --model.encoder "package.module:builder"')
    return 0


def _first_encoder(name: str) -> str | None:
    """Returns the first encoder that an architecture can stand on, or None if it takes none."""
    if not models.takes_encoder(name):
        return None
    return next(each for each in encoders.names() if models.accepts_encoder(name, each))


def _millions(module: Any) -> str:
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return f"{sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) / 1e6:.1f}"
