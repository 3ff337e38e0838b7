"""The weights of FPN in segmentation_models.pytorch: p5 is the coarsest level, p2 the finest."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"lateral0", r"p5"),
        (r"lateral1", r"p4.skip_conv"),
        (r"lateral2", r"p3.skip_conv"),
        (r"lateral3", r"p2.skip_conv"),
        (r"level(\d)_conv(\d)/conv", r"seg_blocks.\1.block.\2.block.0"),
        (r"level(\d)_conv(\d)/norm", r"seg_blocks.\1.block.\2.block.1"),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.fpn:FPN", {"smp": smp_layout(DECODER)})
