"""U-Net's decoder on any encoder."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm, concatenate, nearest
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.convolution import convolution
from jaxseg.nn.doubled import doubled
from jaxseg.typing import Array, Convolve, Merge, Size, Upsample


class UNet(nn.Module):
    """From coarse to fine: upsample to the next feature's size, join it, convolve twice.

    The last step goes to the image's size and has nothing to join. Sizes follow the
    features, so any image size works.

    Attributes:
        channels: Channels of each step, coarse to fine, one step per feature.
        upsample: `upsample(x, size)`; `jaxseg.nn.upsample` has every kind, learned ones too.
        merge: `merge(x, skip)`: `jaxseg.nn.concatenate` or `add`.
        center: Whether two more convolutions come first, on the coarsest feature.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Ronneberger et al., U-Net, 2015, https://arxiv.org/abs/1505.04597. The form of
        segmentation_models.pytorch: a pretrained encoder, padded convolutions with batch
        normalisation, and fixed upsampling instead of learned.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> maps, _ = UNet((16, 8)).init_with_output(jax.random.key(0), features, (8, 12))
    >>> [x.shape for x in maps]
    [(1, 8, 12, 8), (1, 4, 6, 16)]
    """

    channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    upsample: Upsample = nearest
    merge: Merge = concatenate
    center: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps `features` to the maps of all steps, fine to coarse; the first has the given size."""
        if len(features) != len(self.channels):
            raise InputError(
                f"the encoder has {len(features)} features, but UNet has "
                f"channels={tuple(self.channels)}: one number per feature is needed"
            )
        *skips, x = promote_dtype(*features, dtype=self.dtype)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.center:
            x = DoubleConv(x.shape[-1], name="center", **types)(x, train=train)
        maps = []
        for i, channels in enumerate(self.channels):
            skip = skips.pop() if skips else None
            reach = size if skip is None else (skip.shape[1], skip.shape[2])
            block = DoubleConv(channels, name=f"block{i}", **types)
            if self._doubles(x, skip, reach):
                x, convolve = doubled(x, skip)
                x = block(x, train=train, convolve=convolve)
            else:
                x = self.upsample(x, reach)
                x = block(x if skip is None else self.merge(x, skip), train=train)
            maps.append(x)
        return tuple(reversed(maps))

    def _doubles(self, x: Array, skip: Array | None, size: Size) -> bool:
        twice = tuple(size) == (2 * x.shape[1], 2 * x.shape[2])
        joins = skip is None or self.merge is concatenate
        return twice and joins and self.upsample is nearest


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, convolve: Convolve = convolution) -> Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`; the first layer convolves by `convolve`."""
        for name, form in (("conv1", convolve), ("conv2", convolution)):
            x = ConvNorm(
                self.features,
                kernel_init=kaiming_fan_in,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )(x, train=train, convolve=form)
        return x
