"""The weights of image classifiers in torchvision and timm; each family has its dense layers' names."""

from functools import partial
from typing import Any

from jaxseg.errors import InputError
from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import EncoderWeights, Layout, ModelWeights, class_path

HEAD = "jaxseg.models.classifier:DenseHead"


def dense_layers(model: Any, encoder: EncoderWeights, source: str) -> KeyMap:
    """Returns the names of the dense layers' variables.

    Raises:
        InputError: If the head has no dense layers, or the family no classifier.
    """
    if class_path(model.head) != HEAD:
        raise InputError(
            f"there are no names for the head {type(model.head).__name__}: load into the classifier "
            "with its DenseHead, and make it fully convolutional afterwards"
        )
    if encoder.classifier is None:
        raise InputError(
            f"there are no names for the classifier of {type(model.encoder).__name__}: load into "
            "the encoder"
        )
    return encoder.classifier(model.head, source).under("head")


WEIGHTS = ModelWeights(
    "jaxseg.models.classifier:Classifier",
    {source: Layout(partial(dense_layers, source=source)) for source in ("timm", "torchvision")},
)
