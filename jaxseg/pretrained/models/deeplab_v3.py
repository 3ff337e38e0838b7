"""The weights of DeepLabV3 in segmentation_models.pytorch, and the names of ASPP there."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

ASPP = KeyMap(
    (
        (r"branch([0-3])/conv", r"convs.\1.0"),
        (r"branch([0-3])/norm", r"convs.\1.1"),
        (r"branch([0-3])/depthwise", r"convs.\1.0.0"),
        (r"branch([0-3])/pointwise/conv", r"convs.\1.0.1"),
        (r"branch([0-3])/pointwise/norm", r"convs.\1.1"),
        (r"pool/conv", r"convs.4.1"),
        (r"pool/norm", r"convs.4.2"),
        (r"project/conv", r"project.0"),
        (r"project/norm", r"project.1"),
    )
)
"""A pyramid with three rates, as smp requires, whose convolutions are separable or not."""

DECODER = ASPP.under("aspp", "aspp") + KeyMap((("refine/conv", "conv"), ("refine/norm", "bn")))

WEIGHTS = ModelWeights("jaxseg.models.deeplab_v3:DeepLabV3", {"smp": smp_layout(DECODER)})
