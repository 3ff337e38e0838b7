"""Names of FCN's weights: the paper's in the public PyTorch port of Caffe's, and torchvision's.

The port, https://github.com/wkentaro/pytorch-fcn (package `torchfcn`), keeps the names of Caffe's
layers: conv1_1 to conv5_3, fc6, fc7, score_fr, upscore2, score_pool4, upscore_pool4, score_pool3,
and upscore, upscore16 or upscore8. Weights that were trained by Caffe expect images in the order
blue, green, red, of 0..255 minus the means 104.00699, 116.66877 and 122.67892.
"""

import re

import numpy as np

from jaxseg.pretrained.table import Table

STEMS = ("conv1_1.weight", "backbone.conv1.weight")
_SCORES = r"(fc6|fc7|score_fr|score_pool4|score_pool3)"
_UPSCORES = r"(upscore(?:2|_pool4|16|8)?)"


def torchfcn(
    convolutions: tuple[int, ...], stride: int, classes: int, learned: tuple[bool, bool]
) -> Table:
    """The table of the paper's network in the PyTorch port.

    Args:
        convolutions: Number of convolutions in each stage of its VGG.
        stride: Stride of its finest scores.
        classes: Channels of its logits.
        learned: Whether the upsampling between scores, and the last one, is learned. What is not
            stands in the file, too, and must be bilinear there.
    """
    between = {"upscore2": 2, "upscore_pool4": 2} if stride == 8 else {"upscore2": 2}
    last = {"upscore" if stride == 32 else f"upscore{stride}": stride}
    factors = [(between if stride < 32 else {}, learned[0]), (last, learned[1])]
    rules = tuple(
        (f"encoder/stage{stage}_conv{i}/conv", f"conv{stage}_{i + 1}")
        for stage, count in enumerate(convolutions, start=1)
        for i in range(count)
    )
    return Table(
        (*rules, (_SCORES, r"\1"), (_UPSCORES, r"\1")),
        transposed=tuple(name for names, given in factors if given for name in names),
        constants=tuple(
            (f"{name}.weight", bilinear_kernel(factor, classes))
            for names, given in factors
            if not given
            for name, factor in names.items()
        ),
    )


def bilinear_kernel(factor: int, classes: int) -> np.ndarray:
    """The weight `[classes, classes, 2 * factor, 2 * factor]` of a transposed convolution.

    >>> bilinear_kernel(2, 1)[0, 0, 1].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    tent = 1 - np.abs(np.arange(2 * factor) - factor + 0.5) / factor
    return np.multiply.outer(np.eye(classes), np.outer(tent, tent)).astype(np.float32)


def dense(source: str) -> Table:
    """The table of fc6 and fc7 from a VGG classifier, without its last layer."""
    if source == "torchvision":
        layers, last = ("classifier.0", "classifier.3"), "classifier.6"
        return Table(
            (("fc6", layers[0]), ("fc7", layers[1])),
            (rf"{re.escape(last)}\.(weight|bias)",),
            flattened=layers,
        )
    layers = ("pre_logits.fc1", "pre_logits.fc2")
    return Table((("fc6", layers[0]), ("fc7", layers[1])), (r"head\.fc\.(weight|bias)",))


def torchvision(aux_heads: int) -> Table:
    """The table of the heads in torchvision's fcn_resnet50 and fcn_resnet101."""
    main = (
        ("decoder/map0/conv", "classifier.0"),
        ("decoder/map0/norm", "classifier.1"),
        ("head/conv", "classifier.4"),
    )
    if not aux_heads:
        return Table(main, (r"aux_classifier\..*",))
    return Table(
        (
            *main,
            ("decoder/map1/conv", "aux_classifier.0"),
            ("decoder/map1/norm", "aux_classifier.1"),
            ("aux_heads_0/conv", "aux_classifier.4"),
        )
    )
