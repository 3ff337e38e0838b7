"""The labels of a source: options of the user, and the check of every mask against them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg.data import labels as lib
from jaxseg.data.labels import LabelMap
from jaxseg.data.targets import LABEL, Targets, labels
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Options of the labels of a data set, as a user gives them; a source completes them.

    Attributes:
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: Names of the classes.
        ignore_index: The label, after the label map, of pixels that losses and metrics ignore.
        label_map: From stored to trained ids; None ignores an id.
        reduce_zero_label: Whether label 0 is ignored and every other label becomes one less.
    """

    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    ignore_index: int = 255
    label_map: Mapping[int, int | None] | None = None
    reduce_zero_label: bool = False

    def arguments(self, require: str | None = None) -> dict[str, Any]:
        """Returns the options that are set as keyword arguments of a source.

        Args:
            require: The name of a source that cannot know its number of classes.

        Raises:
            InputError: The number of classes is required and left out.

        >>> LabelOptions(num_classes=2).arguments()
        {'ignore_index': 255, 'num_classes': 2}
        """
        if require is not None and self.num_classes is None:
            raise InputError(
                f"data source {require!r} needs a number of classes (--data.num-classes)"
            )
        arguments: dict[str, Any] = {"ignore_index": self.ignore_index}
        if self.num_classes is not None:
            arguments["num_classes"] = self.num_classes
        if self.classes is not None:
            arguments["classes"] = self.classes
        if self.label_map is not None or self.reduce_zero_label:
            arguments["label_map"] = LabelMap(
                self.label_map, reduce_zero_label=self.reduce_zero_label
            )
        return arguments


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """The labels of a source: classes, colours, and the map from stored to trained ids.

    Attributes:
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: `max(K, 2)` names; numbers by default.
        palette: uint8 `[max(K, 2), 3]`; the colours of PASCAL VOC by default.
        ignore_index: The label of pixels that losses and metrics ignore.
        label_map: From stored to trained ids, None if they are the same; a mapping stands for `LabelMap(mapping)`.

    Raises:
        InputError: The numbers of classes, names and colours differ, or a class equals `ignore_index`.

    >>> spec = LabelSpec(2, label_map={0: 0, 255: 1})
    >>> spec.encode(np.array([[0, 255]], np.uint8), "a.png").tolist()
    [[0, 1]]
    """

    num_classes: int
    classes: tuple[str, ...] = ()
    palette: Any = None
    ignore_index: int = 255
    label_map: LabelMap | Mapping[Any, Any] | None = None

    def __post_init__(self):
        if self.num_classes < 1:
            raise InputError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.ignore_index == 255 and self.num_classes > 255:
            raise InputError(
                f"ignore_index=255 is one of the {self.num_classes} classes: choose another, as -1"
            )
        if isinstance(self.label_map, Mapping):
            object.__setattr__(self, "label_map", LabelMap(self.label_map))
        classes = tuple(self.classes) or tuple(map(str, range(self.num_labels)))
        if self.num_classes == 1 and len(classes) == 1:
            classes = ("background", *classes)
        if len(classes) != self.num_labels:
            raise InputError(
                f"num_classes={self.num_classes}, but {len(classes)} names: {', '.join(classes)}"
            )
        object.__setattr__(self, "classes", classes)
        colors = lib.palette(self.num_classes) if self.palette is None else self.palette
        colors = np.asarray(colors, np.uint8)
        if colors.shape != (self.num_labels, 3):
            raise InputError(
                f"the palette has shape {colors.shape}, but {self.num_labels} labels need"
                f" ({self.num_labels}, 3)"
            )
        object.__setattr__(self, "palette", colors)

    @property
    def num_labels(self) -> int:
        """The number of labels, `max(K, 2)`."""
        return max(self.num_classes, 2)

    @property
    def targets(self) -> Targets:
        """The targets of the source."""
        return labels(self.ignore_index)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of masks: uint8 if it holds every label and `ignore_index`, int32 otherwise."""
        fits = self.num_labels <= 256 and 0 <= self.ignore_index <= 255
        return np.dtype(np.uint8 if fits else np.int32)

    def record(
        self, image: np.ndarray, mask: np.ndarray, name: str, image_path: str, mask_path: str
    ) -> dict[str, Any]:
        """Returns a checked record.

        Args:
            image: uint8 `[H, W, C]`.
            mask: Integers `[H, W]` as stored.
            name: The record's name.
            image_path: The path or description of the image, for messages.
            mask_path: The path or description of the mask.

        Raises:
            InputError: The sizes differ, and as for `encode`.
        """
        (h, w), (mh, mw) = image.shape[:2], mask.shape
        if (h, w) != (mh, mw):
            swapped = (
                "; one of them may have lost its EXIF orientation" if (h, w) == (mw, mh) else ""
            )
            raise InputError(
                f"{mask_path} is {mw}x{mh} pixels (width x height), but its image {image_path} is"
                f" {w}x{h}{swapped}"
            )
        return {"image": image, LABEL: self.encode(mask, mask_path), "name": name}

    def encode(self, stored: np.ndarray, path: str) -> np.ndarray:
        """Maps the stored ids of a mask to trained ids and checks the result.

        Args:
            stored: Integers `[H, W]`.
            path: The path or description of the mask, for messages.

        Returns:
            `[H, W]` of `dtype`.

        Raises:
            InputError: A label is outside `0..max(K, 2) - 1` and not ignored, or the label map does not name it.
        """
        ids = stored
        if isinstance(self.label_map, LabelMap):
            ids = self.label_map(stored, ignore_index=self.ignore_index, name=path)
        wrong = (ids != self.ignore_index) & ((ids < 0) | (ids >= self.num_labels))
        if wrong.any():
            found = lib.counts(ids)
            after = "" if self.label_map is None else " after the label map"
            raise InputError(
                f"label {int(ids[wrong].min())} in {path}, but num_classes={self.num_classes}"
                f" and ignore_index={self.ignore_index}; {lib.describe(found)}{after}."
                f" {self._way_out(found, path)}"
            )
        return ids.astype(self.dtype)

    def _way_out(self, found: Mapping[int, int], path: str) -> str:
        if set(found) <= {0, 255}:
            return "Masks stored as 0 and 255 need the label map {0: 0, 255: 1}"
        if len(found) > 2 * self.num_labels + 8:
            lossy = ", here perhaps by JPEG" if path.lower().endswith((".jpg", ".jpeg")) else ""
            return (
                f"{len(found)} ids suggest a mask that was blurred by resizing or lossy compression"
                f"{lossy}: store masks as PNG and resize them by nearest-neighbour interpolation"
            )
        return "Raise num_classes, or give a label map, as {stored id: class, or ignore_index}"
