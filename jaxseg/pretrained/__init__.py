"""Weights from smp, timm and torchvision, and back. Nothing is ever unpickled."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.errors import InputError, unknown
from jaxseg.pretrained import fpn, hub, resnet, unet, vgg
from jaxseg.pretrained.hub import normalization, pin
from jaxseg.pretrained.table import Table, export, fill, leaves
from jaxseg.typing import Variables

__all__ = ["from_torch", "load", "normalization", "pin", "to_torch"]

_ENCODERS = {
    "ResNet": lambda encoder: resnet.table(encoder.depth),
    "VGG": lambda encoder: vgg.table(encoder.convolutions, encoder.batch_norm, encoder.depth),
}
_WITHOUT_CLASSIFIER = {"ResNet": resnet.WITHOUT_CLASSIFIER, "VGG": vgg.WITHOUT_CLASSIFIER}
_CLASSIFIERS = {
    "ResNet": lambda head, source: resnet.CLASSIFIER,
    "VGG": lambda head, source: vgg.classifier(tuple(head.window), source),
}
_STEMS = (resnet.STEM, vgg.STEM)
_DECODERS = {"UNet": unet.TABLE, "FPN": fpn.TABLE}
_HEADS = Table(
    (("head/conv", "segmentation_head.0"), ("image_head/dense", "classification_head.3"))
)
SOURCES = ("smp", "timm", "torchvision")


def from_torch(
    model: Any, variables: Variables, state_dict: Mapping[str, Any], *, source: str = "smp"
) -> dict[str, Any]:
    """Variables with the values of a PyTorch state dict.

    Args:
        model: The model that `variables` belong to: a `SegmentationModel`, a `Classifier` or an
            encoder.
        variables: Its variables, which are not changed, or what `jax.eval_shape` says of them.
        state_dict: PyTorch names to arrays.
        source: Whose names they are. `"smp"` fills a whole U-Net or FPN, `"timm"` and
            `"torchvision"` a whole `Classifier`, or an encoder: that of a `SegmentationModel`, whose
            other variables are kept.

    Returns:
        New variables, of the same structure, shapes and types.

    Raises:
        InputError: If there is no table for the model, or names or shapes differ; all of them are
            listed.

    >>> import jax.numpy as jnp
    >>> from jaxseg.encoders import resnet18
    >>> encoder = resnet18(depth=1)
    >>> variables = encoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> state_dict = to_torch(encoder, variables, source="timm")
    >>> state_dict["conv1.weight"].shape
    (64, 3, 7, 7)
    >>> again = from_torch(encoder, variables, state_dict, source="timm")
    >>> all(jax.tree.leaves(jax.tree.map(np.array_equal, again, variables)))
    True
    """
    table, inside = _plan(model, source)
    if not inside:
        return fill(table, variables, state_dict)
    filled = fill(
        table, {key: tree[inside] for key, tree in variables.items() if inside in tree}, state_dict
    )
    result = {
        key: dict(tree) | ({inside: filled[key]} if key in filled else {})
        for key, tree in variables.items()
    }
    shapes = [
        "/".join(path)
        for path, leaf in leaves(result)
        if not isinstance(leaf, jax.Array | np.ndarray)
    ]
    if shapes:
        raise InputError(
            f"source {source!r} fills the encoder alone, and the other variables are shapes without "
            f"values ({shapes[0]} and {len(shapes) - 1} more): pass what model.init returns"
        )
    return result


def to_torch(model: Any, variables: Variables, *, source: str = "smp") -> dict[str, np.ndarray]:
    """The PyTorch state dict of variables, the exact inverse of `from_torch`.

    Args:
        model: The model that `variables` belong to: a `SegmentationModel`, a `Classifier` or an
            encoder.
        variables: Its variables.
        source: Whose names to use: `"smp"` for a whole U-Net or FPN, `"timm"` or `"torchvision"`
            for a `Classifier` or the encoder.

    Returns:
        PyTorch names to arrays, which `load_state_dict(..., strict=True)` accepts once they are
        tensors (`num_batches_tracked` has no counterpart, and PyTorch does without). What the model
        does not have is not in it: timm's classifier, the stages below an encoder's `depth`.

    Raises:
        InputError: If there is no table for the model.
    """
    table, inside = _plan(model, source)
    if inside:
        variables = {key: tree[inside] for key, tree in variables.items() if inside in tree}
    return export(table, variables)


def load(model: Any, variables: Variables, name: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables with weights from the Hugging Face hub or from a local `.safetensors` file.

    A file with names of `segmentation_models.pytorch` fills the whole model, one with those of timm
    or torchvision the encoder, or a whole `Classifier`. If the encoder's `in_channels` is not 3, the first kernel is
    adapted: summed over its channels for one, otherwise repeated cyclically and scaled by `3 /
    in_channels`, so that the sums that follow keep their size.

    Args:
        model: The model that `variables` belong to: a `SegmentationModel`, a `Classifier` or an
            encoder.
        variables: Its variables, which are not changed.
        name: `"timm/resnet34.a1_in1k"`, the same with `"@revision"`, or the path of a
            `.safetensors` file.

    Returns:
        New variables, of the same structure, shapes and types.

    Raises:
        InputError: If the file cannot be had or read, or does not match the model.
    """
    state_dict = hub.read(hub.locate(name))
    beginnings = {key.partition(".")[0] for key in state_dict}
    source = "smp" if "decoder" in beginnings else "timm"
    source = "torchvision" if "classifier" in beginnings else source
    prefix = "encoder." if source == "smp" else ""
    in_channels = getattr(getattr(model, "encoder", model), "in_channels", 3)
    for stem in (prefix + name for name in _STEMS):
        if in_channels != 3 and stem in state_dict and state_dict[stem].shape[1] == 3:
            state_dict[stem] = adapt_channels(state_dict[stem], in_channels)
    try:
        return from_torch(model, variables, state_dict, source=source)
    except InputError as error:
        raise InputError(f"{os.fspath(name)}: {error}") from error


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The first kernel `[out, 3, h, w]` for images of other channels, adapted as in smp.

    >>> adapt_channels(np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), 4).ravel().tolist()
    [0.75, 1.5, 2.25, 0.75]
    """
    if channels == 1:
        return kernel.sum(1, keepdims=True)
    given = kernel.shape[1]
    return kernel[:, np.arange(channels) % given] * np.asarray(given / channels, kernel.dtype)


def _plan(model: Any, source: str) -> tuple[Table, str]:
    """The table for a model, and which module inside of it to translate ("" for all of it)."""
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    whole = hasattr(model, "encoder")
    encoder = model.encoder if whole else model
    family = type(encoder).__name__
    if family not in _ENCODERS:
        raise InputError(
            f"there is no table for the encoder {family}; there are tables for "
            f"{' and '.join(_ENCODERS)}"
        )
    table = _ENCODERS[family](encoder)
    if type(model).__name__ == "Classifier":
        return _classifier_table(model, table.under("encoder"), family, source), ""
    table = table + _WITHOUT_CLASSIFIER[family]
    if not whole or source != "smp":
        return table, "encoder" if whole else ""
    decoder = type(getattr(model, "decoder", model)).__name__
    if decoder not in _DECODERS:
        raise InputError(
            f"segmentation_models.pytorch has no {decoder}; "
            f"there are tables for {' and '.join(_DECODERS)}"
        )
    return table.under("encoder", "encoder") + _DECODERS[decoder].under(
        "decoder", "decoder"
    ) + _HEADS, ""


def _classifier_table(model: Any, encoder: Table, family: str, source: str) -> Table:
    if source == "smp":
        raise InputError(
            "segmentation_models.pytorch has no classifiers; the sources of a Classifier are "
            "timm and torchvision"
        )
    head = type(model.head).__name__
    if head != "DenseHead":
        raise InputError(
            f"there is no table for the head {head}: load into the classifier with its DenseHead, "
            "and make it fully convolutional afterwards"
        )
    return encoder + _CLASSIFIERS[family](model.head, source).under("head")
