"""The report's sections of semantic segmentation: key figures, scores of the classes, confusions."""

from collections.abc import Sequence

import numpy as np

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.report import matrix, tables

_CLASSES = (
    "IoU is the number of pixels that truth and prediction share, divided by the number that either has, summed over the "
    "whole set. Recall is the fraction of the true pixels that were found, precision the fraction of the predicted ones "
    "that are right. A class without a single pixel has no score (n/a) and is left out of every mean."
)
_CONFUSION = (
    "Rows are the truth, columns the prediction. Each row shows in per cent where the pixels of that class went, so the "
    "diagonal is the recall."
)


def cards(counts: np.ndarray) -> list[tuple[str, str, str]]:
    """Returns mean IoU, pixel accuracy and mean accuracy as name, value and remark.

    Args:
        counts: `[K, K]` integers: rows are the truth, columns the prediction.
    """
    counts = _checked(counts)
    present = int(np.count_nonzero(counts.sum(0) + counts.sum(1)))
    return [
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


def sections(
    counts: np.ndarray, classes: Sequence[str], palette: np.ndarray
) -> list[tuple[str, str]]:
    """Returns headings and HTML of the table of classes and of the confusion matrix.

    Args:
        counts: `[K, K]` integers: rows are the truth, columns the prediction.
        classes: K names.
        palette: K colours, uint8 `[K, 3]`.

    Raises:
        InputError: Counts that are not a square of integers, or another number of names or colours.
    """
    counts, palette = _checked(counts), np.asarray(palette)
    if len(counts) != len(classes) or palette.shape != (len(classes), 3):
        raise InputError(
            f"counts {list(counts.shape)} and a palette {list(palette.shape)} for {len(classes)} classes: expected "
            "integers [K, K] and [K, 3]"
        )
    return [
        ("Classes", f"<p>{_CLASSES}</p>{tables.class_scores(counts, classes, palette)}"),
        ("Confusion matrix", f"<p>{_CONFUSION}</p>{matrix.confusion(counts, classes)}"),
    ]


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 2 or len(set(counts.shape)) != 1 or counts.dtype.kind not in "iu":
        raise InputError(f"counts of {counts.dtype} {list(counts.shape)}: expected integers [K, K]")
    return counts
