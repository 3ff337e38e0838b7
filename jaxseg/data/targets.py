"""The targets of a sample: what kinds of arrays accompany an image, and how each is resized and padded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxseg.errors import InputError

LABEL = "label"
"""The name of the class ids in a sample of semantic segmentation."""


@dataclass(frozen=True)
class Target:
    """One kind of array that accompanies an image, `[H, W]` or `[H, W, D]`.

    Attributes:
        kind: `"mask"` for integers, which are read at the nearest pixel when an image is resized; `"map"` for floats, such
            as depth, which are interpolated bilinearly.
        fill: The value of padding and of pixels outside the image. Losses and metrics ignore it.

    >>> Target("mask", 255).cast(np.zeros(2, np.uint8)).dtype
    dtype('uint8')
    >>> Target("mask", -1).cast(np.zeros(2, np.uint8)).dtype
    dtype('int32')
    >>> Target("map", 0.0).cast(np.zeros(2, np.float64)).dtype
    dtype('float32')
    """

    kind: Literal["mask", "map"]
    fill: float

    def __post_init__(self):
        if self.kind not in ("mask", "map"):
            raise InputError(f"the kind of a target is 'mask' or 'map', got {self.kind!r}")
        if self.kind == "mask" and self.fill != int(self.fill):
            raise InputError(f"the fill value of a mask is an integer, got {self.fill}")

    def cast(self, values: np.ndarray) -> np.ndarray:
        """Returns the values in a dtype that holds `fill`: integers in theirs or int32, floats in float32."""
        if self.kind == "map":
            return values.astype(np.float32, copy=False)
        limits = np.iinfo(values.dtype)
        return values if limits.min <= self.fill <= limits.max else values.astype(np.int32)


Targets = Mapping[str, Target]
"""The targets of a source by the names that they have in its samples."""


def labels(ignore_index: int = 255) -> Targets:
    """Returns the targets of semantic segmentation: one mask of class ids.

    Args:
        ignore_index: The label of pixels that losses and metrics ignore.

    >>> labels()
    {'label': Target(kind='mask', fill=255)}
    """
    return {LABEL: Target("mask", ignore_index)}


def only_mask(targets: Targets, purpose: str) -> str:
    """Returns the name of the one mask among the targets.

    Args:
        targets: The targets of a source.
        purpose: What needs it, for the message.

    Raises:
        InputError: There is no mask, or more than one.

    >>> only_mask({"depth": Target("map", 0.0), "road": Target("mask", 255)}, "copy-paste")
    'road'
    """
    masks = [name for name, target in targets.items() if target.kind == "mask"]
    if len(masks) != 1:
        kinds = ", ".join(f"{name} ({target.kind})" for name, target in targets.items()) or "none"
        raise InputError(f"{purpose} needs exactly one mask among the targets, which are: {kinds}")
    return masks[0]


def select(record: Mapping[str, Any], targets: Targets) -> dict[str, Any]:
    """Returns the image and the targets of a record, without its other entries.

    Raises:
        InputError: The record lacks a target.
    """
    missing = [name for name in targets if name not in record]
    if missing:
        raise InputError(
            f"the record {record.get('name', '')!r} has no {missing[0]!r} for the targets {', '.join(targets)}; it has"
            f" {', '.join(record)}"
        )
    return {name: record[name] for name in ("image", *targets)}
