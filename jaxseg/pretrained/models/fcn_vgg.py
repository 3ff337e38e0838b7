"""The weights of the paper's FCN: in the public PyTorch port of Caffe's, and those of a VGG classifier.

The port, https://github.com/wkentaro/pytorch-fcn (package `torchfcn`), keeps the names of Caffe's
layers: conv1_1 to conv5_3, fc6, fc7, score_fr, upscore2, score_pool4, upscore_pool4, score_pool3,
and upscore, upscore16 or upscore8. Weights that were trained by Caffe expect images in the order
blue, green, red, of 0..255 minus the means 104.00699, 116.66877 and 122.67892.
"""

from typing import Any

import numpy as np

from jaxseg.errors import InputError
from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Layout, ModelWeights

_SCORES = r"(fc6|fc7|score_fr|score_pool4|score_pool3)"
_UPSCORES = r"(upscore(?:2|_pool4|16|8)?)"


def torchfcn(model: Any, encoder: EncoderWeights) -> KeyMap:
    """Returns the names of all variables in the PyTorch port.

    Upsampling that the model does not learn is in the file, too, and has to be bilinear there.

    Raises:
        InputError: If the VGG has batch normalization, which the port does not have.
    """
    del encoder
    if model.encoder.batch_norm:
        raise InputError(
            "torchfcn has the paper's FCN on a VGG without batch normalization and nothing else: "
            "take fcn_vgg_32s, fcn_vgg_16s or fcn_vgg_8s on vgg16"
        )
    stride = model.stride
    between = {"upscore2": 2, "upscore_pool4": 2} if stride == 8 else {"upscore2": 2}
    last = {"upscore" if stride == 32 else f"upscore{stride}": stride}
    factors = [(between if stride < 32 else {}, model.learn_fusing), (last, model.learn_last)]
    rules = tuple(
        (f"encoder/stage{stage}_conv{i}/conv", f"conv{stage}_{i + 1}")
        for stage, count in enumerate(model.encoder.convolutions, start=1)
        for i in range(count)
    )
    return KeyMap(
        (*rules, (_SCORES, r"\1"), (_UPSCORES, r"\1")),
        transposed=tuple(name for names, learned in factors if learned for name in names),
        constants=tuple(
            (f"{name}.weight", bilinear_kernel(factor, model.num_classes))
            for names, learned in factors
            if not learned
            for name, factor in names.items()
        ),
    )


def bilinear_kernel(factor: int, classes: int) -> np.ndarray:
    """Returns the weight `[classes, classes, 2 * factor, 2 * factor]` of a transposed convolution.

    >>> bilinear_kernel(2, 1)[0, 0, 1].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    tent = 1 - np.abs(np.arange(2 * factor) - factor + 0.5) / factor
    return np.multiply.outer(np.eye(classes), np.outer(tent, tent)).astype(np.float32)


TORCHVISION = KeyMap(
    (("fc6", "classifier.0"), ("fc7", "classifier.3")),
    ignored=(r"classifier\.6\.(weight|bias)",),
    flattened=("classifier.0", "classifier.3"),
)
"""fc6 and fc7 of a VGG classifier, without its last layer."""
TIMM = KeyMap(
    (("fc6", "pre_logits.fc1"), ("fc7", "pre_logits.fc2")), ignored=(r"head\.fc\.(weight|bias)",)
)

_PARTS = ("encoder", "fc6", "fc7")
WEIGHTS = ModelWeights(
    "jaxseg.models.fcn_vgg:FCNVGG",
    {
        "torchfcn": Layout(torchfcn, encoder=None),
        "torchvision": Layout(lambda model, encoder: TORCHVISION, parts=_PARTS),
        "timm": Layout(lambda model, encoder: TIMM, parts=_PARTS),
    },
)
