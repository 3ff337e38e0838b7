"""The readers of external files as functions of bytes: each returns or raises `InputError`; other errors are defects."""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxseg import recipe as recipes
from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.data.sources.file_list import read_list
from jaxseg.data.sources.tfds_dataset import TFDS
from jaxseg.errors import InputError
from jaxseg.pretrained import hub

CORPUS = Path(__file__).parent / "corpus"
_ROOT = Path(tempfile.mkdtemp(prefix="jaxseg-fuzz-"))
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)


def mask(data: bytes) -> None:
    """Reads an encoded image, as a mask and as an image."""
    for decode in (decode_mask, decode_image):
        with contextlib.suppress(InputError):
            decode(data)


def listing(data: bytes) -> None:
    """Reads a list of images and masks; no path may lead out of the root."""
    root = _ROOT / "data"
    if not root.exists():
        (root / "images").mkdir(parents=True)
        (root / "images" / "a.png").touch()
        (root / "b.png").touch()
        (root / "out").symlink_to("/")
    file = _ROOT / "list.txt"
    file.write_bytes(data)
    with contextlib.suppress(InputError):
        for _, *paths in read_list(root, file):
            assert all(os.path.realpath(path).startswith(str(root.resolve())) for path in paths)


def weights(data: bytes) -> None:
    """Reads a .safetensors file."""
    file = _ROOT / "weights.safetensors"
    file.write_bytes(data)
    with contextlib.suppress(InputError):
        hub.read(hub.locate(file))


def recipe(data: bytes) -> None:
    """Reads a recipe.json."""
    file = _ROOT / "recipe.json"
    file.write_bytes(data)
    with contextlib.suppress(InputError):
        read = recipes.checked(recipes.load(file))
        assert recipes.from_dict(recipes.to_dict(read)) == read


def builder(data: bytes) -> None:
    """Reads a prepared TFDS data set in which the remaining bytes replace the file that the first byte selects."""
    source = prepared()
    files = sorted(path for path in source.rglob("*") if path.is_file())
    directory = _ROOT / "tfds"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(source, directory)
    if data:
        (directory / files[data[0] % len(files)].relative_to(source)).write_bytes(data[1:])
    with contextlib.suppress(InputError):
        records = TFDS("camvid", "train", data_dir=directory)
        for index in range(len(records)):
            _ = records[index]


def prepared() -> Path:
    """Returns a TFDS data directory with CamVid of one image per split, prepared once."""
    directory, raw = _ROOT / "prepared", _ROOT / "raw"
    if not directory.exists():
        for split in ("train", "val", "test"):
            for folder in (split, f"{split}annot"):
                (raw / folder).mkdir(parents=True)
                shutil.copy(CORPUS / "mask" / "grey.png", raw / folder / "a.png")
        TFDS("camvid", "train", data_dir=directory, manual_dir=raw)
    return directory


TARGETS: dict[str, Callable[[bytes], None]] = {
    "mask": mask,
    "listing": listing,
    "weights": weights,
    "recipe": recipe,
    "builder": builder,
}
