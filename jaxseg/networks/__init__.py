"""Networks that do not divide into encoder and decoder; images to `Output`, as every model."""

from jaxseg.networks.fcn import FCNVGG
from jaxseg.networks.segnet import SegNet
from jaxseg.networks.unet import OriginalUNet, PlainUNet

__all__ = ["FCNVGG", "OriginalUNet", "PlainUNet", "SegNet"]
