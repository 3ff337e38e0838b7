"""The stages of an encoder that trades strides for dilation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """The geometry of one stage.

    Attributes:
        stride: Stride of its first block.
        first_dilation: Dilation of its first block.
        dilation: Dilation of its other blocks.
    """

    stride: int
    first_dilation: int
    dilation: int


def dilated(strides: Sequence[int], output_stride: int) -> Iterator[Stage]:
    """Yields stages that dilate where their strides would go beyond an output stride, as timm's do.

    The first block of a dilated stage keeps the dilation of the stage before it.

    Args:
        strides: The stride of the stem, then that of each stage.
        output_stride: The largest stride of a feature.

    >>> [tuple(stage) for stage in dilated((2, 1, 2, 2), 4)]
    [(1, 1, 1), (2, 1, 1), (1, 1, 2)]
    """
    reached, dilation = strides[0], 1
    for stride in strides[1:]:
        first = dilation
        if reached * stride > output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        yield Stage(stride, first, dilation)
