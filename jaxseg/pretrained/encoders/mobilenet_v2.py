"""The weights of MobileNetV2 with timm's names."""

from typing import Any

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Published


def key_map(encoder: Any, source: str) -> KeyMap:
    """Returns timm's names of a MobileNetV2 or EfficientNet; stages below its depth are left out.

    In a network of smp, whose names for timm's encoders begin with `tu-`, they are in a `model`.
    """
    rules = [(r"stem/conv", r"conv_stem"), (r"stem/norm", r"bn1")]
    separable = (("depthwise", "dw", 1), ("project", "pw", 2))
    inverted = (("expand", "pw", 1), ("depthwise", "dw", 2), ("project", "pwl", 3))
    for stages, convolutions in (("0", separable), ("[1-6]", inverted)):
        block = rf"stage({stages})_block(\d+)"
        for ours, conv, norm in convolutions:
            rules.append((rf"{block}/{ours}/conv", rf"blocks.\1.\2.conv_{conv}"))
            rules.append((rf"{block}/{ours}/norm", rf"blocks.\1.\2.bn{norm}"))
    gate = r"stage(\d)_block(\d+)/squeeze_excite"
    rules += [(rf"{gate}/{name}", rf"blocks.\1.\2.se.conv_{name}") for name in ("reduce", "expand")]
    deeper = range(encoder.built_stages, 7)
    names = KeyMap(tuple(rules), tuple(rf"blocks\.{stage}\..*" for stage in deeper))
    return names.inside("model") if source == "smp" else names


WEIGHTS = EncoderWeights(
    module="jaxseg.encoders.mobilenet_v2:MobileNetV2",
    key_map=key_map,
    stem="stem/conv",
    ignored=(r"conv_head\..*", r"bn2\..*", r"classifier\..*"),
    sources=("timm", "smp"),
    hub={
        "timm/mobilenetv2_050.lamb_in1k": Published("mobilenetv2_050", None, "apache-2.0"),
        "timm/mobilenetv2_100.ra_in1k": Published("mobilenetv2_100", None, "apache-2.0"),
        "timm/mobilenetv2_110d.ra_in1k": Published("mobilenetv2_110d", None, "apache-2.0"),
        "timm/mobilenetv2_120d.ra_in1k": Published("mobilenetv2_120d", None, "apache-2.0"),
        "timm/mobilenetv2_140.ra_in1k": Published("mobilenetv2_140", None, "apache-2.0"),
    },
)
