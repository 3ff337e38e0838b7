"""What the labels of one source are, and the check of every mask against it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg.data import labels as lib
from jaxseg.data.labels import LabelMap
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """What the labels of one source are.

    Attributes:
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: `max(K, 2)` names; numbers where left out.
        palette: uint8 `[max(K, 2), 3]`; the colours of PASCAL VOC where left out.
        ignore_index: The label that is counted nowhere.
        label_map: From stored to trained ids, None where they are the same; a plain mapping is
            taken as its `ids`.

    Raises:
        InputError: Where these do not fit together.

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
        """How many labels there are: `max(K, 2)`."""
        return max(self.num_classes, 2)

    @property
    def dtype(self) -> np.dtype:
        """uint8 where it holds every label and `ignore_index`, int32 elsewhere."""
        fits = self.num_labels <= 256 and 0 <= self.ignore_index <= 255
        return np.dtype(np.uint8 if fits else np.int32)

    def record(
        self, image: np.ndarray, mask: np.ndarray, name: str, image_place: str, mask_place: str
    ) -> dict[str, Any]:
        """One checked record.

        Args:
            image: uint8 `[H, W, C]`.
            mask: Integers `[H, W]` as stored.
            name: What the record is called.
            image_place: Where the image is from, for messages.
            mask_place: Where the mask is from.

        Raises:
            InputError: Where the sizes differ, and as `encode` does.
        """
        (h, w), (mh, mw) = image.shape[:2], mask.shape
        if (h, w) != (mh, mw):
            swapped = (
                "; one of them may have lost its EXIF orientation" if (h, w) == (mw, mh) else ""
            )
            raise InputError(
                f"{mask_place} is {mw}x{mh} pixels (width x height), but its image {image_place} is"
                f" {w}x{h}{swapped}"
            )
        return {"image": image, "label": self.encode(mask, mask_place), "name": name}

    def encode(self, stored: np.ndarray, place: str) -> np.ndarray:
        """Maps the stored ids of one mask and checks the result.

        Args:
            stored: Integers `[H, W]`.
            place: The file or record they are from.

        Returns:
            `[H, W]` of `dtype`.

        Raises:
            InputError: For a label outside `0..max(K, 2) - 1` that is not ignored, or unknown to
                the label map.
        """
        labels = stored
        if isinstance(self.label_map, LabelMap):
            labels = self.label_map(stored, ignore_index=self.ignore_index, name=place)
        wrong = (labels != self.ignore_index) & ((labels < 0) | (labels >= self.num_labels))
        if wrong.any():
            found = lib.counts(labels)
            after = "" if self.label_map is None else " after the label map"
            raise InputError(
                f"label {int(labels[wrong].min())} in {place}, but num_classes={self.num_classes}"
                f" and ignore_index={self.ignore_index}; {lib.describe(found)}{after}."
                f" {self._way_out(found, place)}"
            )
        return labels.astype(self.dtype)

    def _way_out(self, found: Mapping[int, int], place: str) -> str:
        if set(found) <= {0, 255}:
            return "Masks stored as 0 and 255 need the label map {0: 0, 255: 1}"
        if len(found) > 2 * self.num_labels + 8:
            lossy = ", here perhaps by JPEG" if place.lower().endswith((".jpg", ".jpeg")) else ""
            return (
                "So many ids look like a mask that was blurred by resizing or lossy compression"
                f"{lossy}: store masks as PNG and resize them to the nearest pixel"
            )
        return "Raise num_classes, or give a label map, as {stored id: class, or ignore_index}"
