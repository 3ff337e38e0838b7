"""Decoders: `decoder(features, size, train=...) -> maps`, the first of which feeds the main head.

`features` come from an encoder, fine to coarse; `size` is the images' height and width. A decoder
may stop before that size: the model upsamples the logits.
"""

from jaxseg.decoders.fcn import FCN, FCN8s, FCN16s, FCN32s
from jaxseg.decoders.fcn_head import FCNHead
from jaxseg.decoders.fpn import FPN
from jaxseg.decoders.multiscale_fpn import MultiscaleFPN
from jaxseg.decoders.unet import UNet

__all__ = ["FCN", "FPN", "FCN8s", "FCN16s", "FCN32s", "FCNHead", "MultiscaleFPN", "UNet"]
