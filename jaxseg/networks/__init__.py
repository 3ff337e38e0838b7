"""Networks that do not divide into encoder and decoder; images to `Output`, as every model."""

from jaxseg.networks.segnet import SegNet

__all__ = ["SegNet"]
