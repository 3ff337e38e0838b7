"""The confusion matrix as a table of shaded cells, or as an image where the classes are many."""

import html
from collections.abc import Sequence

import numpy as np

from jaxseg.report import inline

_DENSE = 14  # more classes than this get smaller cells
_CELLS = 24  # more classes than this are drawn as an image, with a list of what is confused most
_LISTED = 12


def confusion(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The row-normalised confusion matrix as HTML.

    Args:
        counts: `[K, K]` integers: rows are the truth, columns the prediction.
        classes: K names.

    Returns:
        A table of per cents up to 24 classes; beyond that an image and the largest confusions in words.

    >>> confusion(np.array([[3, 1], [0, 0]]), ["road", "car"]).count("<td")
    4
    """
    total = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(total, 1)
    if len(classes) > _CELLS:
        return f'<div class="card matrix">{_image(shares)}</div>{_largest(shares, classes)}'
    names = [html.escape(name) for name in classes]
    head = "".join(f"<th><span>{name}</span></th>" for name in names)
    rows = []
    for k, name in enumerate(names):
        cells = "".join(_cell(shares[k, j], j == k, bool(total[k, 0])) for j in range(len(names)))
        rows.append(f"<tr><th>{name}</th>{cells}</tr>")
    dense = ' class="dense"' if len(names) > _DENSE else ""
    return (
        f'<div class="card scroll matrix"><table{dense}>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(share: float, diagonal: bool, present: bool) -> str:
    styles = " ".join(
        name for name, holds in (("high", share > 0.55), ("diagonal", diagonal)) if holds
    )
    text = (
        f"{100 * share:.1f}"
        if share >= 0.0005
        else ("0" if share == 0 and diagonal and present else "")
    )
    return f'<td class="{styles}" style="--v:{share:.3f}">{text}</td>'


def _image(shares: np.ndarray) -> str:
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = (64, 128, 240)
    pixels[..., 3] = np.round(255 * np.sqrt(shares))  # the root keeps small confusions visible
    return f'<img src="{inline.png(pixels)}" alt="Confusion matrix, row by row: the darker, the larger the share">'


def _largest(shares: np.ndarray, classes: Sequence[str]) -> str:
    wrong = np.where(np.eye(len(shares), dtype=bool), 0.0, shares)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    rows = []
    for k, j in (divmod(int(place), len(classes)) for place in order):
        if wrong[k, j] > 0:
            rows.append(
                f"<tr><td>{html.escape(classes[k])}</td><td>{html.escape(classes[j])}</td>"
                f"<td>{100 * wrong[k, j]:.1f} %</td></tr>"
            )
    head = "<tr><th>Truth</th><th>Taken for</th><th>Share of the truth</th></tr>"
    body = "".join(rows)
    return f'<div class="card scroll words"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
