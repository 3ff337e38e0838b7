"""Numbers that say how good a segmentation is, all from one confusion matrix that is summed over the data set."""

from jaxseg.metrics.confusion import ConfusionMatrix, labels_from_logits
from jaxseg.metrics.scores import (
    dice,
    frequency_weighted_iou,
    iou,
    mean_accuracy,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)

__all__ = [
    "ConfusionMatrix",
    "dice",
    "frequency_weighted_iou",
    "iou",
    "labels_from_logits",
    "mean_accuracy",
    "mean_dice",
    "mean_iou",
    "pixel_accuracy",
]
