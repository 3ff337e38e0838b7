"""Losses on logits and labels: of each pixel, of regions, of boundaries, and weighted sums of them."""

from jaxseg.losses.boundary import boundary_loss, hausdorff_loss
from jaxseg.losses.cldice import soft_cldice_loss, soft_skeleton
from jaxseg.losses.focal import focal_loss, poly_loss, sigmoid_focal_loss, softmax_focal_loss
from jaxseg.losses.generalized_dice import generalized_dice_loss
from jaxseg.losses.lovasz import lovasz_hinge_loss, lovasz_softmax_loss
from jaxseg.losses.mcc import mcc_loss
from jaxseg.losses.ohem import ohem_cross_entropy, topk_cross_entropy
from jaxseg.losses.pixelwise import cross_entropy, sigmoid_cross_entropy, softmax_cross_entropy
from jaxseg.losses.reduce import ratio_of_sums, weighted_mean
from jaxseg.losses.region import (
    dice_loss,
    focal_tversky_loss,
    jaccard_loss,
    log_cosh_dice_loss,
    tversky_loss,
)
from jaxseg.losses.registry import names
from jaxseg.losses.weighted_sum import make_loss_fn

__all__ = [
    "boundary_loss",
    "cross_entropy",
    "dice_loss",
    "focal_loss",
    "focal_tversky_loss",
    "generalized_dice_loss",
    "hausdorff_loss",
    "jaccard_loss",
    "log_cosh_dice_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "make_loss_fn",
    "mcc_loss",
    "names",
    "ohem_cross_entropy",
    "poly_loss",
    "ratio_of_sums",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "soft_cldice_loss",
    "soft_skeleton",
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "topk_cross_entropy",
    "tversky_loss",
    "weighted_mean",
]
