"""What several builders check and build."""

from typing import Any

from jaxseg.errors import InputError
from jaxseg.nn import ImageHead


def at_least_one(num_classes: int) -> int:
    """`num_classes`, or an error that says what it stands for."""
    if num_classes < 1:
        raise InputError(
            f"num_classes={num_classes}: 1 stands for one sigmoid, 2 and more for a softmax"
        )
    return num_classes


def image_head(labels: int, types: dict[str, Any]) -> ImageHead | None:
    """A head for so many labels of the whole image; None for none."""
    return ImageHead(labels, **types) if labels else None
