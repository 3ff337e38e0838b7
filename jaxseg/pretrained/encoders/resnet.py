"""The weights of ResNets: torchvision, timm and segmentation_models.pytorch have the same names."""

from typing import Any

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Published

_BLOCK = r"stage(\d)_block(\d+)"


def key_map(encoder: Any, source: str) -> KeyMap:
    """Returns the names of a ResNet's variables; those of stages below its depth are left out."""
    del source
    rules = (
        (r"stem/conv", r"conv1"),
        (r"stem/norm", r"bn1"),
        (rf"{_BLOCK}/conv(\d)/conv", r"layer\1.\2.conv\3"),
        (rf"{_BLOCK}/conv(\d)/norm", r"layer\1.\2.bn\3"),
        (rf"{_BLOCK}/shortcut/conv", r"layer\1.\2.downsample.0"),
        (rf"{_BLOCK}/shortcut/norm", r"layer\1.\2.downsample.1"),
    )
    return KeyMap(rules, tuple(rf"layer{stage}\..*" for stage in range(encoder.depth, 5)))


WEIGHTS = EncoderWeights(
    module="jaxseg.encoders.resnet:ResNet",
    key_map=key_map,
    stem="stem/conv",
    classifier=lambda head, source: KeyMap(((r"dense0", "fc"),)),
    ignored=(r"fc\.(weight|bias)",),
    hub={
        "timm/resnet18.a1_in1k": Published(
            "resnet18", "491b427b45c94c7fb0e78b5474cc919aff584bbf", "apache-2.0"
        ),
        "timm/resnet34.a1_in1k": Published(
            "resnet34", "0e8757122c4c09b15fb9300c0fd09b3fe89e28bf", "apache-2.0"
        ),
        "timm/resnet50.a1_in1k": Published(
            "resnet50", "767268603ca0cb0bfe326fa87277f19c419566ef", "apache-2.0"
        ),
        "timm/resnet101.a1h_in1k": Published(
            "resnet101", "31c8dd57af17e8f4a74423ce917e37a3f8d71175", "apache-2.0"
        ),
        "timm/resnet152.a1_in1k": Published(
            "resnet152", "3f553c69c9d64f01c50dfb6462bdf2dad727ad23", "apache-2.0"
        ),
        "timm/resnet18.tv_in1k": Published(
            "resnet18", "bbd144b3e5565108aad885f145491d11bc6ce807", "bsd-3-clause", 69.758
        ),
        "timm/resnet34.tv_in1k": Published(
            "resnet34", "1b7b21cca82ff974d341713f777bf740c2db38c4", "bsd-3-clause", 73.314
        ),
        "timm/resnet50.tv_in1k": Published(
            "resnet50", "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa", "bsd-3-clause", 76.130
        ),
        "smp-hub/resnet18.imagenet": Published(
            "resnet18", "3f2325ff978283d47aa6a1d6878ca20565622683"
        ),
        "smp-hub/resnet34.imagenet": Published(
            "resnet34", "7a57b34f723329ff020b3f8bc41771163c519d0c"
        ),
        "smp-hub/resnet50.imagenet": Published(
            "resnet50", "00cb74e366966d59cd9a35af57e618af9f88efe9"
        ),
        "smp-hub/resnet101.imagenet": Published(
            "resnet101", "cd7c15e8c51da86ae6a084515fdb962d0c94e7d1"
        ),
        "smp-hub/resnet152.imagenet": Published(
            "resnet152", "951dd835e9d086628e447b484584c8983f9e1dd0"
        ),
    },
)
