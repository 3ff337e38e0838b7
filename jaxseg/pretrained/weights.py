"""Specifications of weights of other libraries: one per encoder family and per architecture.

A spec names the class of its module as a string, `"jaxseg.encoders.resnet:ResNet"`, so that nothing
here imports Flax or a network. Those of jaxseg lie in `pretrained/encoders/` and
`pretrained/models/`, one per file, which ends with `WEIGHTS = ...`. A module of your own brings its
spec in the same way, as `WEIGHTS` in the file of its class, or `from_torch` and `load` get it as an
argument.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxseg.pretrained.key_map import KeyMap

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INCEPTION: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""Mean and standard deviation of weights that were trained with images from -1 to 1."""


@dataclass(frozen=True)
class Source:
    """A library whose names weights have.

    Attributes:
        marker: The first part of a name that only files of this library have; None for no such name.
        has_encoders: Whether there are files with an encoder, or a classifier, and nothing else.
    """

    marker: str | None = None
    has_encoders: bool = False


SOURCES = {
    "smp": Source(marker="decoder"),
    "torchvision": Source(marker="classifier", has_encoders=True),
    "torchfcn": Source(marker="score_fr"),
    "timm": Source(has_encoders=True),
}


@dataclass(frozen=True)
class Published:
    """A file of weights on the Hugging Face hub.

    Attributes:
        builder: Name of the encoder or model that it fills.
        revision: The commit that stands for the name; None for the main branch.
        license: Identifier of its license, where known.
        top1: Published top-1 accuracy on ImageNet in per cent, where known.
        mean: Mean of the images in 0..1 that it was trained with.
        std: Their standard deviation.
    """

    builder: str
    revision: str | None = None
    license: str | None = None
    top1: float | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True)
class EncoderWeights:
    """The weights of an encoder family.

    Attributes:
        module: The family's class, `"package.module:Class"`.
        key_map: `key_map(encoder, source)`, the names of the encoder's variables in a library.
        stem: Path of the first convolution in the encoder's variables, such as `"stem/conv"`, whose
            kernel `load` adapts to images of other channels.
        classifier: `classifier(head, source)`, the names of a `DenseHead`; None if the family's
            classifiers cannot be loaded.
        ignored: Regular expressions of PyTorch names in a file of the family that belong to its
            classifier, not to the encoder.
        sources: The libraries that have the family.
        hub: The files on the Hugging Face hub by name.
    """

    module: str
    key_map: Callable[[Any, str], KeyMap]
    stem: str
    classifier: Callable[[Any, str], KeyMap] | None = None
    ignored: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("smp", "timm", "torchvision")
    hub: Mapping[str, Published] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The names of one architecture's variables in a library.

    Attributes:
        key_map: `key_map(model, encoder_weights)`, the names of all variables outside of the
            encoder.
        encoder: What the names of the encoder's variables begin with, such as `"backbone"`; None if
            `key_map` names them too.
        parts: The modules of the model that the file fills; empty for all.
    """

    key_map: Callable[[Any, EncoderWeights], KeyMap]
    encoder: str | None = ""
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelWeights:
    """The weights of an architecture.

    Attributes:
        module: The class of the decoder, or of the network that has none, `"package.module:Class"`.
        layouts: For each library that has the architecture, how it names the variables.
        hub: The files on the Hugging Face hub by name.
    """

    module: str
    layouts: Mapping[str, Layout]
    hub: Mapping[str, Published] = field(default_factory=dict)


def smp_layout(decoder: KeyMap) -> Layout:
    """Returns the layout of segmentation_models.pytorch: encoder, decoder and two heads.

    Args:
        decoder: Names of the decoder's variables.
    """
    heads = KeyMap(
        (("head/conv", "segmentation_head.0"), ("image_head/dense", "classification_head.3"))
    )
    key_map = decoder.under("decoder", "decoder") + heads
    return Layout(lambda model, encoder: key_map, encoder="encoder")


def class_path(module: Any) -> str:
    """Returns `"package.module:Class"` of an object.

    >>> class_path(Source())
    'jaxseg.pretrained.weights:Source'
    """
    return f"{type(module).__module__}:{type(module).__qualname__}"


def find(module: Any, specs: Iterable[Any], known: Mapping[str, Any]) -> Any:
    """Returns the spec of a module's class, or None.

    Args:
        module: An encoder, a decoder or a network.
        specs: Specs that come first.
        known: Specs by the path of their class, which come last; those that the file of the class
            has as `WEIGHTS`, one or a tuple, come before.
    """
    path = class_path(module)
    own = getattr(sys.modules.get(type(module).__module__), "WEIGHTS", ())
    for spec in (*specs, *(own if isinstance(own, tuple) else (own,))):
        if spec.module == path:
            return spec
    return known.get(path)
