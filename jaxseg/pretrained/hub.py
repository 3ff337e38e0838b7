"""Where weights lie: the Hugging Face hub with its cache, or a local `.safetensors` file."""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from jaxseg.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

REVISIONS = {
    "timm/resnet18.a1_in1k": "491b427b45c94c7fb0e78b5474cc919aff584bbf",
    "timm/resnet34.a1_in1k": "0e8757122c4c09b15fb9300c0fd09b3fe89e28bf",
    "timm/resnet50.a1_in1k": "767268603ca0cb0bfe326fa87277f19c419566ef",
    "timm/resnet101.a1h_in1k": "31c8dd57af17e8f4a74423ce917e37a3f8d71175",
    "timm/resnet152.a1_in1k": "3f553c69c9d64f01c50dfb6462bdf2dad727ad23",
    "timm/resnet18.tv_in1k": "bbd144b3e5565108aad885f145491d11bc6ce807",
    "timm/resnet34.tv_in1k": "1b7b21cca82ff974d341713f777bf740c2db38c4",
    "timm/resnet50.tv_in1k": "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
    "smp-hub/resnet18.imagenet": "3f2325ff978283d47aa6a1d6878ca20565622683",
    "smp-hub/resnet34.imagenet": "7a57b34f723329ff020b3f8bc41771163c519d0c",
    "smp-hub/resnet50.imagenet": "00cb74e366966d59cd9a35af57e618af9f88efe9",
    "smp-hub/resnet101.imagenet": "cd7c15e8c51da86ae6a084515fdb962d0c94e7d1",
    "smp-hub/resnet152.imagenet": "951dd835e9d086628e447b484584c8983f9e1dd0",
}
"""The commits that names without a revision stand for. Any other name follows its repository's
main branch, and the log says which commit that was; `pin` gives the name that fixes it."""

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?")
_log = logging.getLogger(__name__)


def locate(name: str | os.PathLike[str]) -> Path:
    """The local file of weights, downloaded to the hub's cache first if need be.

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
    if repository not in REVISIONS and revision == "main":
        _log.warning(
            "weights of %s@%s: a name with that commit stays the same", repository, _commit(local)
        )
    return local


def split(name: str) -> tuple[str, str]:
    """Repository and revision of a hub name.

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
    return repository, match["revision"] or REVISIONS.get(repository, "main")


def pin(name: str | os.PathLike[str]) -> str:
    """The name that stands for the same weights for ever: a hub name gets its commit.

    >>> pin("timm/resnet18.a1_in1k")
    'timm/resnet18.a1_in1k@491b427b45c94c7fb0e78b5474cc919aff584bbf'
    """
    if _is_local(name):
        return os.fspath(name)
    repository, revision = split(os.fspath(name))
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        revision = _commit(_download(repository, revision, "model.safetensors"))
    return f"{repository}@{revision}"


def _is_local(name: str | os.PathLike[str]) -> bool:
    return Path(name).suffix == ".safetensors" or Path(name).is_file()


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file.

    Raises:
        InputError: If it is not one, or is damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, OSError) as error:
        raise InputError(f"{path} is not a readable .safetensors file: {error}") from error


def normalization(name: str | os.PathLike[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of images in 0..1 that weights were trained with.

    A repository of timm says so in its `config.json`. ImageNet's are the answer for every other
    repository and for local files, and, with a line in the log, where that file cannot be had.

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
    try:
        text = _download(repository, revision, "config.json").read_text(encoding="utf-8")
        config = json.loads(text).get("pretrained_cfg", {})
        return tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    except (InputError, ValueError, OSError) as error:
        _log.warning(
            "%s: taking ImageNet's mean and standard deviation, for want of a config.json (%s)",
            name,
            error,
        )
        return IMAGENET_MEAN, IMAGENET_STD


def _download(repository: str, revision: str, filename: str) -> Path:
    # Only here: it takes half a second, and albumentations imports all of it where its name is imported.
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    place = f"{filename} of {repository}@{revision} on the Hugging Face hub"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, filename, revision=revision))
    except hub_errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{place} is not in the cache, and the hub cannot be reached (no network, or "
            "HF_HUB_OFFLINE is set). Run once with a network, or pass the path of a .safetensors file"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        raise InputError(f"there is no {place}") from error
    except hub_errors.RevisionNotFoundError as error:
        raise InputError(
            f"there is no revision {revision!r} of {repository} on the Hugging Face hub"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise InputError(
            f"there is no (public) repository {repository!r} on the Hugging Face hub"
        ) from error
    except Exception as error:  # whatever its HTTP client raises: to the user it is all the same
        raise InputError(f"{place} cannot be had: {error}") from error


def _commit(path: Path) -> str:
    """The commit of a file in the hub's cache, whose folder is named after it."""
    return path.parent.name
