"""The weights of U-Net++ in segmentation_models.pytorch; on a VGG it has a center that it does not use."""

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import ModelWeights, smp_layout

DECODER = KeyMap(
    (
        (r"step_(\d)_(\d)/conv(\d)/conv", r"blocks.x_\1_\2.conv\3.0"),
        (r"step_(\d)_(\d)/conv(\d)/norm", r"blocks.x_\1_\2.conv\3.1"),
    ),
    ignored=(r"center\..*",),
)

WEIGHTS = ModelWeights("jaxseg.models.unet_plus_plus:UNetPlusPlus", {"smp": smp_layout(DECODER)})
