"""A decoder's step towards the next finer feature: upsample, then join the skip."""

from jaxseg.nn.cpu.upsampled_conv import Upsampled
from jaxseg.nn.resize import nearest
from jaxseg.nn.skip_merge import concatenate
from jaxseg.typing import Array, Merge, Size, Upsample


def upsample_merge(
    x: Array,
    skip: Array | None,
    size: Size,
    *,
    upsample: Upsample = nearest,
    merge: Merge = concatenate,
) -> Array | Upsampled:
    """Returns `merge(upsample(x, size), skip)`, which `Conv` or `ConvNorm` convolves next.

    A map that is repeated to twice its size and concatenated is returned before it is computed, as `Upsampled`, because a
    convolution of it needs less than half of the multiplications on the smaller map; `Upsampled.array` computes it.

    Args:
        x: `[N, H, W, C]`, floating point.
        skip: `[N, *size, D]`, the encoder's feature, or None, where nothing is joined.
        size: Height and width of the result.
        upsample: As in `jaxseg.nn.upsample`.
        merge: `concatenate` or `add`.

    Returns:
        `[N, *size, _]`, or the `Upsampled` that stands for it.

    >>> import jax, jax.numpy as jnp
    >>> y = upsample_merge(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 4, 4, 5)), (4, 4))
    >>> y.shape
    (1, 4, 4, 8)
    """
    twice = tuple(size) == (2 * x.shape[1], 2 * x.shape[2])
    if twice and upsample is nearest and (skip is None or merge is concatenate):
        return Upsampled(x, skip)
    x = upsample(x, size)
    return x if skip is None else merge(x, skip)
