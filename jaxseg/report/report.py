"""A run in one HTML file: numbers, curves, classes, confusions and images, without a single outside reference."""

import html
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

import jaxseg
from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.report import curves, gallery, matrix, tables

Row = Mapping[str, Any]


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    history: Sequence[Row],
    counts: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
    best: Sequence[gallery.Example] = (),
    worst: Sequence[gallery.Example] = (),
    facts: Mapping[str, Any] | None = None,
    ignore_index: int = 255,
) -> Path:
    """Writes `report.html`: one file to keep, to send and to open anywhere.

    Args:
        path: The file to write; replaced in one move once it is complete.
        title: The heading, such as the model and the data set.
        history: The rows of `metrics.jsonl` in order: `{"kind": "train", "step", "loss", "learning_rate"}` and
            `{"kind": "validation", "step", "epoch", "loss", "mean_iou", "pixel_accuracy"}`; others are passed over.
        counts: Confusion counts, an integer array `[K, K]`: rows are the truth, columns the prediction.
        classes: K names.
        palette: K colours, uint8 `[K, 3]`.
        best: Images to show as the best ones.
        worst: Images to show as the worst ones.
        facts: What else to know about the run. A value that is a mapping becomes a table of its own (the recipe, the
            environment); the others stand under the title (parameters, time).
        ignore_index: The label that counts nowhere, drawn as a grey hatch.

    Returns:
        The file's path.

    Raises:
        InputError: Counts that are not a square of integers, or names and colours of another number.

    >>> import tempfile
    >>> counts = np.array([[8, 2], [0, 0]])
    >>> palette = np.array([[30, 30, 30], [240, 90, 60]], np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(
    ...         f"{folder}/report.html", title="A run", history=[], counts=counts, classes=["road", "car"], palette=palette
    ...     )
    ...     path.name, "n/a" in path.read_text(encoding="utf-8")
    ('report.html', True)
    """
    counts, palette = np.asarray(counts), np.asarray(palette)
    size = (len(classes), len(classes))
    if counts.shape != size or counts.dtype.kind not in "iu" or palette.shape != (len(classes), 3):
        raise InputError(
            f"counts of {counts.dtype} {list(counts.shape)} and a palette {list(palette.shape)} for "
            f"{len(classes)} classes: expected integers [K, K] and [K, 3]"
        )
    facts = dict(facts or {})
    short = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    long = {name: value for name, value in facts.items() if isinstance(value, Mapping)}
    template = (
        resources.files("jaxseg.report").joinpath("template.html").read_text(encoding="utf-8")
    )
    page = Template(template).substitute(
        version=html.escape(jaxseg.__version__),
        title=html.escape(title),
        facts=_facts(short),
        headline=_headline(history, counts),
        charts=_charts(history),
        table=tables.class_scores(counts, classes, palette),
        matrix=matrix.confusion(counts, classes),
        examples=_examples(best, worst, classes, palette, ignore_index),
        details=_details(long),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(page, encoding="utf-8")
    return unfinished.replace(path)


def _facts(facts: Row) -> str:
    items = [
        f"<li>{html.escape(name)} <b>{tables.value(value)}</b></li>"
        for name, value in facts.items()
    ]
    return f'<ul class="facts">{"".join(items)}</ul>' if items else ""


def _headline(history: Sequence[Row], counts: np.ndarray) -> str:
    present = int(np.count_nonzero(counts.sum(0) + counts.sum(1)))
    cards = [
        (
            "Mean IoU",
            tables.score(metrics.mean_iou(counts)),
            f"over {present} of {len(counts)} classes",
        ),
        (
            "Pixel accuracy",
            tables.score(metrics.pixel_accuracy(counts)),
            f"of {int(counts.sum()):,} pixels",
        ),
        (
            "Mean accuracy",
            tables.score(metrics.mean_accuracy(counts)),
            "mean recall of the classes",
        ),
    ]
    validations = [
        row for row in _rows(history, "validation") if math.isfinite(row.get("loss", math.nan))
    ]
    if validations:
        row = min(validations, key=lambda row: row["loss"])
        cards.append(("Lowest validation loss", f"{row['loss']:.4g}", f"at step {row['step']:,}"))
    body = "".join(
        f'<div class="card"><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>'
        for name, value, note in cards
    )
    return f'<dl class="headline">{body}</dl>'


def _charts(history: Sequence[Row]) -> str:
    train, validation = _rows(history, "train"), _rows(history, "validation")

    def curve(
        name: str, rows: Sequence[Row], key: str, style: str, marked: bool = False
    ) -> curves.Curve:
        rows = [row for row in rows if row.get(key) is not None]
        return curves.Curve(
            name, [row["step"] for row in rows], [row[key] for row in rows], style, marked
        )

    charts = [
        (
            "Loss",
            None,
            [
                curve("training", train, "loss", "faint"),
                curve("validation", validation, "loss", "b", True),
            ],
        ),
        (
            "Validation scores",
            1.0,
            [
                curve("mean IoU", validation, "mean_iou", "a", True),
                curve("pixel accuracy", validation, "pixel_accuracy", "c", True),
            ],
        ),
        ("Learning rate", None, [curve("learning rate", train, "learning_rate", "a")]),
        ("Images per second", None, [curve("images per second", train, "images_per_second", "c")]),
    ]
    parts = []
    for title, top, lines in charts:
        legend = ""
        if len(lines) > 1:
            keys = "".join(
                f'<li><span class="key {line.style}"></span>{line.name}</li>' for line in lines
            )
            legend = f'<ul class="legend">{keys}</ul>'
        parts.append(
            f'<div class="card"><h3>{title}</h3>{legend}{curves.chart(title, lines, top=top)}</div>'
        )
    return f'<div class="charts">{"".join(parts)}</div>'


def _examples(
    best: Sequence[gallery.Example],
    worst: Sequence[gallery.Example],
    classes: Sequence[str],
    palette: np.ndarray,
    ignore_index: int,
) -> str:
    if not best and not worst:
        return ""
    names = "".join(
        f"<li>{tables.swatch(colour)}{html.escape(name)}</li>"
        for name, colour in zip(classes, palette, strict=True)
    )
    parts = [f'<section><h2>Images</h2><ul class="legend">{names}</ul>']
    for heading, examples in (("Best", best), ("Worst", worst)):
        if examples:
            figures = "".join(
                gallery.figure(example, palette, ignore_index=ignore_index) for example in examples
            )
            parts.append(f'<h3>{heading}</h3><div class="gallery">{figures}</div>')
    return "".join([*parts, "</section>"])


def _details(facts: Mapping[str, Row]) -> str:
    if not facts:
        return ""
    cards = "".join(tables.facts(title, table) for title, table in facts.items())
    return f'<section><h2>How it was made</h2><div class="tables">{cards}</div></section>'


def _rows(history: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in history if row.get("kind") == kind and "step" in row]
