"""Variables from PyTorch state dicts and from files of weights, and back."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.errors import InputError
from jaxseg.images import channels_of
from jaxseg.pretrained import hub
from jaxseg.pretrained.key_map import export, fill, leaves
from jaxseg.pretrained.plan import Spec, make_plan
from jaxseg.pretrained.weights import SOURCES
from jaxseg.typing import Variables


def from_torch(
    model: Any,
    variables: Variables,
    state_dict: Mapping[str, Any],
    *,
    source: str = "smp",
    specs: Iterable[Spec] = (),
) -> dict[str, Any]:
    """Returns variables with the values of a PyTorch state dict.

    Args:
        model: The model that `variables` belong to: one of `jaxseg.models`, a `Classifier` or an
            encoder.
        variables: Its variables, which are not changed, or their shapes from `jax.eval_shape`.
        state_dict: PyTorch names to arrays.
        source: The library whose names they are. `"smp"` fills a whole U-Net or FPN, `"timm"` and
            `"torchvision"` a whole `Classifier`, or an encoder: that of a model, whose other
            variables are kept; in an `FCNVGG` they fill fc6 and fc7 too. `"torchvision"` fills the
            whole of `jaxseg.models.fcn` where names begin with `backbone.`, and `"torchfcn"` an
            `FCNVGG`, with the names of Caffe's layers.
        specs: `EncoderWeights` and `ModelWeights` for modules that jaxseg does not know.

    Returns:
        New variables, of the same structure, shapes and types.

    Raises:
        InputError: If there is no spec for the model, or names or shapes differ; the message lists
            all of them.

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
    plan = make_plan(model, source, state_dict, specs)
    if not plan.parts:
        return fill(plan.key_map, variables, state_dict)
    filled = fill(plan.key_map, _select(variables, plan.parts), state_dict)
    result = {key: dict(tree) | filled.get(key, {}) for key, tree in variables.items()}
    shapes = [
        "/".join(path)
        for path, leaf in leaves(result)
        if not isinstance(leaf, jax.Array | np.ndarray)
    ]
    if shapes:
        raise InputError(
            f"source {source!r} fills the {', '.join(plan.parts)} alone, and the other variables are "
            f"shapes without values ({shapes[0]} and {len(shapes) - 1} more): pass what model.init "
            "returns"
        )
    return result


def to_torch(
    model: Any, variables: Variables, *, source: str = "smp", specs: Iterable[Spec] = ()
) -> dict[str, np.ndarray]:
    """Returns the PyTorch state dict of variables, the exact inverse of `from_torch`.

    Args:
        model: The model that `variables` belong to: one of `jaxseg.models`, a `Classifier` or an
            encoder.
        variables: Its variables.
        source: The library whose names to use: `"smp"` for a whole U-Net or FPN, `"torchfcn"` for
            an `FCNVGG`, `"torchvision"` for the whole of `jaxseg.models.fcn`; else `"timm"` or
            `"torchvision"` for a `Classifier`, or a model's encoder (with fc6 and fc7 of an
            `FCNVGG`).
        specs: As in `from_torch`.

    Returns:
        PyTorch names to arrays, which `load_state_dict(..., strict=True)` accepts once they are
        tensors (`num_batches_tracked` has no counterpart, and PyTorch does without). It lacks what
        the model lacks: timm's classifier, the stages below an encoder's `depth`.

    Raises:
        InputError: If there is no spec for the model.
    """
    plan = make_plan(model, source, None, specs)
    return export(plan.key_map, _select(variables, plan.parts) if plan.parts else variables)


def load(
    model: Any,
    variables: Variables,
    name: str | os.PathLike[str],
    *,
    specs: Iterable[Spec] = (),
) -> dict[str, Any]:
    """Returns variables with weights from the Hugging Face hub or from a `.safetensors` file.

    A file with names of `segmentation_models.pytorch` or torchfcn fills the whole model, and so does
    one of torchvision's `fcn_resnet50`; one with those of timm or torchvision's classifiers the
    encoder, or a whole `Classifier`. If the encoder's `in_channels` is not 3, the first kernel is
    adapted: summed over its channels for one, otherwise repeated cyclically and scaled by `3 /
    in_channels`, so that the sums that follow keep their size.

    Args:
        model: The model that `variables` belong to: one of `jaxseg.models`, a `Classifier` or an
            encoder.
        variables: Its variables, which are not changed.
        name: `"timm/resnet34.a1_in1k"`, the same with `"@revision"`, or the path of a
            `.safetensors` file.
        specs: As in `from_torch`.

    Returns:
        New variables, of the same structure, shapes and types.

    Raises:
        InputError: If the file cannot be downloaded or read, or does not match the model.
    """
    state_dict = hub.read(hub.locate(name))
    specs = tuple(specs)
    source = _guess_source(state_dict)
    in_channels = channels_of(model)
    try:
        stem = make_plan(model, source, state_dict, specs).stem
        if in_channels != 3 and stem in state_dict and state_dict[stem].shape[1] == 3:
            state_dict[stem] = adapt_channels(state_dict[stem], in_channels)
        return from_torch(model, variables, state_dict, source=source, specs=specs)
    except InputError as error:
        raise InputError(f"{os.fspath(name)}: {error}") from error


def _guess_source(names: Iterable[str]) -> str:
    """Returns the library that a file's names come from, timm where nothing tells."""
    beginnings = {name.partition(".")[0] for name in names}
    marked = [name for name, source in SOURCES.items() if source.marker in beginnings]
    return marked[0] if marked else "timm"


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns the first kernel `[out, 3, h, w]` for images of other channels, adapted as in smp.

    >>> adapt_channels(np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), 4).ravel().tolist()
    [0.75, 1.5, 2.25, 0.75]
    """
    if channels == 1:
        return kernel.sum(1, keepdims=True)
    count = kernel.shape[1]
    return kernel[:, np.arange(channels) % count] * np.asarray(count / channels, kernel.dtype)


def _select(variables: Variables, parts: tuple[str, ...]) -> dict[str, Any]:
    """Returns the variables of these modules alone."""
    selected = {
        key: {part: tree[part] for part in parts if part in tree} for key, tree in variables.items()
    }
    return {key: tree for key, tree in selected.items() if tree}
