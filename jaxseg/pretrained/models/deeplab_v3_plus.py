"""The weights of DeepLabV3+ in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.models.deeplab_v3 import ASPP
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = ASPP.under("aspp", "aspp.0") + KeyMap(
    (
        (r"refine/depthwise", r"aspp.1.0"),
        (r"refine/pointwise/conv", r"aspp.1.1"),
        (r"refine/pointwise/norm", r"aspp.2"),
        (r"skip_conv/conv", r"block1.0"),
        (r"skip_conv/norm", r"block1.1"),
        (r"fuse/depthwise", r"block2.0.0"),
        (r"fuse/pointwise/conv", r"block2.0.1"),
        (r"fuse/pointwise/norm", r"block2.1"),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.deeplab_v3_plus:DeepLabV3Plus", {"smp": smp_layout(DECODER)})
