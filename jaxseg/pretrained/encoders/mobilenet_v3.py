"""The weights of MobileNetV3 with timm's names."""

from typing import Any

from jaxseg.pretrained.encoders import mobilenet_v2
from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import INCEPTION, EncoderWeights, Published

_IMAGENET = (
    "mobilenetv3_large_100.ra_in1k",
    "mobilenetv3_small_050.lamb_in1k",
    "mobilenetv3_small_075.lamb_in1k",
    "mobilenetv3_small_100.lamb_in1k",
)
_FROM_MINUS_ONE_TO_ONE = (
    "mobilenetv3_large_100.ra4_e3600_r224_in1k",
    *(f"tf_mobilenetv3_{size}.in1k" for size in ("large_075", "large_100", "large_minimal_100")),
    *(f"tf_mobilenetv3_{size}.in1k" for size in ("small_075", "small_100", "small_minimal_100")),
)
_FROM_ZERO_TO_ONE = (
    "mobilenetv3_large_100.miil_in21k_ft_in1k",
    "mobilenetv3_large_100.miil_in21k",
)
_UNCHANGED: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def key_map(encoder: Any, source: str) -> KeyMap:
    """Returns timm's names of a MobileNetV3: those of MobileNetV2, and the last convolution as a stage."""
    last = f"blocks.{len(encoder.stages)}.0"
    rules = (("last/conv", f"{last}.conv"), ("last/norm", f"{last}.bn1"))
    names = KeyMap(rules).inside("model") if source == "smp" else KeyMap(rules)
    return mobilenet_v2.key_map(encoder, source) + names


WEIGHTS = EncoderWeights(
    module="jaxseg.encoders.mobilenet_v3:MobileNetV3",
    key_map=key_map,
    stem="stem/conv",
    ignored=(r"conv_head\..*", r"classifier\..*"),
    sources=("timm", "smp"),
    hub={
        f"timm/{name}": Published(name.split(".")[0], None, "apache-2.0", **images)
        for names, images in (
            (_IMAGENET, {}),
            (_FROM_MINUS_ONE_TO_ONE, INCEPTION),
            (_FROM_ZERO_TO_ONE, _UNCHANGED),
        )
        for name in names
    },
)
