"""The weights of LinkNet in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"block(\d)/reduce/conv", r"blocks.\1.block.0.0"),
        (r"block(\d)/reduce/norm", r"blocks.\1.block.0.1"),
        (r"block(\d)/upsample/conv", r"blocks.\1.block.1.0"),
        (r"block(\d)/upsample/norm", r"blocks.\1.block.1.1"),
        (r"block(\d)/expand/conv", r"blocks.\1.block.2.0"),
        (r"block(\d)/expand/norm", r"blocks.\1.block.2.1"),
    ),
    transposed=tuple(f"blocks.{i}.block.1.0" for i in range(5)),
)

WEIGHTS = ModelWeights("jaxseg.models.linknet:LinkNet", {"smp": smp_layout(DECODER)})
