"""The weights of torchvision's fcn_resnet50 and fcn_resnet101."""

from typing import Any

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Layout, ModelWeights


def heads(model: Any, encoder: EncoderWeights) -> KeyMap:
    """Returns the names of the heads' variables; an auxiliary head that the model lacks is left out."""
    del encoder
    main = (
        ("decoder/map0/conv", "classifier.0"),
        ("decoder/map0/norm", "classifier.1"),
        ("head/conv", "classifier.4"),
    )
    if not model.aux_heads:
        return KeyMap(main, (r"aux_classifier\..*",))
    return KeyMap(
        (
            *main,
            ("decoder/map1/conv", "aux_classifier.0"),
            ("decoder/map1/norm", "aux_classifier.1"),
            ("aux_heads_0/conv", "aux_classifier.4"),
        )
    )


WEIGHTS = ModelWeights(
    "jaxseg.models.fcn_head:FCNHead", {"torchvision": Layout(heads, encoder="backbone")}
)
