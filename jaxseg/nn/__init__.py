"""Linen blocks and array functions that networks are made of; never a whole network."""

from jaxseg.nn.blocks import ConvNorm, ConvReLU
from jaxseg.nn.heads import Head, ImageHead
from jaxseg.nn.merge import MERGES, add, concatenate
from jaxseg.nn.norm import BatchNorm, GroupNorm
from jaxseg.nn.pool import adaptive_avg_pool, max_pool, max_pool_with_indices, max_unpool
from jaxseg.nn.pyramid import FeaturePyramid
from jaxseg.nn.resize import bilinear, bilinear_aligned, nearest
from jaxseg.nn.transposed import TransposedConv, transposed_convolution
from jaxseg.nn.upsample import (
    UPSAMPLINGS,
    SubPixelConv,
    depth_to_space,
    pixel_shuffle,
    sub_pixel,
    transposed,
)

__all__ = [
    "MERGES",
    "UPSAMPLINGS",
    "BatchNorm",
    "ConvNorm",
    "ConvReLU",
    "FeaturePyramid",
    "GroupNorm",
    "Head",
    "ImageHead",
    "SubPixelConv",
    "TransposedConv",
    "adaptive_avg_pool",
    "add",
    "bilinear",
    "bilinear_aligned",
    "concatenate",
    "depth_to_space",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "nearest",
    "pixel_shuffle",
    "sub_pixel",
    "transposed",
    "transposed_convolution",
]
