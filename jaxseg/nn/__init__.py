"""Linen blocks and array functions that networks are made of; never a whole network."""

from jaxseg.nn import cpu
from jaxseg.nn.aspp import ASPP
from jaxseg.nn.blocks import ConvNorm, LayerScale, SeparableConv, SqueezeExcite
from jaxseg.nn.conv import Conv
from jaxseg.nn.dropout import Dropout, DropPath
from jaxseg.nn.heads import Head, ImageHead
from jaxseg.nn.norm import BatchNorm, GroupNorm, LayerNorm
from jaxseg.nn.pool import adaptive_avg_pool, max_pool, max_pool_with_indices, max_unpool
from jaxseg.nn.pyramid import FeaturePyramid
from jaxseg.nn.pyramid_pooling import PyramidPooling
from jaxseg.nn.residual import add_residual
from jaxseg.nn.resize import bilinear, bilinear_aligned, nearest
from jaxseg.nn.skip_merge import MERGES, add, concatenate
from jaxseg.nn.transposed import TransposedConv, transposed_convolution
from jaxseg.nn.upsample import (
    UPSAMPLINGS,
    SubPixelConv,
    depth_to_space,
    pixel_shuffle,
    sub_pixel,
    transposed,
)
from jaxseg.nn.upsample_merge import upsample_merge

__all__ = [
    "ASPP",
    "MERGES",
    "UPSAMPLINGS",
    "BatchNorm",
    "Conv",
    "ConvNorm",
    "DropPath",
    "Dropout",
    "FeaturePyramid",
    "GroupNorm",
    "Head",
    "ImageHead",
    "LayerNorm",
    "LayerScale",
    "PyramidPooling",
    "SeparableConv",
    "SqueezeExcite",
    "SubPixelConv",
    "TransposedConv",
    "adaptive_avg_pool",
    "add",
    "add_residual",
    "bilinear",
    "bilinear_aligned",
    "concatenate",
    "cpu",
    "depth_to_space",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "nearest",
    "pixel_shuffle",
    "sub_pixel",
    "transposed",
    "transposed_convolution",
    "upsample_merge",
]
