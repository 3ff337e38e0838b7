"""The weights of SegFormer's decoder in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"linear(\d)", r"mlp_stage.\1.linear"),
        (r"fuse/conv", r"fuse_stage.0"),
        (r"fuse/norm", r"fuse_stage.1"),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.segformer:SegFormer", {"smp": smp_layout(DECODER)})
