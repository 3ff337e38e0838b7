"""The weights of PSPNet in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"pyramid/grid(\d)/conv", r"psp.blocks.\1.pool.1.0"),
        (r"pyramid/grid(\d)/norm", r"psp.blocks.\1.pool.1.1"),
        (r"project/conv", r"conv.0"),
        (r"project/norm", r"conv.1"),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.pspnet:PSPNet", {"smp": smp_layout(DECODER)})
