"""Linen blocks and array functions that networks are made of; never a whole network."""

from jaxseg.nn.blocks import ConvNorm, ConvReLU
from jaxseg.nn.heads import Head, ImageHead
from jaxseg.nn.norm import BatchNorm, GroupNorm
from jaxseg.nn.pool import adaptive_avg_pool, max_pool, max_pool_with_indices, max_unpool
from jaxseg.nn.resize import bilinear, nearest
from jaxseg.nn.upsample import TransposedConv, pixel_shuffle

__all__ = [
    "BatchNorm",
    "ConvNorm",
    "ConvReLU",
    "GroupNorm",
    "Head",
    "ImageHead",
    "TransposedConv",
    "adaptive_avg_pool",
    "bilinear",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "nearest",
    "pixel_shuffle",
]
