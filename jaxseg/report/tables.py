"""Scores of the classes and facts of the run as HTML tables, and how single values are written."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import metrics


def class_scores(counts: np.ndarray, classes: Sequence[str], palette: np.ndarray) -> str:
    """IoU, Dice, recall, precision and share of the pixels of every class, with a bar for the IoU.

    Args:
        counts: `[K, K]` integers: rows are the truth, columns the prediction.
        classes: K names.
        palette: K colours, uint8 `[K, 3]`.

    Returns:
        A table; a score of a class without a pixel is n/a.
    """
    truth, predicted, right = counts.sum(1), counts.sum(0), np.diagonal(counts)
    iou, dice = metrics.iou(counts), metrics.dice(counts)
    rows = []
    for k, name in enumerate(classes):
        filled = 100 * float(iou[k]) if math.isfinite(iou[k]) else 0.0
        recall, precision = _ratio(right[k], truth[k]), _ratio(right[k], predicted[k])
        cells = "".join(f"<td>{score(value)}</td>" for value in (dice[k], recall, precision))
        rows.append(
            f"<tr><td>{swatch(palette[k])}{html.escape(name)}</td>"
            f'<td class="bar"><div><i style="width:{filled:.1f}%"></i></div></td>'
            f"<td>{score(iou[k])}</td>{cells}<td>{_percent(_ratio(truth[k], truth.sum()))}</td></tr>"
        )
    names = ("Class", "", "IoU", "Dice", "Recall", "Precision", "Pixels")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        '<div class="card scroll scores"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def facts(title: str, table: Mapping[str, Any]) -> str:
    """Names and values as a table; names inside nested mappings are joined by dots.

    >>> "<td>model.name</td><td>unet</td>" in facts("Recipe", {"model": {"name": "unet"}})
    True
    """
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value(entry)}</td></tr>"
        for name, entry in _flat(table)
    )
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3><table><tbody>{rows}</tbody></table></div>'
    )


def swatch(colour: np.ndarray) -> str:
    """A small square of a colour, uint8 `[3]`."""
    return (
        f'<span class="swatch" style="background:#{bytes(colour.astype(np.uint8)).hex()}"></span>'
    )


def score(number: Any) -> str:
    """A score with four decimals, or n/a.

    >>> score(2 / 3), score(1.0)
    ('0.6667', '1.0000')
    """
    return f"{float(number):.4f}" if math.isfinite(number) else '<span class="none">n/a</span>'


def value(entry: Any) -> str:
    """Any value as a reader would write it, escaped.

    >>> value(14_329_415), value(0.002), value((64, 96)), value(None), value(True), value("<b>")
    ('14,329,415', '0.002', '64, 96', 'none', 'yes', '&lt;b&gt;')
    """
    match entry:
        case None | () | []:
            return "none"
        case bool():
            return "yes" if entry else "no"
        case float():
            return f"{entry:.6g}"
        case int():
            return f"{entry:,}" if abs(entry) >= 10_000 else str(entry)
        case tuple() | list():
            return ", ".join(map(value, entry))
        case Mapping() if not entry:
            return "none"
        case _:
            return html.escape(str(entry))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, entry in table.items():
        if isinstance(entry, Mapping) and entry:
            yield from _flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else math.nan


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else score(share)
