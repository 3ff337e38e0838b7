"""Folders of images and masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.data.label_spec import LabelOptions, LabelSpec
from jaxseg.data.labels import LabelMap
from jaxseg.data.sources.file_pairs import (
    SPLITS,
    find_pair,
    find_splits,
    images_without_masks,
    match,
    require_root,
)
from jaxseg.data.sources.subset import Subset, holdout
from jaxseg.errors import InputError, unknown


class Folder:
    """Images and masks of two folders, matched by stem.

    Files may lie in subfolders, the same in both; the stem is then the path below the folder. Suffixes may differ in kind
    and case (png, jpg, jpeg, tif, tiff, webp, bmp); other files and masks without an image are ignored. Each mask holds one
    class id per pixel.

    Args:
        images: The folder of images.
        masks: The folder of masks.
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: Names of the classes.
        palette: uint8 `[max(K, 2), 3]`; the colours of PASCAL VOC by default.
        ignore_index: The label of pixels that losses and metrics ignore.
        label_map: A `LabelMap`, or a mapping from stored to trained ids.
        image_suffix: The end of the stems of images that masks lack, such as `"_leftImg8bit"`.
        mask_suffix: The end of the stems of masks that images lack, such as `"_mask"`.

    Raises:
        InputError: A folder is missing or empty, two images have one stem, or an image has no mask. Reading a record raises
            it for files that do not decode, sizes that differ and labels outside the classes.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> (root / "images").mkdir(), (root / "masks").mkdir()
    (None, None)
    >>> Image.new("RGB", (4, 3)).save(root / "images" / "a.jpg")
    >>> Image.new("L", (4, 3), 1).save(root / "masks" / "a.png")
    >>> source = Folder(root / "images", root / "masks", num_classes=2)
    >>> len(source), source[0]["name"], source[0]["image"].shape, source.targets
    (1, 'a', (3, 4, 3), {'label': Target(kind='mask', fill=255)})
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        *,
        num_classes: int,
        classes: Sequence[str] = (),
        palette: np.ndarray | None = None,
        ignore_index: int = 255,
        label_map: LabelMap | Mapping[Any, Any] | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
    ):
        self.spec = LabelSpec(num_classes, tuple(classes), palette, ignore_index, label_map)
        self.num_classes, self.classes = num_classes, self.spec.classes
        self.palette, self.ignore_index = self.spec.palette, ignore_index
        self.targets = self.spec.targets
        self.files = match(Path(images), Path(masks), image_suffix, mask_suffix)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, image_file, mask_file = self.files[index]
        image, mask = decode_image(image_file), decode_mask(mask_file)
        return self.spec.record(image, mask, name, image_file, mask_file)


def folder(
    root: str | Path, split: str, *, fraction: float = 0.1, **options: Any
) -> Folder | Subset:
    """Returns the images and masks of one split below a root, in any of three layouts.

    - `root/images/train`, `root/masks/train`, the same for `val` and `test`;
    - `root/train/images`, `root/train/masks`, the same for `val` and `test`;
    - `root/images`, `root/masks`, without splits.

    `img_dir` may stand for `images`; `labels`, `annotations` or `ann_dir` for `masks`; `training`, `validation` and
    `testing` for the splits. Without a `val` split a fixed tenth of the training images, chosen by a hash of their stems,
    is held out for it.

    Args:
        root: The folder.
        split: `"train"`, `"val"` or `"test"`.
        fraction: The fraction held out for `val` if it has no folder, in (0, 1).
        **options: Those of `Folder`.

    Raises:
        InputError: There is no such layout or split, and as for `Folder`.
    """
    root = Path(root)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not root.is_dir():
        raise InputError(f"the data set's folder {root} does not exist")
    found = find_splits(root)
    if split in found and (split != "train" or "val" in found):
        return Folder(*found[split], **options)
    if split not in found and (images := images_without_masks(root, split)):
        raise InputError(f"{images} has no folder of masks beside it")
    undivided = found.get("train") or (None if found else find_pair(root))
    if undivided is None or split == "test":
        raise InputError(
            f"no {split!r} split in {root}; splits found: {', '.join(found) or 'none'}. Expected"
            f" images/{split} and masks/{split}, or {split}/images and {split}/masks"
        )
    return holdout(Folder(*undivided, **options), split, fraction=fraction)


@dataclass(frozen=True)
class FolderOptions:
    """Images and masks in folders below the root."""

    images: str | None = None
    """The images' folder below the root, where the layout is not a common one; {split} is replaced by the split. Without
    {split} a fixed tenth of the images is held out for validation."""
    masks: str | None = None
    """The masks' folder, like images."""
    image_suffix: str = ""
    """The end of the stems of images that masks lack, such as _leftImg8bit."""
    mask_suffix: str = ""
    """The end of the stems of masks that images lack, such as _mask."""

    def open(self, split: str, *, root: str | None, labels: LabelOptions) -> Folder | Subset:
        """Opens a split.

        Raises:
            InputError: There is no root or number of classes, or one of `images` and `masks` is missing.
        """
        path = require_root("folder", root)
        options: dict[str, Any] = labels.arguments(require="folder")
        options |= {"image_suffix": self.image_suffix, "mask_suffix": self.mask_suffix}
        if self.images is None and self.masks is None:
            return folder(path, split, **options)
        if self.images is None or self.masks is None:
            lacking = "images" if self.images is None else "masks"
            raise InputError(f"data source 'folder' needs both images and masks: give {lacking}")
        images, masks = (
            path / name.replace("{split}", split) for name in (self.images, self.masks)
        )
        source = Folder(images, masks, **options)
        if "{split}" in self.images + self.masks:
            return source
        return holdout(source, split)  # one folder for both: never validate on training images


SOURCES = {"folder": FolderOptions}
