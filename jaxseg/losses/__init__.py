"""Losses on logits and integer labels: of each pixel, of regions, and weighted sums of them."""

from jaxseg.losses.combine import LossFn, make_loss_fn, names
from jaxseg.losses.pixelwise import cross_entropy, sigmoid_cross_entropy, softmax_cross_entropy
from jaxseg.losses.reduce import ratio_of_sums, weighted_mean
from jaxseg.losses.region import dice_loss, jaccard_loss

__all__ = [
    "LossFn",
    "cross_entropy",
    "dice_loss",
    "jaccard_loss",
    "make_loss_fn",
    "names",
    "ratio_of_sums",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "weighted_mean",
]
