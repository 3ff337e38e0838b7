"""Subsets of a source, and the fixed division of images into training and validation."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from jaxseg.data.sources.wrapper import Wrapper
from jaxseg.errors import InputError


class Subset(Wrapper):
    """Selects some records of another source, in the order of the indices.

    Args:
        source: Any source.
        indices: The indices of its records.

    >>> from jaxseg.data.sources.shapes import Shapes
    >>> subset = Subset(Shapes(10), [7, 2])
    >>> len(subset), subset[0]["name"]
    (2, 'shapes-0-000007')
    """

    def __init__(self, source: Any, indices: Sequence[int]):
        super().__init__(source)
        self.indices = tuple(int(i) for i in indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self.indices[index]]


def holdout(source: Any, split: str, *, fraction: float = 0.1) -> Subset:
    """Returns one side of a fixed division into training and validation images, by a hash of the names.

    Args:
        source: All images, with an attribute `files` whose entries begin with the name of each record.
        split: `"train"` or `"val"`.
        fraction: The fraction for `"val"`, rounded to at least one image.

    Raises:
        InputError: There are fewer than two images, or the split is another.
    """
    if not 0 < fraction < 1:
        raise InputError(
            f"the fraction held out for validation must be between 0 and 1, got {fraction}"
        )
    if split not in ("train", "val"):
        raise InputError(
            f"images without splits are divided into train and val; there is no {split!r}"
        )
    if len(source) < 2:
        raise InputError(
            f"one image cannot be divided into training and validation: {source.files[0][1]}"
        )

    def name_hash(index: int) -> bytes:
        return hashlib.sha256(os.fsencode(source.files[index][0])).digest()

    order = sorted(range(len(source)), key=name_hash)
    count = min(max(1, round(fraction * len(source))), len(source) - 1)
    return Subset(source, sorted(order[:count] if split == "val" else order[count:]))
