"""Writes the tables of models, encoders and weights of the README and of docs/models.md from the registries.

    python experiments/readme/tables.py

Whether weights of a library fill a network is found by converting zeros there and back.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import encoders, models, pretrained, registry
from jaxseg.errors import InputError
from jaxseg.pretrained.weights import SOURCES

ROOT = Path(__file__).parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "models.md"
CLASSES = 21
MARKS = ("<!-- models -->\n", "<!-- end of models -->")
INTRODUCTION = f"""# Models, encoders and weights

Written by `python experiments/readme/tables.py` from the registries. Any encoder of your own works wherever encoders of
several families do; see [guides/extending.md](guides/extending.md). Parameters are in millions, those of architectures for
{CLASSES} classes.
"""


def families() -> dict[str, list[str]]:
    """Returns the names of the encoders of each family, in the order of the registry."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in encoders.names():
        found[type(encoders.create(name)).__name__].append(name)
    return dict(found)


def shapes(module: Any) -> Any:
    """Returns the shapes of a module's variables for images with three channels."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def millions(module: Any) -> str:
    """Formats the number of a module's parameters."""
    return f"{sum(leaf.size for leaf in jax.tree.leaves(shapes(module)['params'])) / 1e6:.1f}"


def sources(module: Any) -> list[str]:
    """Returns the libraries whose weights fill all variables of a model or an encoder."""
    like = shapes(module)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), like)
    found = []
    for source in SOURCES:
        try:
            weights = pretrained.to_torch(module, zeros, source=source)
            pretrained.from_torch(module, like, weights, source=source)
        except InputError:
            continue
        found.append(source)
    return found


def build(name: str) -> dict[str, Any]:
    """Returns an architecture with the first encoder of each family that it takes; `""` if it takes none.

    Args:
        name: The architecture.
    """
    if not models.takes_encoder(name):
        return {"": models.create(name, num_classes=CLASSES)}
    built = {}
    for family, (encoder, *_) in families().items():
        try:
            built[family] = models.create(name, encoder=encoder, num_classes=CLASSES)
        except InputError:
            continue
    return built


def architecture_cells(name: str) -> tuple[str, str]:
    """Returns the encoders that an architecture takes, and the libraries whose weights fill it."""
    built = build(name)
    fillable = defaultdict(list)
    for family, model in built.items():
        for source in sources(model):
            fillable[source].append(family)
    everywhere = [source for source, of in fillable.items() if len(of) == len(built)]
    partly = [f"{s} ({', '.join(of)})" for s, of in fillable.items() if s not in everywhere]
    takes_any = len(built) == len(families())
    takes = "any" if takes_any else ", ".join(filter(None, built)) or "none to choose"
    return takes, ", ".join([*everywhere, *partly]) or "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def quoted(names: Iterable[str]) -> str:
    """Formats names as code."""
    return ", ".join(f"`{name}`" for name in names)


def short_tables() -> str:
    """Returns the tables of the README: what has equal encoders and weights shares a row."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in models.names():
        groups[architecture_cells(name)].append(name)
    architectures = table(
        ("architecture", "encoders", "weights of complete networks"),
        ((quoted(names), *cells) for cells, names in groups.items()),
    )
    sharing: dict[str, list[str]] = defaultdict(list)
    for family, (first, *others) in families().items():
        more = f" and {len(others)} more" if others else ""
        weights = ", ".join(sources(encoders.create(first))) or "-"
        sharing[weights].append(f"{family}: `{first}`{more}")
    rows = (("; ".join(found), weights) for weights, found in sharing.items())
    return architectures + "\n\n" + table(("encoder families", "weights"), rows)


def summary(builder: Any) -> str:
    """Returns the first line of a builder's docstring, also for a partial function."""
    return (inspect.getdoc(getattr(builder, "func", builder)) or "").partition("\n")[0]


def architecture_rows() -> Iterable[tuple[str, ...]]:
    """Yields a row for each architecture."""
    for name in models.names():
        family, model = next(iter(build(name).items()))
        takes, fillable = architecture_cells(name)
        on = f" on {families()[family][0]}" if family else ""
        yield f"`{name}`", summary(models.MODELS[name]), takes, millions(model) + on, fillable


def encoder_rows() -> Iterable[tuple[str, ...]]:
    """Yields a row for each encoder."""
    for name in encoders.names():
        encoder = encoders.create(name)
        strides, channels = (" ".join(map(str, x)) for x in (encoder.strides, encoder.channels))
        yield f"`{name}`", millions(encoder), strides, channels, ", ".join(sources(encoder)) or "-"


def option_rows() -> Iterable[tuple[str, ...]]:
    """Yields a row with the options of each architecture, and of each family of encoders."""
    for name in models.names():
        known = registry.options(models.MODELS[name]) or []
        yield f"`{name}`", quoted(o for o in known if o not in ("num_classes", "encoder")) or "-"
    for family, names in families().items():
        yield family, quoted(encoders.options(names[0]) or [])


def page() -> str:
    """Returns docs/models.md."""
    head = ("architecture", "description", "encoders", "parameters", "weights of complete networks")
    encoder_head = ("encoder", "parameters", "strides", "channels", "weights")
    return (
        "\n\n".join(
            [
                INTRODUCTION.rstrip(),
                "## Architectures",
                table(head, architecture_rows()),
                "## Encoders",
                table(encoder_head, encoder_rows()),
                "## Options",
                "`--model.options NAME VALUE` and `--model.encoder-options NAME VALUE` on the command line, keyword arguments in Python.",
                table(("builder", "options"), option_rows()),
                "",
            ]
        ).rstrip()
        + "\n"
    )


def readme(text: str) -> str:
    """Returns the README with its tables written again."""
    begin, end = map(re.escape, MARKS)
    written = MARKS[0] + "\n" + short_tables() + "\n\n" + MARKS[1]
    text = re.sub(f"{begin}.*?{end}", lambda _: written, text, flags=re.DOTALL)
    return re.sub(r"(\| semantic architectures \|) \d+", rf"\1 {len(models.names())}", text)


def main() -> None:
    """Writes both files."""
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
