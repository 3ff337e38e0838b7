"""The weights of UPerNet in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

_BLOCKS = (
    (r"pyramid/grid(\d)", r"psp.blocks.\1.1"),
    (r"pool", r"psp.out_conv"),
    (r"lateral(\d)", r"fpn_lateral_blocks.\1.conv_norm_relu"),
    (r"level(\d)", r"fpn_conv_blocks.\1"),
    (r"fuse", r"fusion_block"),
)
DECODER = KeyMap(
    (
        (r"norm(\d)", r"feature_norms.\1"),
        *((f"{ours}/conv", f"{theirs}.0") for ours, theirs in _BLOCKS),
        *((f"{ours}/norm", f"{theirs}.1") for ours, theirs in _BLOCKS),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.upernet:UPerNet", {"smp": smp_layout(DECODER)})
