"""Class ids: colours, counts, and the map from stored to trained ids."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxseg.errors import InputError

CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
"""The 11 classes of SegNet's CamVid, in its order."""
CAMVID_VOID = 11
"""The id of unlabelled pixels in SegNet's masks."""
CAMVID_PALETTE = np.array(
    [
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222)),
        *((128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0)),
        (0, 128, 192),
    ],
    np.uint8,
)
"""The colours of the classes in SegNet's figures."""


def palette(num_classes: int) -> np.ndarray:
    """Returns distinct colours for class ids, those of PASCAL VOC.

    Args:
        num_classes: K; 1 (one sigmoid) has two labels.

    Returns:
        uint8 `[max(K, 2), 3]`, RGB; the first is black.

    >>> palette(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]

    References:
        Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010: the function
        VOClabelcolormap of its development kit.
    """
    ids = np.arange(max(num_classes, 2))
    colors = np.zeros((len(ids), 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def ids_from_colors(
    mask: np.ndarray, colors: Mapping[tuple[int, int, int], int], *, other: int | None = None
) -> np.ndarray:
    """Converts a colour mask to class ids.

    Args:
        mask: uint8 `[H, W, 3]`.
        colors: The id of each (red, green, blue).
        other: The id of all other colours; by default they are an error.

    Returns:
        `[H, W]`, uint8 if all ids fit and int32 otherwise.

    Raises:
        InputError: A colour has no id.

    >>> mask = np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8)
    >>> ids_from_colors(mask, {(0, 0, 0): 0, (128, 0, 0): 1}).tolist()
    [[0, 1]]
    """
    codes = mask[..., :3].astype(np.int64) @ np.array([65536, 256, 1])
    found, inverse = np.unique(codes, return_inverse=True)
    table = {(red << 16) + (green << 8) + blue: i for (red, green, blue), i in colors.items()}
    missing = [int(code) for code in found if int(code) not in table]
    if missing and other is None:
        shown = ", ".join(str((c >> 16, (c >> 8) & 255, c & 255)) for c in missing[:8])
        raise InputError(f"{len(missing)} colours of the mask have no id: {shown}")
    ids = np.array([table.get(int(code), other) for code in found], np.int32)
    fits = ids.size == 0 or (ids.min() >= 0 and ids.max() <= 255)
    return ids.astype(np.uint8 if fits else np.int32)[inverse].reshape(codes.shape)


def counts(labels: np.ndarray) -> dict[int, int]:
    """Counts the pixels of each id, in the order of the ids.

    >>> counts(np.array([[0, 0], [7, 0]]))
    {0: 3, 7: 1}
    """
    if labels.dtype == np.uint8:  # much faster than sorting
        number = np.bincount(labels.ravel(), minlength=256)
        return {int(i): int(number[i]) for i in np.flatnonzero(number)}
    ids, number = np.unique(labels, return_counts=True)
    return {int(i): int(n) for i, n in zip(ids, number, strict=True)}


def describe(found: Mapping[int, int], limit: int = 16) -> str:
    """Returns the counts of labels as a short text for messages.

    >>> describe({0: 30, 255: 2})
    'labels found (id: pixels): 0: 30, 255: 2'
    """
    shown = ", ".join(f"{i}: {n}" for i, n in list(found.items())[:limit])
    more = f", ... {len(found)} different ids" if len(found) > limit else ""
    return f"labels found (id: pixels): {shown}{more}"


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """A map from the ids stored in masks to the ids that a network is trained on.

    Without `ids` every id is mapped to itself. A stored `ignore_index` remains ignored unless `ids` names it.

    Attributes:
        ids: Stored id -> trained id, or None to ignore it; equal trained ids merge classes. A stored id that is not named is
            an error.
        ignored: Stored ids that are ignored, as if `ids` mapped them to None.
        reduce_zero_label: Whether 0 is ignored and every other id is decreased by one, as in ADE20K.

    Raises:
        InputError: Both `ids` and `reduce_zero_label` are given, or an id is not an integer.

    >>> merge = LabelMap({0: 0, 1: 0, 2: 1, 7: None})
    >>> merge(np.array([[0, 1, 2, 7, 255]], np.uint8), ignore_index=255).tolist()
    [[0, 0, 1, 255, 255]]
    >>> LabelMap(reduce_zero_label=True)(np.array([0, 1, 150]), ignore_index=255).tolist()
    [255, 0, 149]
    """

    ids: Mapping[int, int | None] | None = None
    ignored: tuple[int, ...] = ()
    reduce_zero_label: bool = False

    def __post_init__(self):
        if self.ids is not None and self.reduce_zero_label:
            raise InputError("give a label map or reduce_zero_label, not both: a map can shift too")
        try:
            ignored = tuple(int(i) for i in self.ignored)
            ids = None
            if self.ids is not None:
                ids = {int(k): None if v is None else int(v) for k, v in self.ids.items()}
        except (AttributeError, TypeError, ValueError):
            raise InputError(
                "a label map is {stored id: trained id or None} with integers, got"
                f" {self.ids!r} with ignored={self.ignored!r}"
            ) from None
        if ids is not None and not ids:
            raise InputError("the label map names no id: leave it out to keep every id as it is")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "ignored", ignored)

    def __call__(
        self, labels: np.ndarray, *, ignore_index: int = 255, name: str = "the mask"
    ) -> np.ndarray:
        """Maps stored ids to trained ids.

        Args:
            labels: Integers of any shape.
            ignore_index: The label of ignored pixels.
            name: The file or record of the labels, for messages.

        Returns:
            int32, of the same shape.

        Raises:
            InputError: The map does not name a stored id.
        """
        if labels.size == 0:
            return labels.astype(np.int32)
        if labels.min() >= 0 and labels.max() < 2**16:
            stored, index = np.arange(int(labels.max()) + 1), labels
        else:  # too sparse for a table of all ids
            stored, index = np.unique(labels, return_inverse=True)
        trained, known = self._table(stored, ignore_index)
        unknown = ~known[index]
        if unknown.any():
            value = int(labels[unknown.reshape(labels.shape)].min())
            raise InputError(
                f"label {value} in {name} is not named by the label map, which knows"
                f" {', '.join(map(str, sorted(self.ids or ())))}; {describe(counts(labels))}."
                f" Add {{{value}: class}} to it, or {{{value}: {ignore_index}}} to ignore it"
            )
        return trained[index].reshape(labels.shape)

    def _table(self, stored: np.ndarray, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the trained id of each of the sorted stored ids, and whether the map names it."""
        trained = stored.astype(np.int32)
        if self.reduce_zero_label:
            trained = np.where(stored == 0, ignore_index, trained - 1).astype(np.int32)
        known = np.full(stored.shape, self.ids is None)
        named = dict.fromkeys((ignore_index, *self.ignored)) | dict(self.ids or {})
        keys = np.array(list(named), np.int64)
        values = np.array([ignore_index if v is None else v for v in named.values()], np.int32)
        index = np.searchsorted(stored, keys).clip(max=len(stored) - 1)
        found = stored[index] == keys
        trained[index[found]], known[index[found]] = values[found], True
        return trained, known
