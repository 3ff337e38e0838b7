"""The weights of PAN in segmentation_models.pytorch: the last upsampling is `gau1`."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

_BLOCKS = (
    (r"pyramid/mean", r"fpa.branch1.1"),
    (r"pyramid/middle", r"fpa.mid.0"),
    (r"pyramid/down0", r"fpa.down1.1"),
    (r"pyramid/down1", r"fpa.down2.1"),
    (r"pyramid/down2", r"fpa.down3.1"),
    (r"pyramid/up2", r"fpa.down3.2"),
    (r"pyramid/up1", r"fpa.conv2"),
    (r"pyramid/up0", r"fpa.conv1"),
    (r"upsample(\d)/weight", r"gau\1.conv1.1"),
    (r"upsample(\d)/conv", r"gau\1.conv2"),
)
DECODER = KeyMap(
    tuple(
        (f"{ours}/{layer}", f"{theirs}.{name}")
        for ours, theirs in _BLOCKS
        for layer, name in (("conv", "conv"), ("norm", "bn"))
    )
)

WEIGHTS = ModelWeights("jaxseg.models.pan:PAN", {"smp": smp_layout(DECODER)})
