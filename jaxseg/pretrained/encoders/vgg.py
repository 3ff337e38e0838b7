"""The weights of VGGs: torchvision, timm and segmentation_models.pytorch have the same names.

All three number the layers of one sequence: convolution, normalization, ReLU, ..., max-pool. Only
the classifier of timm has names of its own.
"""

from typing import Any

from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Published


def key_map(encoder: Any, source: str) -> KeyMap:
    """Returns the names of a VGG's variables; those of stages below its depth are left out."""
    del source
    rules, deeper, layer = [], [], 0
    for stage, count in enumerate(encoder.convolutions, start=1):
        for i in range(count):
            layers = {"conv": f"features.{layer}"}
            layer += 1
            if encoder.batch_norm:
                layers["norm"] = f"features.{layer}"
                layer += 1
            layer += 1  # ReLU
            if stage <= encoder.depth + 1:
                rules += [(f"stage{stage}_conv{i}/{ours}", name) for ours, name in layers.items()]
            else:
                deeper += [rf"features\.{name.split('.')[1]}\..*" for name in layers.values()]
        layer += 1  # max-pool
    return KeyMap(tuple(rules), tuple(deeper))


def classifier(head: Any, source: str) -> KeyMap:
    """Returns the names of the dense layers; timm keeps them as convolutions."""
    if source == "torchvision":
        return KeyMap(tuple((f"dense{i}", f"classifier.{3 * i}") for i in range(3)))
    layers = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    return KeyMap(
        tuple((f"dense{i}", layer) for i, layer in enumerate(layers)),
        windows=((layers[0], tuple(head.window)), (layers[1], (1, 1))),
    )


WEIGHTS = EncoderWeights(
    module="jaxseg.encoders.vgg:VGG",
    key_map=key_map,
    stem="stage1_conv0/conv",
    classifier=classifier,
    ignored=(r"classifier\..*", r"pre_logits\..*", r"head\.fc\..*"),
    hub={
        "timm/vgg11.tv_in1k": Published("vgg11", None, "bsd-3-clause", 69.020),
        "timm/vgg11_bn.tv_in1k": Published("vgg11_bn", None, "bsd-3-clause", 70.370),
        "timm/vgg13.tv_in1k": Published("vgg13", None, "bsd-3-clause", 69.928),
        "timm/vgg13_bn.tv_in1k": Published("vgg13_bn", None, "bsd-3-clause", 71.586),
        "timm/vgg16.tv_in1k": Published("vgg16", None, "bsd-3-clause", 71.592),
        "timm/vgg16_bn.tv_in1k": Published("vgg16_bn", None, "bsd-3-clause", 73.360),
        "timm/vgg19.tv_in1k": Published("vgg19", None, "bsd-3-clause", 72.376),
        "timm/vgg19_bn.tv_in1k": Published("vgg19_bn", None, "bsd-3-clause", 74.218),
        "smp-hub/vgg11.imagenet": Published("vgg11", "ad8b90e1051c38fdbf399cf5016886a1be357390"),
        "smp-hub/vgg11_bn.imagenet": Published(
            "vgg11_bn", "59757f9215032c9f092977092d57d26a9df7fd9c"
        ),
        "smp-hub/vgg13.imagenet": Published("vgg13", "1b70ff2580f101a8007a48b51e2b5d1e5925dc42"),
        "smp-hub/vgg13_bn.imagenet": Published(
            "vgg13_bn", "9be454515193af6612261b7614fe90607e27b143"
        ),
        "smp-hub/vgg16.imagenet": Published("vgg16", "49d74b799006ee252b86e25acd6f1fd8ac9a99c1"),
        "smp-hub/vgg16_bn.imagenet": Published(
            "vgg16_bn", "2c186d02fb519e93219a99a1c2af6295aef0bf0d"
        ),
        "smp-hub/vgg19.imagenet": Published("vgg19", "2853d00d7bca364dbb98be4d6afa347e5aeec1f6"),
        "smp-hub/vgg19_bn.imagenet": Published(
            "vgg19_bn", "f09a924cb0d201ea6f61601df9559141382271d7"
        ),
    },
)
