"""The weights of U-Net in segmentation_models.pytorch."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"block(\d+)/conv(\d)/conv", r"blocks.\1.conv\2.0"),
        (r"block(\d+)/conv(\d)/norm", r"blocks.\1.conv\2.1"),
        (r"center/conv1/conv", r"center.0.0"),
        (r"center/conv1/norm", r"center.0.1"),
        (r"center/conv2/conv", r"center.1.0"),
        (r"center/conv2/norm", r"center.1.1"),
    )
)

WEIGHTS = ModelWeights("jaxseg.models.unet:UNet", {"smp": smp_layout(DECODER)})
