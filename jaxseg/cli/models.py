"""`jaxseg models`: the architectures and encoders that a recipe can name, with their sizes."""

import inspect
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from rich.table import Table

from jaxseg import encoders, models
from jaxseg.cli import arguments
from jaxseg.cli.progress import console
from jaxseg.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Lists what `create` knows; parameters are counted, nothing is computed."""
    parser = arguments.parser("models", "List architectures and encoders with their parameters.")
    parser.parse_args(argv)
    standing = [name for name in models.names() if models.takes_encoder(name)]
    table = Table("encoder", *standing, title="Parameters for 21 classes, in millions")
    for encoder in encoders.names():
        table.add_row(encoder, *(_millions(name, encoder) for name in standing))
    table.add_section()
    for name in models.names():
        if name not in standing:
            table.add_row(f"{name}: {_millions(name, None)}")
    shown = console()
    shown.print(table)
    for name in models.names():
        summary = (inspect.getdoc(getattr(models, name)) or "").partition("\n")[0]
        shown.print(f"{name}: {summary}")
    shown.print('An encoder of your own: --model.encoder "package.module:builder"')
    return 0


def _millions(name: str, encoder: str | None) -> str:
    """Parameters in millions, or a dash where the architecture does not stand on the encoder."""
    try:
        model = models.create(name, encoder=encoder, num_classes=21)
    except InputError:
        return "-"
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return f"{sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) / 1e6:.1f}"
