"""Writes a run as one HTML file: key figures, curves, a task's sections and images, without any outside reference."""

import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

import jaxseg
from jaxseg.report import curves, gallery, tables

Row = Mapping[str, Any]


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    history: Sequence[Row],
    cards: Sequence[tuple[str, str, str]] = (),
    score_curves: Mapping[str, str] | None = None,
    sections: Sequence[tuple[str, str]] = (),
    best: Sequence[Any] = (),
    worst: Sequence[Any] = (),
    draw: Callable[[np.ndarray, Any], Sequence[np.ndarray]] | None = None,
    score_title: str = "score",
    legend: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `report.html`: one file to keep, to send and to open anywhere.

    Args:
        path: The file to write; replaced atomically once it is complete.
        title: The heading, such as the model and the data set.
        history: The rows of `metrics.jsonl` in order: `{"kind": "train", "step", "loss", "learning_rate"}` and
            `{"kind": "validation", "step", "epoch", "loss", ...}`; rows of other kinds are ignored.
        cards: Key figures: name, value as HTML and a remark.
        score_curves: Validation scores to plot in one chart: key of the rows by name for people.
        sections: Headings and trusted HTML.
        best: Examples to show as the best ones; see `gallery.figure`.
        worst: Examples to show as the worst ones.
        draw: Turns an image and an annotation into pictures, of which the first is shown; needed for examples.
        score_title: The name of the examples' scores.
        legend: Trusted HTML above the examples.
        facts: Further facts about the run. A value that is a mapping becomes a table (the recipe, the environment); the
            others stand below the title (parameters, time).

    Returns:
        The file's path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(f"{folder}/report.html", title="A run", history=[], sections=[("Notes", "<p>none</p>")])
    ...     path.name, "<h2>Notes</h2>" in path.read_text(encoding="utf-8")
    ('report.html', True)
    """
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
        headline=_headline([*cards, *_lowest_loss(history)]),
        charts=_charts(history, score_curves or {}),
        sections="".join(
            f"<section>\n<h2>{html.escape(heading)}</h2>\n{body}\n</section>"
            for heading, body in sections
        ),
        examples=_examples(best, worst, draw, score_title, legend),
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


def _lowest_loss(history: Sequence[Row]) -> list[tuple[str, str, str]]:
    rows = [
        row
        for row in _rows(history, "validation")
        if row.get("loss") is not None and math.isfinite(row["loss"])
    ]
    if not rows:
        return []
    row = min(rows, key=lambda row: row["loss"])
    return [("Lowest validation loss", f"{row['loss']:.4g}", f"at step {row['step']:,}")]


def _headline(cards: Sequence[tuple[str, str, str]]) -> str:
    body = "".join(
        f'<div class="card"><dt>{html.escape(name)}</dt><dd>{value}<small>{html.escape(note)}</small></dd></div>'
        for name, value, note in cards
    )
    return f'<dl class="headline">{body}</dl>' if body else ""


def _charts(history: Sequence[Row], scores: Mapping[str, str]) -> str:
    train, validation = _rows(history, "train"), _rows(history, "validation")

    def curve(
        name: str, rows: Sequence[Row], key: str, style: str, marked: bool = False
    ) -> curves.Curve:
        rows = [row for row in rows if row.get(key) is not None]
        return curves.Curve(
            name, [row["step"] for row in rows], [row[key] for row in rows], style, marked
        )

    charts: list[tuple[str, float | None, list[curves.Curve]]] = [
        (
            "Loss",
            None,
            [
                curve("training", train, "loss", "faint"),
                curve("validation", validation, "loss", "b", True),
            ],
        )
    ]
    if scores:
        lines = [
            curve(name, validation, key, "acb"[i % 3], True)
            for i, (name, key) in enumerate(scores.items())
        ]
        # Scores within [0, 1] are shown on the whole of that scale.
        fractions = all(0 <= value <= 1 for line in lines for value in line.values)
        charts.append(("Validation scores", 1.0 if fractions else None, lines))
    charts += [
        ("Learning rate", None, [curve("learning rate", train, "learning_rate", "a")]),
        ("Images per second", None, [curve("images per second", train, "images_per_second", "c")]),
    ]
    parts = []
    for title, top, lines in charts:
        legend = ""
        if len(lines) > 1:
            keys = "".join(
                f'<li><span class="key {line.style}"></span>{html.escape(line.name)}</li>'
                for line in lines
            )
            legend = f'<ul class="legend">{keys}</ul>'
        parts.append(
            f'<div class="card"><h3>{title}</h3>{legend}{curves.chart(title, lines, top=top)}</div>'
        )
    return f'<div class="charts">{"".join(parts)}</div>'


def _examples(
    best: Sequence[Any], worst: Sequence[Any], draw: Any, score_title: str, legend: str
) -> str:
    if not best and not worst:
        return ""
    parts = [f"<section><h2>Images</h2>{legend}"]
    for heading, examples in (("Best", best), ("Worst", worst)):
        if examples:
            figures = "".join(gallery.figure(example, draw, score_title) for example in examples)
            parts.append(f'<h3>{heading}</h3><div class="gallery">{figures}</div>')
    return "".join([*parts, "</section>"])


def _details(facts: Mapping[str, Row]) -> str:
    if not facts:
        return ""
    cards = "".join(tables.facts(title, table) for title, table in facts.items())
    return f'<section><h2>How it was made</h2><div class="tables">{cards}</div></section>'


def _rows(history: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in history if row.get("kind") == kind and "step" in row]
