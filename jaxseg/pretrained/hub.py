"""Files of weights: on the Hugging Face hub, in its cache, or a local `.safetensors` file."""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from jaxseg.errors import InputError
from jaxseg.pretrained.encoders import ENCODERS
from jaxseg.pretrained.models import MODELS
from jaxseg.pretrained.weights import IMAGENET_MEAN, IMAGENET_STD, Published

HUB: dict[str, Published] = {
    name: published
    for spec in (*ENCODERS.values(), *MODELS.values())
    for name, published in spec.hub.items()
}
"""The files that specs know, by name. A name without a revision stands for theirs. Any other name
follows its repository's main branch, and the log says which commit that was; `pin` returns the name
that fixes it."""

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?")
_log = logging.getLogger(__name__)


def locate(name: str | os.PathLike[str]) -> Path:
    """Returns the path of a file of weights, downloaded to the hub's cache if it is not there.

    Args:
        name: `"owner/repository"`, `"owner/repository@revision"`, or the path of a `.safetensors`
            file.

    Raises:
        InputError: If there is no such file or repository, the network cannot be reached, or the
            file is a pickle.
    """
    path = Path(name)
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path}: pickled weights can run any code, so they are not read. Where you trust the "
            "file, convert it once with PyTorch: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )
    if _is_local(name):
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        return path
    repository, revision = split(os.fspath(name))
    local = _download(repository, revision, "model.safetensors")
    if revision == "main":
        _log.warning(
            "weights of %s@%s: a name with that commit stays the same", repository, _commit(local)
        )
    return local


def split(name: str) -> tuple[str, str]:
    """Returns the repository and revision of a hub name.

    >>> split("timm/resnet34.a1_in1k@1234abc"), split("timm/resnet101.a1_in1k")
    (('timm/resnet34.a1_in1k', '1234abc'), ('timm/resnet101.a1_in1k', 'main'))
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"{name!r} is neither a .safetensors file nor a name on the hub such as "
            "'timm/resnet34.a1_in1k' or 'timm/resnet34.a1_in1k@revision'"
        )
    repository = match["repository"]
    known = HUB.get(repository, Published("")).revision
    return repository, match["revision"] or known or "main"


def pin(name: str | os.PathLike[str]) -> str:
    """Returns the name that always stands for the same weights: a hub name gets its commit.

    >>> pin("timm/resnet18.a1_in1k")
    'timm/resnet18.a1_in1k@491b427b45c94c7fb0e78b5474cc919aff584bbf'

    Raises:
        InputError: If a local file does not exist, or the hub does not have the repository.
    """
    if _is_local(name):
        if not Path(name).is_file():
            raise InputError(f"{os.fspath(name)}: there is no such file of weights")
        return os.fspath(name)
    repository, revision = split(os.fspath(name))
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        revision = _commit(_download(repository, revision, "model.safetensors"))
    return f"{repository}@{revision}"


def _is_local(name: str | os.PathLike[str]) -> bool:
    return Path(name).suffix == ".safetensors" or Path(name).is_file()


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.safetensors` file.

    Raises:
        InputError: If it is another kind of file, or is damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, OSError) as error:
        raise InputError(f"{path} is not a readable .safetensors file: {error}") from error


def normalization(name: str | os.PathLike[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of the images in 0..1 that weights were trained with.

    The specs know those of the names in `HUB`, and timm's repositories have theirs in a
    `config.json`. For every other repository, for local files, and, with a line in the log, where
    `config.json` cannot be downloaded, they are ImageNet's.

    Args:
        name: As for `jaxseg.pretrained.load`.

    Returns:
        Mean and standard deviation, one number per channel of an RGB image.

    >>> normalization("my_weights.safetensors")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if _is_local(name):
        return IMAGENET_MEAN, IMAGENET_STD
    repository, revision = split(os.fspath(name))
    known = HUB.get(repository)
    if known is not None and revision == (known.revision or "main"):
        return known.mean, known.std
    try:
        text = _download(repository, revision, "config.json").read_text(encoding="utf-8")
        config = json.loads(text).get("pretrained_cfg", {})
        return tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    except (InputError, ValueError, OSError) as error:
        _log.warning(
            "%s: using ImageNet's mean and standard deviation, as there is no config.json (%s)",
            name,
            error,
        )
        return IMAGENET_MEAN, IMAGENET_STD


def _download(repository: str, revision: str, filename: str) -> Path:
    # Imported here because it takes half a second.
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    file = f"{filename} of {repository}@{revision} on the Hugging Face hub"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, filename, revision=revision))
    except hub_errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{file} is not in the cache, and the hub cannot be reached (no network, or "
            "HF_HUB_OFFLINE is set). Run once with a network, or pass the path of a .safetensors file"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        raise InputError(f"there is no {file}") from error
    except hub_errors.RevisionNotFoundError as error:
        raise InputError(
            f"there is no revision {revision!r} of {repository} on the Hugging Face hub"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise InputError(
            f"there is no (public) repository {repository!r} on the Hugging Face hub"
        ) from error
    except Exception as error:  # its HTTP client has many kinds
        raise InputError(f"{file} cannot be downloaded: {error}") from error


def _commit(path: Path) -> str:
    """Returns the commit of a file in the hub's cache, whose folder is named after it."""
    return path.parent.name
