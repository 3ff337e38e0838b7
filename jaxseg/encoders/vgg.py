"""VGG-11, 13, 16 and 19, with and without batch normalization, as torchvision, timm and smp have them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxseg.encoders.protocol import check_fields, check_images
from jaxseg.errors import InputError
from jaxseg.nn import BatchNorm, ConvNorm, max_pool, max_pool_with_indices
from jaxseg.typing import Array

STAGES = 5


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by a 2x2 max-pool: strides 2, 4, 8, 16 and 32.

    The features with strides 2 to 16 are the maps of the stages 2 to 5, before their pools; the one
    with stride 32 is the last pool's. (Those are the maps that segmentation_models.pytorch decodes;
    the first stage's map, as large as the image, is not a feature.)

    With `output_stride` 16 or 8 the last pools move by one pixel instead of two, and the
    convolutions after them dilate (the "hole algorithm"): the last features of the encoder with
    stride 32 are every second or fourth pixel of these. timm and segmentation_models.pytorch have
    no such form.

    Attributes:
        convolutions: Number of convolutions in each of the five stages.
        batch_norm: Whether a batch normalization follows each convolution.
        widths: Channels of each stage.
        in_channels: Channels of the images, any number.
        depth: Number of features to compute, 1 to 5. Deeper stages are not built.
        output_stride: 32, or 16 or 8 for larger deep features.
        ceil_mode: Whether the pool of an odd map keeps the last row and column, so that features
            have `ceil(H / s)` rows. torchvision and timm drop them, and so does `False`, except
            for those of a map of one row or column. Multiples of 32 pixels are never odd.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
        2014, https://arxiv.org/abs/1409.1556. Initialization: Kaiming normal over fan-out, biases
        zero (torchvision). The hole algorithm: Chen et al., Semantic Image Segmentation with Deep
        Convolutional Nets and Fully Connected CRFs, 2014, https://arxiv.org/abs/1412.7062

    >>> vgg16(output_stride=16).strides, vgg16_bn().channels
    ((2, 4, 8, 16, 16), (128, 256, 512, 512, 512))
    """

    convolutions: tuple[int, ...]
    batch_norm: bool = False
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    in_channels: int = 3
    depth: int = 5
    output_stride: int = 32
    ceil_mode: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        for name, numbers in (("convolutions", self.convolutions), ("widths", self.widths)):
            if len(numbers) != STAGES or min(numbers) < 1:
                raise InputError(
                    f"{name}={numbers}: a VGG has five stages, each with at least one convolution "
                    "and one channel"
                )
        check_fields(self, depths=STAGES, output_strides=(8, 16, 32))
        super().__post_init__()

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each feature."""
        return tuple(min(2**i, self.output_stride) for i in range(1, self.depth + 1))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each feature."""
        return (*self.widths[1:], self.widths[-1])[: self.depth]

    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, in_channels]` to features `[N, ceil(H / s), ceil(W / s), C_s]`."""
        return self._stages(images, lambda x: (max_pool(x, 2, 2), None), train)[0]

    def with_indices(
        self, images: Array, *, train: bool = False
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Returns the features and the indices of each pool's maxima, for decoders that unpool.

        Returns:
            The features, and for each pool with stride 2 int32 `[N, h, w, C]`, indices of a map of
            `2 * h` by `2 * w` pixels: an odd map had a row or column added, or dropped.
        """
        features, indices = self._stages(images, partial(max_pool_with_indices, window=2), train)
        return features, tuple(indices)

    def pools(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Returns the maps of the pools with stride 2, for decoders that read those.

        Returns:
            `[N, ceil(H / s), ceil(W / s), widths[i]]` for the strides 2, 4, ..., fine to coarse.
        """

        def pool(x: Array) -> tuple[Array, Array]:
            x = max_pool(x, 2, 2)
            return x, x

        return tuple(self._stages(images, pool, train)[1])

    @nn.compact
    def _stages(
        self, images: Array, pool: Callable[[Array], tuple[Array, Any]], train: bool
    ) -> tuple[tuple[Array, ...], list[Any]]:
        """Returns the features, and what `pool` returns of each map beside the pooled map."""
        check_images(images, self.in_channels)
        x, stride, dilation = images, 1, 1
        features, extras = [], []
        for stage in range(STAGES):
            for i in range(self.convolutions[stage]):
                x = self._conv(stage, i, dilation, x, train)
            if stage > 0:
                features.append(x)
            if len(features) == self.depth:
                return tuple(features), extras
            if 2 * stride > self.output_stride:
                x, dilation = _pool_with_stride_1(x, dilation), 2 * dilation
            else:
                x, extra = pool(_make_even(x, self.ceil_mode))
                stride, extras = 2 * stride, [*extras, extra]
        return (*features, x), extras

    def _conv(self, stage: int, i: int, dilation: int, x: Array, train: bool) -> Array:
        return ConvNorm(
            self.widths[stage],
            dilation=dilation,
            norm=BatchNorm if self.batch_norm else None,
            use_bias=True,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"stage{stage + 1}_conv{i}",
        )(x, train=train)


def _make_even(x: Array, ceil_mode: bool) -> Array:
    """Pads odd sides of `x` by minus infinity, or crops them."""
    for axis in (1, 2):
        length = x.shape[axis]
        if length % 2 and not ceil_mode and length > 1:
            x = lax.slice_in_dim(x, 0, length - 1, axis=axis)
        elif length % 2:
            x = jnp.pad(x, [(0, int(a == axis)) for a in range(4)], constant_values=-jnp.inf)
    return x


def _pool_with_stride_1(x: Array, dilation: int) -> Array:
    """Returns the maxima of 2x2 windows whose pixels are `dilation` apart, without striding."""
    # Not reduce_window: JAX has no gradient of one that dilates.
    pads = [(0, 0), (0, dilation), (0, dilation), (0, 0)]
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    x = jnp.maximum(x[:, :-dilation], x[:, dilation:])
    return jnp.maximum(x[:, :, :-dilation], x[:, :, dilation:])


vgg11 = partial(VGG, (1, 1, 2, 2, 2), False)
"""VGG-11, with the other fields of `VGG`, such as `vgg11(output_stride=16)`."""
vgg11_bn = partial(VGG, (1, 1, 2, 2, 2), True)
"""VGG-11 with batch normalization, with the fields of `VGG`."""
vgg13 = partial(VGG, (2, 2, 2, 2, 2), False)
"""VGG-13, with the fields of `VGG`."""
vgg13_bn = partial(VGG, (2, 2, 2, 2, 2), True)
"""VGG-13 with batch normalization, with the fields of `VGG`."""
vgg16 = partial(VGG, (2, 2, 3, 3, 3), False)
"""VGG-16, with the fields of `VGG`."""
vgg16_bn = partial(VGG, (2, 2, 3, 3, 3), True)
"""VGG-16 with batch normalization, with the fields of `VGG`."""
vgg19 = partial(VGG, (2, 2, 4, 4, 4), False)
"""VGG-19, with the fields of `VGG`."""
vgg19_bn = partial(VGG, (2, 2, 4, 4, 4), True)
"""VGG-19 with batch normalization, with the fields of `VGG`."""

ENCODERS = {
    "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
    "vgg13": vgg13,
    "vgg13_bn": vgg13_bn,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "vgg19": vgg19,
    "vgg19_bn": vgg19_bn,
}
