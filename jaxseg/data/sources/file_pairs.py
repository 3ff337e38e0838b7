"""Pairs of image and mask files below a folder, and the folders of splits."""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxseg.data.decode import SUFFIXES
from jaxseg.errors import InputError

IMAGE_FOLDERS = ("images", "img_dir")
MASK_FOLDERS = ("masks", "labels", "annotations", "ann_dir")
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""The names of splits, and the names of folders that stand for them."""


def require_root(source: str, root: str | None) -> Path:
    """Returns the root of a data source as a path.

    Args:
        source: The source's name, for the message.
        root: The root, or None.

    Raises:
        InputError: There is no root.
    """
    if root is None:
        raise InputError(f"data source {source!r} needs a root folder (--data.root)")
    return Path(root)


def match(
    images: Path, masks: Path, image_suffix: str = "", mask_suffix: str = ""
) -> tuple[tuple[str, str, str], ...]:
    """Pairs every image with its mask, by the path below the folder without its suffix.

    Args:
        images: The folder of images.
        masks: The folder of masks; those without an image are ignored.
        image_suffix: The end of the stems of images that masks lack.
        mask_suffix: The end of the stems of masks that images lack.

    Returns:
        (name, image file, mask file) of each image, sorted by name.

    Raises:
        InputError: A folder is missing or empty, two files have one stem, or an image has no mask.
    """
    image_files = _by_stem(images, "image", image_suffix)
    mask_files = _by_stem(masks, "mask", mask_suffix)
    missing = [stem for stem in image_files if stem not in mask_files]
    if missing:
        first = ", ".join(str(image_files[stem]) for stem in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        guess = _guess_suffix(missing, mask_files)
        hint = f"; masks seem to end in {guess!r}: give mask_suffix={guess!r}" if guess else ""
        raise InputError(
            f"{len(missing)} of {len(image_files)} images have no mask of the same stem in {masks}:"
            f" {first}{more}{hint}"
        )
    return tuple(
        (stem, str(image_files[stem]), str(mask_files[stem])) for stem in sorted(image_files)
    )


def find_pair(root: Path, below: str = "") -> tuple[Path, Path] | None:
    """Returns the folders of images and masks in a root, or their subfolders `below`, or None."""
    for images in IMAGE_FOLDERS:
        for masks in MASK_FOLDERS:
            pair = root / images / below, root / masks / below
            if all(folder.is_dir() for folder in pair):
                return pair
    return None


def find_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """Returns the folders of images and masks of every split in a root, by the name in `SPLITS`."""
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            if pair := find_pair(root, name) or find_pair(root / name):
                found[split] = pair
                break
    return found


def images_without_masks(root: Path, split: str) -> Path | None:
    """Returns a folder of a split's images, for a root in which the split has no masks, or None."""
    for name in SPLITS[split]:
        for images in IMAGE_FOLDERS:
            for folder in (root / images / name, root / name / images):
                if folder.is_dir():
                    return folder
    return None


def _by_stem(root: Path, kind: str, suffix: str) -> dict[str, Path]:
    """Returns the image files below a folder by their stem without the suffix."""
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"the folder of {kind}s {root} {state}")
    found: dict[str, Path] = {}
    others = 0
    for file in walk(root):
        if file.suffix.lower() not in SUFFIXES or not file.stem.endswith(suffix):
            others += 1
            continue
        stem = file.relative_to(root).with_suffix("").as_posix().removesuffix(suffix)
        stem = unicodedata.normalize("NFC", stem)  # archives from a Mac decompose accents
        if stem in found:
            raise InputError(
                f"two {kind}s have the stem {stem!r}: {found[stem]} and {file}; rename one"
            )
        found[stem] = file
    if not found:
        kinds = ", ".join(sorted(s[1:] for s in SUFFIXES))
        ending = f" whose stem ends in {suffix!r}" if suffix else ""
        state = f"it holds {others} other files" if others else "it is empty"
        raise InputError(f"no {kind} ({kinds}){ending} in {root}: {state}")
    return found


def walk(root: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yields all files below a folder, including those behind links, without hidden ones (`._a.png`).

    Args:
        root: The folder.
        above: The real paths of the folders that hold it; a link to one of them is not followed.
    """
    real = os.path.realpath(root)
    if real in above:
        return
    visible = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    yield from (path for path in visible if path.is_file())
    for folder in visible:
        if folder.is_dir():
            yield from walk(folder, (*above, real))


def _guess_suffix(missing: Sequence[str], mask_files: Mapping[str, Path]) -> str:
    """Returns the suffix that the masks of all these images have in common, or an empty string."""
    endings = {mask.removeprefix(missing[0]) for mask in mask_files if mask.startswith(missing[0])}
    for ending in sorted(endings):
        if all(stem + ending in mask_files for stem in missing):
            return ending
    return ""
