"""The weights of MAnet in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"attention/(top|center|bottom|out)", r"center.\1_conv"),
        (r"block(\d)/smooth/conv", r"blocks.\1.hl_conv.0.0"),
        (r"block(\d)/smooth/norm", r"blocks.\1.hl_conv.0.1"),
        (r"block(\d)/project/conv", r"blocks.\1.hl_conv.1.0"),
        (r"block(\d)/project/norm", r"blocks.\1.hl_conv.1.1"),
        (r"block(\d)/coarse_gate/reduce", r"blocks.\1.SE_hl.1"),
        (r"block(\d)/coarse_gate/expand", r"blocks.\1.SE_hl.3"),
        (r"block(\d)/skip_gate/reduce", r"blocks.\1.SE_ll.1"),
        (r"block(\d)/skip_gate/expand", r"blocks.\1.SE_ll.3"),
        (r"block(\d)/(?:convs/)?conv(\d)/conv", r"blocks.\1.conv\2.0"),
        (r"block(\d)/(?:convs/)?conv(\d)/norm", r"blocks.\1.conv\2.1"),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.manet:MAnet", {"smp": smp_layout(DECODER)})
