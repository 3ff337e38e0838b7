"""The original U-Net: no encoder of another kind, no normalisation, valid or padded convolutions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn import TransposedConv, concatenate, max_pool
from jaxseg.nn.convolution import convolution
from jaxseg.nn.images import checked, wide
from jaxseg.typing import Array, Output

CHANNELS = (64, 128, 256, 512, 1024)
he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_of_four = nn.initializers.variance_scaling(8.0, "fan_in", "normal")
"""The same for a 2x2 kernel with stride 2: a pixel of the result sees a quarter of the kernel."""


class PlainUNet(nn.Module):
    """The network of the paper's figure 1: `[N, 572, 572, C]` to logits `[N, 388, 388, K]`.

    Down: two 3x3 convolutions with ReLU, then a 2x2 max-pool, each level with twice the channels.
    Up: a 2x2 transposed convolution with half the channels, the centre of the level's map behind
    it, two 3x3 convolutions. Last a 1x1 convolution.

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
        with variance 2 / N; biases at zero. Where dropout goes, and its rate, the paper leaves
        open: as in the authors' published network.

    >>> model = PlainUNet(2)
    >>> model.input_size(388), model.input_size(1), model.lost
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
        """Sizes that come out even are this many pixels apart."""
        return 2 ** (len(self.channels) - 1)

    @property
    def lost(self) -> int:
        """How many rows the logits have less than the image."""
        return 0 if self.padding else 12 * self.step - 8

    def input_size(self, length: int) -> int:
        """The least number of rows for which the logits have at least `length` and pools come out even."""
        if self.padding:
            return -(-length // self.step) * self.step
        # b rows below, before the convolutions there, are b * step + 4 * (step - 1) rows of the
        # image and (b - 4) * step - 4 * (step - 1) of the logits.
        below = -(-(length + 8 * self.step - 4) // self.step)
        return below * self.step + 4 * (self.step - 1)

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to logits `[N, H - lost, W - lost, num_classes]`.

        Raises:
            InputError: A size for which a pool does not come out even, or too small a one; channels
                that the parameters were not made for.
        """
        self._check(images)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, skips = images, []
        for level, channels in enumerate(self.channels):
            x = max_pool(x, 2, 2) if level else x
            x = TwoConvs(channels, self.padding, name=f"contract{level}", **types)(x)
            if level >= len(self.channels) - 2:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            skips.append(x)
        del skips[-1]
        for level in reversed(range(len(skips))):
            up = TransposedConv(
                self.channels[level], 2, 2, kernel_init=he_of_four, name=f"up{level}", **types
            )
            x = up(x)
            x = concatenate(x, centre(skips[level], x))
            x = TwoConvs(self.channels[level], self.padding, name=f"expand{level}", **types)(x)
        return nn.Conv(
            self.num_classes,
            (1, 1),
            padding=0,
            kernel_init=he,
            conv_general_dilated=convolution,
            name="head",
            **types,
        )(x)

    def _check(self, images: Array) -> None:
        made = self.get_variable("params", "contract0")
        channels = made and made["conv1"]["kernel"].shape[2]
        if made and images.shape[-1] != channels:
            raise InputError(
                f"images have {images.shape[-1]} channels, but the parameters were made for "
                f"{channels}: give such images, or make the parameters with ones like these"
            )
        for length in images.shape[1:3]:
            right = self.input_size(max(1, length - self.lost))
            if length != right:
                raise InputError(
                    f"images of {images.shape[1]} x {images.shape[2]} pixels: {length} does not "
                    f"come out even after {len(self.channels) - 1} pools; the next size that does "
                    f"is {right}"
                )


class TwoConvs(nn.Module):
    """Two 3x3 convolutions, each with bias and ReLU."""

    features: int
    padding: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to `[N, H - 4 + 4 * padding, W - 4 + 4 * padding, features]`."""
        for name in ("conv1", "conv2"):
            x = nn.Conv(
                self.features,
                (3, 3),
                padding=self.padding,
                kernel_init=he,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                conv_general_dilated=convolution,
                name=name,
            )(x)
            x = nn.relu(x)
        return x


def centre(x: Array, like: Array) -> Array:
    """The middle of `x` that is as large as `like`.

    >>> centre(jnp.arange(7).reshape(1, 1, 7, 1), jnp.zeros((1, 1, 3, 1))).ravel().tolist()
    [2, 3, 4]
    """
    (h, w), (height, width) = like.shape[1:3], x.shape[1:3]
    top, left = (height - h) // 2, (width - w) // 2
    return x[:, top : top + h, left : left + w]


class OriginalUNet(nn.Module):
    """A `PlainUNet` for images of any size: they are mirrored at their border, as in the paper.

    With valid convolutions every logit sees what lies around its pixel, and beyond the border the
    mirrored image (the "overlap-tile strategy"), of which as much is added as the convolutions take
    away; with padded ones only what makes sizes come out even, at the bottom and at the right. So
    logits are as large as the image. `body` itself maps 572 x 572 pixels to 388 x 388.

    Attributes:
        body: The network.

    References:
        Ronneberger, Fischer and Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597, figure 2

    >>> import jax
    >>> model = OriginalUNet(PlainUNet(2, (4, 8)))
    >>> output, _ = model.init_with_output(jax.random.key(0), jnp.ones((1, 9, 14, 1)))
    >>> output.logits.shape
    (1, 9, 14, 2)
    """

    body: PlainUNet

    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalised; any height, width and number of
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
        before = self.body.lost // 2
        sides = [(before, self.body.input_size(n) - n - before) for n in (height, width)]
        mirrored = jnp.pad(images, ((0, 0), *sides, (0, 0)), mode="reflect")
        logits = self.body(mirrored, train=train)
        return Output(wide(logits[:, :height, :width]))
