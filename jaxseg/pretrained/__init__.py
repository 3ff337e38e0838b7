"""Weights from smp, timm, torchvision and torchfcn, and back. Nothing is ever unpickled."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.errors import InputError, unknown
from jaxseg.pretrained import fcn, fpn, hub, resnet, unet, vgg
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
_STEMS = (resnet.STEM, vgg.STEM, *fcn.STEMS)
_DECODERS = {"UNet": unet.TABLE, "FPN": fpn.TABLE}
_HEADS = Table(
    (("head/conv", "segmentation_head.0"), ("image_head/dense", "classification_head.3"))
)
SOURCES = ("smp", "timm", "torchvision", "torchfcn")


def from_torch(
    model: Any, variables: Variables, state_dict: Mapping[str, Any], *, source: str = "smp"
) -> dict[str, Any]:
    """Variables with the values of a PyTorch state dict.

    Args:
        model: The model that `variables` belong to: a `SegmentationModel`, a network of
            `jaxseg.networks`, a `Classifier` or an encoder.
        variables: Its variables, which are not changed, or what `jax.eval_shape` says of them.
        state_dict: PyTorch names to arrays.
        source: Whose names they are. `"smp"` fills a whole U-Net or FPN, `"timm"` and
            `"torchvision"` a whole `Classifier`, or an encoder: that of a model, whose other
            variables are kept; in an `FCNVGG` they fill fc6 and fc7 too. `"torchvision"` fills the
            whole of `jaxseg.models.fcn` where names begin with `backbone.`, and `"torchfcn"` an
            `FCNVGG`, with the names of Caffe's layers.

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
    table, parts = _plan(model, source, state_dict)
    if not parts:
        return fill(table, variables, state_dict)
    filled = fill(table, _select(variables, parts), state_dict)
    result = {key: dict(tree) | filled.get(key, {}) for key, tree in variables.items()}
    shapes = [
        "/".join(path)
        for path, leaf in leaves(result)
        if not isinstance(leaf, jax.Array | np.ndarray)
    ]
    if shapes:
        raise InputError(
            f"source {source!r} fills the {', '.join(parts)} alone, and the other variables are shapes "
            f"without values ({shapes[0]} and {len(shapes) - 1} more): pass what model.init returns"
        )
    return result


def to_torch(model: Any, variables: Variables, *, source: str = "smp") -> dict[str, np.ndarray]:
    """The PyTorch state dict of variables, the exact inverse of `from_torch`.

    Args:
        model: The model that `variables` belong to: a `SegmentationModel`, a network of
            `jaxseg.networks`, a `Classifier` or an encoder.
        variables: Its variables.
        source: Whose names to use: `"smp"` for a whole U-Net or FPN, `"torchfcn"` for an `FCNVGG`,
            `"torchvision"` for the whole of `jaxseg.models.fcn`; else `"timm"` or `"torchvision"`
            for a `Classifier`, or a model's encoder (with fc6 and fc7 of an `FCNVGG`).

    Returns:
        PyTorch names to arrays, which `load_state_dict(..., strict=True)` accepts once they are
        tensors (`num_batches_tracked` has no counterpart, and PyTorch does without). What the model
        does not have is not in it: timm's classifier, the stages below an encoder's `depth`.

    Raises:
        InputError: If there is no table for the model.
    """
    table, parts = _plan(model, source)
    return export(table, _select(variables, parts) if parts else variables)


def load(model: Any, variables: Variables, name: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables with weights from the Hugging Face hub or from a local `.safetensors` file.

    A file with names of `segmentation_models.pytorch` or torchfcn fills the whole model, and so does
    one of torchvision's `fcn_resnet50`; one with those of timm or torchvision's classifiers the
    encoder, or a whole `Classifier`. If the encoder's `in_channels` is not 3, the first kernel is
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
    source = "torchfcn" if "score_fr" in beginnings else source
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


def _select(variables: Variables, parts: tuple[str, ...]) -> dict[str, Any]:
    """The variables of these modules alone."""
    selected = {
        key: {part: tree[part] for part in parts if part in tree} for key, tree in variables.items()
    }
    return {key: tree for key, tree in selected.items() if tree}


def _plan(
    model: Any, source: str, names: Iterable[str] | None = None
) -> tuple[Table, tuple[str, ...]]:
    """The table for a model, and which modules inside of it to translate (none for all of it).

    `names` are those of the state dict, which tell torchvision's whole networks from its encoders;
    left out, whatever can be a whole network is one.
    """
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
        return _classifier_table(model, table.under("encoder"), family, source), ()
    decoder = type(getattr(model, "decoder", model)).__name__
    if source == "torchfcn":
        return _torchfcn_table(model, decoder), ()
    if decoder == "FCNVGG" and source != "smp":
        return table.under("encoder") + fcn.dense(source), ("encoder", "fc6", "fc7")
    if (decoder, family, source) == ("FCNHead", "ResNet", "torchvision") and (
        names is None or any(name.startswith("backbone.") for name in names)
    ):
        heads = fcn.torchvision(len(model.aux_heads))
        return table.under("encoder", "backbone") + heads, ()
    table = table + _WITHOUT_CLASSIFIER[family]
    if not whole:
        return table, ()
    if source != "smp":
        return table.under("encoder"), ("encoder",)
    if decoder not in _DECODERS:
        raise InputError(
            f"segmentation_models.pytorch has no {decoder}; "
            f"there are tables for {' and '.join(_DECODERS)}"
        )
    return table.under("encoder", "encoder") + _DECODERS[decoder].under(
        "decoder", "decoder"
    ) + _HEADS, ()


def _torchfcn_table(model: Any, decoder: str) -> Table:
    if decoder != "FCNVGG" or model.encoder.batch_norm:
        raise InputError(
            "torchfcn has the paper's FCN on a VGG without batch normalisation and nothing else: "
            "take fcn_vgg_32s, fcn_vgg_16s or fcn_vgg_8s on vgg16"
        )
    learned = model.learn_fusing, model.learn_last
    return fcn.torchfcn(model.encoder.convolutions, model.stride, model.num_classes, learned)


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
