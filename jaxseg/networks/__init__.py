"""Networks that do not divide into encoder and decoder; images to `Output`, as every model."""

from jaxseg.networks.fcn import FCNVGG
from jaxseg.networks.segnet import SegNet

__all__ = ["FCNVGG", "SegNet"]
