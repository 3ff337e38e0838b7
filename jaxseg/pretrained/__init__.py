"""Weights from smp, timm, torchvision and torchfcn, and back. Nothing is ever unpickled."""

from jaxseg.pretrained.convert import from_torch, load, to_torch
from jaxseg.pretrained.hub import HUB, normalization, pin
from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Layout, ModelWeights, Published

__all__ = [
    "HUB",
    "EncoderWeights",
    "KeyMap",
    "Layout",
    "ModelWeights",
    "Published",
    "from_torch",
    "load",
    "normalization",
    "pin",
    "to_torch",
]
