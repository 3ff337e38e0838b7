"""What the augmentation on the host and the one on the device ask of their numbers alike."""

from collections.abc import Sequence

from jaxseg.errors import InputError


def check_view(size: Sequence[int], scale: Sequence[float]) -> None:
    """Checks what an image is scaled by and cut to.

    Args:
        size: Of the crop.
        scale: Of the image before that.

    Raises:
        InputError: The size is not a height and a width, or the scale not a least and a greatest factor.

    >>> check_view((8, 8), (0.5, 2.0))
    """
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"a crop's size is (height, width) in pixels, got {tuple(size)}")
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise InputError(f"a scale is (least, greatest) factor, both positive, got {tuple(scale)}")
