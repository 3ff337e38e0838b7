"""The original U-Net: no encoder to choose, no normalization, valid or padded convolutions."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.models.segmentation_model import check_num_classes
from jaxseg.nn import Conv, Dropout, TransposedConv, concatenate, max_pool
from jaxseg.nn.inputs import checked, wide
from jaxseg.typing import Array, Output

CHANNELS = (64, 128, 256, 512, 1024)
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
kaiming_normal_2x2 = nn.initializers.variance_scaling(8.0, "fan_in", "normal")
"""The same for a 2x2 kernel with stride 2: a pixel of the result sees a quarter of the kernel."""


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with bias and ReLU."""

    features: int
    padding: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to `[N, H - 4 + 4 * padding, W - 4 + 4 * padding, features]`."""
        for name in ("conv1", "conv2"):
            conv = Conv(
                self.features,
                padding=self.padding,
                kernel_init=kaiming_normal,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )
            x = nn.relu(conv(x))
        return x


def center_crop(x: Array, like: Array) -> Array:
    """Returns the middle of `x`, as high and wide as `like`.

    >>> center_crop(jnp.arange(7).reshape(1, 1, 7, 1), jnp.zeros((1, 1, 3, 1))).ravel().tolist()
    [2, 3, 4]
    """
    (h, w), (height, width) = like.shape[1:3], x.shape[1:3]
    top, left = (height - h) // 2, (width - w) // 2
    return x[:, top : top + h, left : left + w]


class OriginalUNetBody(nn.Module):
    """The network of the paper's figure 1: `[N, 572, 572, C]` to logits `[N, 388, 388, K]`.

    Contracting path: two 3x3 convolutions with ReLU, then a 2x2 max-pool, each level with twice the
    channels. Expanding path: a 2x2 transposed convolution with half the channels, concatenation
    with the center of the level's map, two 3x3 convolutions. Last a 1x1 convolution.

    Attributes:
        num_classes: Channels of the logits.
        channels: Channels of each level, fine to coarse.
        padding: Pixels of zeros around each 3x3 convolution's input: 0 for valid convolutions, 1
            for logits as large as the image.
        dropout: Rate of dropout in training, on the last two levels of the contracting path.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters.

    References:
        Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image
        Segmentation, 2015, https://arxiv.org/abs/1505.04597. Weights start as in section 3, normal
        with variance 2 / N; biases at zero. The paper does not say where dropout goes, nor its
        rate: both are those of the authors' published network.

    >>> model = OriginalUNetBody(2)
    >>> model.input_size(388), model.input_size(1), model.border
    (572, 188, 184)
    """

    num_classes: int
    channels: tuple[int, ...] = CHANNELS
    padding: int = 0
    dropout: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.padding not in (0, 1):
            raise InputError(f"padding={self.padding}: 0 for valid convolutions, 1 for padded ones")
        if not self.channels or min(self.channels) < 1:
            raise InputError(f"channels={self.channels}: at least one level, of at least 1 channel")
        super().__post_init__()

    @property
    def step(self) -> int:
        """Distance in pixels of the sizes that every pool halves."""
        return 2 ** (len(self.channels) - 1)

    @property
    def border(self) -> int:
        """Number of rows that the image has and the logits lack."""
        return 0 if self.padding else 12 * self.step - 8

    def input_size(self, length: int) -> int:
        """Returns the least number of rows that every pool halves and that leaves `length` logits."""
        if self.padding:
            return -(-length // self.step) * self.step
        # b rows on the coarsest level, before its convolutions, are b * step + 4 * (step - 1) rows
        # of the image and (b - 4) * step - 4 * (step - 1) rows of the logits.
        coarsest = -(-(length + 8 * self.step - 4) // self.step)
        return coarsest * self.step + 4 * (self.step - 1)

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to logits `[N, H - border, W - border, num_classes]`.

        Raises:
            InputError: If a pool does not halve the size, the image is too small, or the parameters
                were made for other channels.
        """
        self._check(images)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, skips = images, []
        for level, channels in enumerate(self.channels):
            x = max_pool(x, 2, 2) if level else x
            x = DoubleConv(channels, self.padding, name=f"contract{level}", **types)(x)
            if level >= len(self.channels) - 2:
                x = Dropout(self.dropout)(x, train=train)
            skips.append(x)
        del skips[-1]
        for level in reversed(range(len(skips))):
            up = TransposedConv(
                self.channels[level],
                2,
                2,
                kernel_init=kaiming_normal_2x2,
                name=f"up{level}",
                **types,
            )
            x = up(x)
            x = concatenate(x, center_crop(skips[level], x))
            x = DoubleConv(self.channels[level], self.padding, name=f"expand{level}", **types)(x)
        return Conv(self.num_classes, 1, kernel_init=kaiming_normal, name="head", **types)(x)

    def _check(self, images: Array) -> None:
        first = self.get_variable("params", "contract0")
        channels = first and first["conv1"]["kernel"].shape[2]
        if first and images.shape[-1] != channels:
            raise InputError(
                f"images have {images.shape[-1]} channels, but the parameters were made for "
                f"{channels}: give such images, or make the parameters with ones like these"
            )
        for length in images.shape[1:3]:
            right = self.input_size(max(1, length - self.border))
            if length != right:
                raise InputError(
                    f"images of {images.shape[1]} x {images.shape[2]} pixels: {length} does not "
                    f"come out even after {len(self.channels) - 1} pools; the next size that does "
                    f"is {right}"
                )


class OriginalUNet(nn.Module):
    """The original U-Net for images of any size, which are mirrored at their border as in the paper.

    With valid convolutions every logit sees what lies around its pixel, and beyond the border the
    mirrored image (the "overlap-tile strategy"); as many rows are added as the convolutions remove.
    With padded ones rows are added at the bottom and columns at the right until every pool halves
    the size. So logits are as large as the image. `body` itself maps 572 x 572 pixels to 388 x 388.

    Attributes:
        body: The network.

    References:
        Ronneberger, Fischer and Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597, figure 2

    >>> import jax
    >>> model = OriginalUNet(OriginalUNetBody(2, (4, 8)))
    >>> output, _ = model.init_with_output(jax.random.key(0), jnp.ones((1, 9, 14, 1)))
    >>> output.logits.shape
    (1, 9, 14, 2)
    """

    body: OriginalUNetBody

    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalized; any height, width and number of
                channels.
            train: Whether to drop out, with the PRNG key `"dropout"`.

        Returns:
            Logits at the images' size, in float32 or wider.

        Raises:
            InputError: If images are of integer type, or do not have four axes and the channels
                that the parameters were made for.
        """
        images = checked(images)
        height, width = images.shape[1:3]
        before = self.body.border // 2
        sides = [(before, self.body.input_size(n) - n - before) for n in (height, width)]
        mirrored = jnp.pad(images, ((0, 0), *sides, (0, 0)), mode="reflect")
        logits = self.body(mirrored, train=train)
        return Output(wide(logits[:, :height, :width]))


def _original_unet(
    padding: int,
    *,
    num_classes: int,
    channels: tuple[int, ...] = CHANNELS,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> OriginalUNet:
    """The original U-Net: valid convolutions on the mirrored image, or padded ones.

    Args:
        padding: Padding of each 3x3 convolution: 0 or 1.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        channels: Channels of each level, fine to coarse.
        dropout: Rate of dropout in training, on the last two levels of the contracting path.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters.

    Raises:
        InputError: If there is no level, or one without channels.

    References:
        Ronneberger, Fischer and Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597

    >>> import jax
    >>> model = original_unet(num_classes=2)
    >>> images = jax.ShapeDtypeStruct((1, 572, 572, 1), jnp.float32)
    >>> logits, variables = jax.eval_shape(
    ...     lambda x: model.body.init_with_output(jax.random.key(0), x), images
    ... )
    >>> logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
    ((1, 388, 388, 2), 31030658)
    """
    fields = (check_num_classes(num_classes), tuple(channels), padding, dropout, dtype, param_dtype)
    return OriginalUNet(OriginalUNetBody(*fields))


original_unet = partial(_original_unet, 0)
"""The U-Net of the paper: valid convolutions on the mirrored image."""
original_unet_padded = partial(_original_unet, 1)
"""The U-Net of the paper with padded convolutions: less to compute, zeros around the image."""

MODELS = {"original_unet": original_unet, "original_unet_padded": original_unet_padded}
