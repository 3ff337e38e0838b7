"""FCN-32s, FCN-16s and FCN-8s of the paper: a VGG with convolutions for its dense layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from jaxseg.encoders.protocol import check_encoder, inherit_dtypes
from jaxseg.errors import InputError
from jaxseg.models.segmentation_model import check_num_classes
from jaxseg.nn import Conv, Dropout
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.inputs import checked, wide
from jaxseg.nn.transposed import bilinear_kernel, transposed_convolution
from jaxseg.typing import Array, Output, Variables

FC6_SIZE = 7
"""Height and width of fc6's kernel: the part of pool5 that VGG's first dense layer sees."""


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


def bilinear_upscore(x: Array, factor: int) -> Array:
    """Returns what an `Upscore` at its start returns, each channel by itself, without a kernel.

    >>> bilinear_upscore(jnp.ones((1, 1, 1, 1)), 2)[0, 1, :, 0].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    for axis, form in ((1, "oh,nhwc->nowc"), (2, "ow,nhwc->nhoc")):
        length = x.shape[axis]
        centers = factor * np.arange(length) + factor - 0.5
        distance = np.abs(np.arange(factor * (length + 1))[:, None] - centers)
        matrix = jnp.asarray(np.maximum(1 - distance / factor, 0), x.dtype)
        x = jnp.einsum(form, matrix, x, precision=lax.Precision.HIGHEST)
    return x


def crop_offsets(stride: int, padding: int) -> tuple[int, ...]:
    """Returns the numbers of rows and columns to crop at the top and left, in the network's order.

    The first pixel of a map has its center somewhere in the image. Before two maps are added, the
    one that begins earlier is cropped.

    Args:
        stride: Stride of the finest scores.
        padding: Padding of the first convolution.

    Returns:
        For each pool that is added, the offset of its scores or, if negative, of the upsampled
        ones; last, that of the logits. With the paper's padding they are the offsets of its
        published models.

    >>> crop_offsets(32, 100), crop_offsets(16, 100), crop_offsets(8, 100)
    ((19,), (5, 27), (5, 9, 31))
    >>> crop_offsets(32, 1), crop_offsets(16, 1), crop_offsets(8, 1)
    ((16,), (-1, 8), (-1, -1, 4))
    """

    def center_of_pool(stride: int) -> float:
        return (stride - 1) / 2 - (padding - 1)

    center = center_of_pool(32) + (32 * (FC6_SIZE // 2) if padding > 1 else 0)
    offsets = []
    for finer in (s for s in (16, 8) if s >= stride):
        center -= 1.5 * finer  # half of an upsampling kernel of 4 pixels
        offsets.append(round((center - center_of_pool(finer)) / finer))
        center = max(center, center_of_pool(finer))
    return (*offsets, round(stride - 0.5 - center))


def add_cropped(coarse: Array, fine: Array, offset: int) -> Array:
    """Returns the sum of two maps where they overlap.

    `fine` is cropped by `offset` at the top and left, or `coarse` by `-offset`.
    """
    coarse = coarse[:, max(0, -offset) :, max(0, -offset) :]
    fine = fine[:, max(0, offset) :, max(0, offset) :]
    height, width = (min(coarse.shape[axis], fine.shape[axis]) for axis in (1, 2))
    return coarse[:, :height, :width] + fine[:, :height, :width]


class FCNVGG(nn.Module):
    """A VGG with its dense layers as convolutions, and scores of pool5, pool4 and pool3, summed.

    fc7's scores are upsampled by 2 and added to those of pool4, their sum is upsampled and added to
    those of pool3, and the last sum is upsampled to the images' size. Upsampling is a transposed
    convolution of twice its stride, without padding and bias, whose result is cropped.

    Attributes:
        encoder: A VGG of depth 5 and output stride 32, with `ceil_mode` (Caffe's pools).
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        stride: Stride of the finest scores: 32 (FCN-32s), 16 (FCN-16s) or 8 (FCN-8s).
        padding: Padding of the first convolution. The paper's is 100, so that fc6's kernel fits
            into an image of any size. With 1 there is no such border, and fc6 is padded by 3
            instead: the same weights, less to compute, other values near the border.
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
        convolutions as bilinear interpolation, and the last one stays bilinear. In the models that
        the authors published, https://github.com/shelhamer/fcn.berkeleyvision.org, the others stay
        bilinear, too: `learn_fusing=False`. fc6 and fc7 start with Kaiming's uniform over fan-in
        where no classifier's weights are loaded.
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
            images: `[N, H, W, C]`, floating point and normalized; any height and width.
            train: Whether to drop out (with the PRNG key `"dropout"`), and to normalize by the
                statistics of this batch on a VGG with batch normalization (collection
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
        fc6_padding = 0 if self.padding > 1 else FC6_SIZE // 2
        for name, size, padding in (("fc6", FC6_SIZE, fc6_padding), ("fc7", 1, 0)):
            x = nn.relu(self._conv(name, self.fc_features, size, padding, kaiming_fan_in)(x))
            x = Dropout(self.dropout)(x, train=train)
        x = self._score("score_fr", x)
        *offsets, last_offset = crop_offsets(self.stride, self.padding)
        skips = (
            ("upscore2", "score_pool4", pool4, self.pool4_scale),
            ("upscore_pool4", "score_pool3", pool3, self.pool3_scale),
        )
        for (up, score, pool, scale), offset in zip(skips, offsets, strict=False):
            finer = self._score(score, pool * jnp.asarray(scale, pool.dtype))
            x = add_cropped(self._up(up, 2, self.learn_fusing)(x), finer, offset)
        last = "upscore" if self.stride == 32 else f"upscore{self.stride}"
        x = self._up(last, self.stride, self.learn_last)(x if self.learn_last else wide(x))
        rows, columns = (slice(last_offset, last_offset + n) for n in images.shape[1:3])
        return Output(wide(x[:, rows, columns]))

    def _score(self, name: str, x: Array) -> Array:
        return self._conv(name, self.num_classes, 1, 0, nn.initializers.zeros)(x)

    def _conv(self, name: str, features: int, size: int, padding: int, init: Any) -> Conv:
        return Conv(
            features,
            size,
            padding=padding,
            kernel_init=init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    def _up(self, name: str, factor: int, learned: bool) -> Callable[[Array], Array]:
        if not learned:
            return partial(bilinear_upscore, factor=factor)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Upscore(self.num_classes, factor, name=name, **types)


def next_stage(variables: Variables, coarser: Variables) -> dict[str, Any]:
    """Returns variables with which a finer FCN continues the training of a coarser one.

    The paper trains in stages: FCN-16s starts from FCN-32s, and FCN-8s from FCN-16s, with scores of
    the new pool that are zero. The last upsampling, whose stride differs, keeps its initial
    values.

    Args:
        variables: Variables of the finer network, which are not changed.
        coarser: Those of the coarser one, with the same options.

    Returns:
        `variables` with the values of everything that both networks have.

    Raises:
        InputError: If the finer network lacks a variable of the coarser one, or shapes differ.

    >>> zero, one = {"bias": np.zeros(2)}, {"bias": np.ones(2)}
    >>> finer = {"params": {"score_fr": zero, "score_pool4": zero}}
    >>> next_stage(finer, {"params": {"score_fr": one}})["params"]
    {'score_fr': {'bias': array([1., 1.])}, 'score_pool4': {'bias': array([0., 0.])}}
    """
    finer: dict[str, Any] = dict(flatten_dict(dict(variables), sep="/"))
    trained: dict[str, Any] = dict(flatten_dict(dict(coarser), sep="/"))
    for last in ("params/upscore/kernel", "params/upscore16/kernel"):
        trained.pop(last, None)
    for path, leaf in trained.items():
        found = f"{finer[path].shape}" if path in finer else "does not exist"
        if path not in finer or leaf.shape != finer[path].shape:
            raise InputError(
                f"{path} has the shape {leaf.shape} in the coarser network and {found} in the "
                "finer one: build both with the same encoder, classes and options"
            )
    return unflatten_dict(finer | trained, sep="/")


def fcn_vgg(
    stride: int,
    pool4_scale: float,
    pool3_scale: float,
    *,
    num_classes: int,
    encoder: nn.Module,
    padding: int = 100,
    learn_fusing: bool = True,
    learn_last: bool = False,
    fc_features: int = 4096,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = None,
) -> FCNVGG:
    """FCN of the paper on a VGG: scores of fc7, pool4 and pool3, summed from coarse to fine.

    FCN-16s is trained from FCN-32s on, and FCN-8s from FCN-16s, see `next_stage`; "at once" is
    FCN-8s that is trained in one stage.

    Args:
        stride: Stride of the finest scores.
        pool4_scale: Factor on pool4 before its scores.
        pool3_scale: Factor on pool3 before its scores.
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: A VGG of full depth and stride; the paper's is `encoders.vgg16()`.
        padding: Padding of the first convolution: the paper's 100, or 1 for no border, where fc6
            is padded instead.
        learn_fusing: Whether the upsampling between scores is learned, as in the paper; in the
            models that its authors published it stays bilinear. FCN-32s has none.
        learn_last: Whether the last upsampling is learned; in the paper it stays bilinear.
        fc_features: Channels of fc6 and fc7.
        dropout: Rate of dropout after fc6 and fc7, in training.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder is no VGG of full depth and stride, or an option has a value that
            the network cannot have.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038; Shelhamer, Long and Darrell, the same, 2016,
        https://arxiv.org/abs/1605.06211, for training at once.

    >>> import jax
    >>> from jaxseg import encoders
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> def parameters(**options):
    ...     model = fcn_vgg_32s(num_classes=21, encoder=encoders.vgg16(), **options)
    ...     variables = jax.eval_shape(model.init, jax.random.key(0), images)
    ...     return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    >>> parameters(), parameters(learn_last=True) - parameters()
    (134346581, 1806336)
    """
    check_encoder(encoder)
    return FCNVGG(
        encoder,
        check_num_classes(num_classes),
        stride,
        padding,
        pool4_scale,
        pool3_scale,
        learn_fusing,
        learn_last,
        fc_features,
        dropout,
        **inherit_dtypes(encoder, dtype, param_dtype),
    )


fcn_vgg_32s = partial(fcn_vgg, 32, 1.0, 1.0)
"""The paper's FCN-32s: scores of fc7."""
fcn_vgg_16s = partial(fcn_vgg, 16, 1.0, 1.0)
"""The paper's FCN-16s: scores of fc7 and pool4."""
fcn_vgg_8s = partial(fcn_vgg, 8, 1.0, 1.0)
"""The paper's FCN-8s: scores of fc7, pool4 and pool3."""
fcn_vgg_8s_at_once = partial(fcn_vgg, 8, 0.01, 0.0001)
"""FCN-8s that is trained in one stage: pool4 and pool3 are scaled down before their scores."""

MODELS = {
    "fcn_vgg_8s": fcn_vgg_8s,
    "fcn_vgg_8s_at_once": fcn_vgg_8s_at_once,
    "fcn_vgg_16s": fcn_vgg_16s,
    "fcn_vgg_32s": fcn_vgg_32s,
}
