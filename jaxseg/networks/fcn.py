"""FCN-32s, FCN-16s and FCN-8s on a VGG, as the paper has them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from jaxseg.errors import InputError
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.convolution import convolution
from jaxseg.nn.images import checked, wide
from jaxseg.nn.transposed import bilinear_kernel, transposed_convolution
from jaxseg.typing import Array, Output, Variables

WINDOW = 7
"""Height and width of fc6's kernel: what VGG's first dense layer sees of pool5."""


class FCNVGG(nn.Module):
    """A VGG with its dense layers as convolutions, and scores of pool5, pool4 and pool3, summed.

    fc7's scores are upsampled by 2 and added to those of pool4, their sum to those of pool3, and
    the last sum is upsampled to the image's size. Upsampling is a transposed convolution of twice
    its stride, without padding and bias, and what lies outside is cut off.

    Attributes:
        encoder: A VGG of depth 5 and output stride 32, with `ceil_mode` (Caffe's pools).
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        stride: Stride of the finest scores: 32 (FCN-32s), 16 (FCN-16s) or 8 (FCN-8s).
        padding: Padding of the first convolution. The paper's is 100, so that an image of any size
            leaves fc6 its window; with 1 there is no such border, and fc6 is padded by 3 instead:
            the same weights, less to compute, other values near the border.
        pool4_scale: Factor on pool4 before its scores: 1 (staged) or 0.01 (all at once).
        pool3_scale: Factor on pool3 before its scores: 1 (staged) or 0.0001 (all at once).
        learn_fusing: Whether the upsampling between scores is learned; else it stays bilinear.
        learn_last: Whether the last upsampling is learned; else it stays bilinear, each class by
            itself, and has no parameters.
        fc_features: Channels of fc6 and fc7.
        dropout: Rate of dropout after fc6 and fc7, in training.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038; Shelhamer, Long and Darrell, the same, 2016,
        https://arxiv.org/abs/1605.06211 (all at once). As there, scores start at zero, transposed
        convolutions as bilinear interpolation, and the last one stays it. The models that the
        authors published, https://github.com/shelhamer/fcn.berkeleyvision.org, keep the others
        too: `learn_fusing=False`. fc6 and fc7 start with Kaiming's uniform over fan-in where no
        classifier's weights are loaded.
    """

    encoder: nn.Module
    num_classes: int
    stride: int = 8
    padding: int = 100
    pool4_scale: float = 1.0
    pool3_scale: float = 1.0
    learn_fusing: bool = True
    learn_last: bool = False
    fc_features: int = 4096
    dropout: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        encoder: Any = self.encoder
        if not hasattr(encoder, "pools"):
            raise InputError(
                f"the encoder is a {type(encoder).__name__}: the paper's FCN scores the pools of a "
                "VGG; take one, such as vgg16, or fcn_32s, fcn_16s or fcn_8s, which stand on any"
            )
        if (encoder.depth, encoder.output_stride, encoder.ceil_mode) != (5, 32, True):
            raise InputError(
                f"the encoder has depth={encoder.depth}, output_stride={encoder.output_stride} and "
                f"ceil_mode={encoder.ceil_mode}: the paper's FCN needs 5, 32 and True"
            )
        if self.stride not in (8, 16, 32):
            raise InputError(f"stride={self.stride}: an FCN's finest scores have stride 8, 16, 32")
        if self.padding not in (1, 100):
            raise InputError(f"padding={self.padding}: 100 as in the paper, or 1 for no border")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Output:
        """Segments images.

        Args:
            images: `[N, H, W, C]`, floating point and normalised; any height and width.
            train: Whether to drop out (with the PRNG key `"dropout"`), and to normalise by the
                statistics of this batch on a VGG with batch normalisation (collection
                `"batch_stats"` is then updated).

        Returns:
            Logits at the images' size, in float32 or wider.

        Raises:
            InputError: If images are of integer type, or do not have four axes and the encoder's
                number of channels.
        """
        images = checked(images)
        encoder: Any = self.encoder
        border = (self.padding - 1,) * 2
        framed = jnp.pad(images, ((0, 0), border, border, (0, 0)))
        *_, pool3, pool4, x = encoder.pools(framed, train=train)
        window_padding = 0 if self.padding > 1 else WINDOW // 2
        for name, window, padding in (("fc6", WINDOW, window_padding), ("fc7", 1, 0)):
            x = nn.relu(self._conv(name, self.fc_features, window, padding, kaiming_fan_in)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = self._score("score_fr", x)
        *shifts, offset = crops(self.stride, self.padding)
        skips = (
            ("upscore2", "score_pool4", pool4, self.pool4_scale),
            ("upscore_pool4", "score_pool3", pool3, self.pool3_scale),
        )
        for (up, score, pool, scale), shift in zip(skips, shifts, strict=False):
            finer = self._score(score, pool * jnp.asarray(scale, pool.dtype))
            x = _sum(self._up(up, 2, self.learn_fusing)(x), finer, shift)
        last = "upscore" if self.stride == 32 else f"upscore{self.stride}"
        x = self._up(last, self.stride, self.learn_last)(x if self.learn_last else wide(x))
        height, width = images.shape[1:3]
        return Output(wide(x[:, offset : offset + height, offset : offset + width]))

    def _score(self, name: str, x: Array) -> Array:
        return self._conv(name, self.num_classes, 1, 0, nn.initializers.zeros)(x)

    def _conv(self, name: str, features: int, window: int, padding: int, init: Any) -> nn.Conv:
        return nn.Conv(
            features,
            (window, window),
            padding=padding,
            kernel_init=init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=convolution,
            name=name,
        )

    def _up(self, name: str, factor: int, learned: bool) -> Callable[[Array], Array]:
        if not learned:
            return partial(interpolated, factor=factor)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Upscore(self.num_classes, factor, name=name, **types)


class Upscore(nn.Module):
    """Transposed convolution of `2 * factor` pixels with stride `factor` that starts as bilinear.

    Equal to `torch.nn.ConvTranspose2d(C, features, 2 * factor, stride=factor, bias=False)`.

    Attributes:
        features: Channels of the result.
        factor: Stride; half of the kernel's height and width.
        dtype: Type to compute in; that of inputs and parameters by default.
        param_dtype: Type of parameters.

    >>> import jax
    >>> y, _ = Upscore(3, 8).init_with_output(jax.random.key(0), jnp.ones((1, 4, 5, 3)))
    >>> y.shape, float(y[0, 20, 20, 0])
    ((1, 40, 48, 3), 1.0)
    """

    features: int
    factor: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to `[N, factor * (H + 1), factor * (W + 1), features]`."""
        shape = (2 * self.factor, 2 * self.factor, x.shape[-1], self.features)
        kernel = self.param("kernel", bilinear_kernel, shape, self.param_dtype)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return transposed_convolution(x, kernel, self.factor)


def interpolated(x: Array, factor: int) -> Array:
    """What an `Upscore` that is not learned gives, each channel by itself, without its kernel.

    >>> interpolated(jnp.ones((1, 1, 1, 1)), 2)[0, 1, :, 0].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    for axis, form in ((1, "oh,nhwc->nowc"), (2, "ow,nhwc->nhoc")):
        matrix = jnp.asarray(_tents(x.shape[axis], factor), x.dtype)
        x = jnp.einsum(form, matrix, x, precision=lax.Precision.HIGHEST)
    return x


def _tents(length: int, factor: int) -> np.ndarray:
    """`[factor * (length + 1), length]`: the weight of every pixel in every pixel of the result."""
    centre = factor * np.arange(length) + factor - 0.5
    distance = np.abs(np.arange(factor * (length + 1))[:, None] - centre)
    return np.maximum(1 - distance / factor, 0)


def crops(stride: int, padding: int) -> tuple[int, ...]:
    """How many rows and columns are cut off at the top and left, in the order of the network.

    A map's first pixel is the centre of some place in the image; where the places of two maps
    differ, the one that begins earlier is cut.

    Args:
        stride: Stride of the finest scores.
        padding: Padding of the first convolution.

    Returns:
        For each pool that is added, of its scores, or, negative, of the upsampled ones; and at the
        end of the logits. With the paper's padding they are the offsets of its published models.

    >>> crops(32, 100), crops(16, 100), crops(8, 100)
    ((19,), (5, 27), (5, 9, 31))
    >>> crops(32, 1), crops(16, 1), crops(8, 1)
    ((16,), (-1, 8), (-1, -1, 4))
    """

    def of_pool(stride: int) -> float:
        return (stride - 1) / 2 - (padding - 1)

    place = of_pool(32) + (32 * (WINDOW // 2) if padding > 1 else 0)
    cut = []
    for finer in (s for s in (16, 8) if s >= stride):
        place -= 1.5 * finer  # half of an upsampling kernel of 4 pixels
        cut.append(round((place - of_pool(finer)) / finer))
        place = max(place, of_pool(finer))
    return (*cut, round(stride - 0.5 - place))


def _sum(coarse: Array, fine: Array, shift: int) -> Array:
    """The sum where both are, once `fine`, or with a negative shift `coarse`, is cut."""
    coarse = coarse[:, max(0, -shift) :, max(0, -shift) :]
    fine = fine[:, max(0, shift) :, max(0, shift) :]
    height, width = (min(coarse.shape[axis], fine.shape[axis]) for axis in (1, 2))
    return coarse[:, :height, :width] + fine[:, :height, :width]


def next_stage(variables: Variables, coarser: Variables) -> dict[str, Any]:
    """Variables of a finer FCN that go on where a coarser one's training ended.

    The paper trains in stages: FCN-16s starts from FCN-32s, and FCN-8s from FCN-16s, with scores
    of the new pool that are zero. The last upsampling, whose stride differs, is not taken over.

    Args:
        variables: Variables of the finer network, which are not changed.
        coarser: Those of the coarser one, with the same options.

    Returns:
        `variables` with the values of everything that both have.

    Raises:
        InputError: If the coarser network has what the finer lacks, or shapes differ.

    >>> zero, one = {"bias": np.zeros(2)}, {"bias": np.ones(2)}
    >>> finer = {"params": {"score_fr": zero, "score_pool4": zero}}
    >>> next_stage(finer, {"params": {"score_fr": one}})["params"]
    {'score_fr': {'bias': array([1., 1.])}, 'score_pool4': {'bias': array([0., 0.])}}
    """
    finer: dict[str, Any] = dict(flatten_dict(dict(variables), sep="/"))
    taken: dict[str, Any] = dict(flatten_dict(dict(coarser), sep="/"))
    for last in ("params/upscore/kernel", "params/upscore16/kernel"):
        taken.pop(last, None)
    for path, leaf in taken.items():
        found = f"{finer[path].shape}" if path in finer else "does not exist"
        if path not in finer or leaf.shape != finer[path].shape:
            raise InputError(
                f"{path} has the shape {leaf.shape} in the coarser network and {found} in the "
                "finer one: build both with the same encoder, classes and options"
            )
    return unflatten_dict(finer | taken, sep="/")
