"""Image classifiers with their dense layers, and what becomes of them when they are convolutions.

A classifier is an encoder and a head, as a segmentation model is, so it stands beside `models` and
not among the encoders, whose answer is features.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import encoders
from jaxseg.errors import InputError, unknown
from jaxseg.nn import adaptive_avg_pool
from jaxseg.nn.convolution import convolution
from jaxseg.nn.images import checked, wide
from jaxseg.typing import Array, Size, Variables

_torch_dense = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_vgg_dense = nn.initializers.normal(0.01)


class Classifier(nn.Module):
    """Images to class logits: the last feature of an encoder, and a head.

    Attributes:
        encoder: `encoder(images, train=...) -> features`.
        head: `head(feature, train=...)`: `DenseHead`, or the `ConvHead` of a fully convolutional
            classifier.

    >>> import jax
    >>> model = Classifier(encoders.resnet18(), DenseHead((10,)))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jnp.zeros((2, 33, 47, 3))).shape
    (2, 10)
    """

    encoder: nn.Module
    head: nn.Module

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: `[N, H, W, C]`, floating point and normalised.
            train: Whether to normalise by the statistics of this batch (collection `"batch_stats"`
                is then updated) and to drop out (with the PRNG key `"dropout"`).

        Returns:
            Logits in float32 or wider: `[N, L]` of a `DenseHead`, `[N, h, w, L]` of a `ConvHead`.

        Raises:
            InputError: If images are of integer type or do not have four axes.
        """
        features = self.encoder(checked(images), train=train)
        return wide(self.head(features[-1], train=train))


class DenseHead(nn.Module):
    """Means over `window` parts of the map, then dense layers with ReLU and dropout between them.

    Attributes:
        features: Outputs of each dense layer; the last are the logits.
        window: Height and width that the map is averaged to: `(1, 1)` is the global mean.
        dropout: Rate of dropout after each hidden layer, in training.
        kernel_init: Of the dense layers, PyTorch's by default.
        dtype: Type to compute in; that of the feature and parameters by default.
        param_dtype: Type of parameters.
    """

    features: tuple[int, ...]
    window: Size = (1, 1)
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = _torch_dense
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to `[N, features[-1]]`."""
        x = adaptive_avg_pool(x, self.window)
        # Channels first, as PyTorch flattens: its weights keep their order.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for i, features in enumerate(self.features):
            x = nn.Dense(
                features,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"dense{i}",
            )(x)
            if i + 1 < len(self.features):
                x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return x


class ConvHead(nn.Module):
    """The layers of a `DenseHead` as convolutions: the first as large as its window, the others 1x1.

    Attributes:
        features: Outputs of each layer; the last are the logits.
        window: Height and width of the first kernel.
        dropout: Rate of dropout after each hidden layer, in training.
        dtype: Type to compute in; that of the feature and parameters by default.
        param_dtype: Type of parameters.
    """

    features: tuple[int, ...]
    window: Size = (1, 1)
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to `[N, H - window[0] + 1, W - window[1] + 1, features[-1]]`."""
        if x.shape[1] < self.window[0] or x.shape[2] < self.window[1]:
            raise InputError(
                f"a map of {x.shape[1]} x {x.shape[2]} pixels is smaller than the window of "
                f"{self.window[0]} x {self.window[1]} that the dense layers see: take larger images"
            )
        for i, features in enumerate(self.features):
            x = nn.Conv(
                features,
                self.window if i == 0 else (1, 1),
                padding=0,
                kernel_init=_torch_dense,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                conv_general_dilated=convolution,
                name=f"dense{i}",
            )(x)
            if i + 1 < len(self.features):
                x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return x


def fully_convolutional(
    classifier: Classifier, variables: Variables
) -> tuple[Classifier, dict[str, Any]]:
    r"""The classifier with its dense layers as convolutions, and its weights in their form.

    A dense layer over a window of $h \times w$ pixels and $C$ channels is a convolution with a
    $h \times w$ kernel where only one place fits; the layers that follow are $1 \times 1$. On a
    larger image the convolution goes on, and each pixel of the result is what the classifier says
    of one window. That is exact where the encoder does not pad and its feature of a window is as
    large as the head's, so that there is nothing to average. With padding a window's border is made
    of zeros and that of the same place inside an image of its neighbours, so they differ.

    Where the window is `(1, 1)` (ResNet) the mean over the map is the classifier's answer, since
    mean and dense layer commute: the map says where it comes from.

    Args:
        classifier: A classifier with a `DenseHead`.
        variables: Its variables, which are not changed.

    Returns:
        A classifier that gives `[N, h, w, L]`, and its variables: the same numbers, in kernels of
        four axes.

    Raises:
        InputError: If the head is no `DenseHead`.

    References:
        Sermanet et al., OverFeat, 2013, https://arxiv.org/abs/1312.6229; Long, Shelhamer and
        Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038

    >>> import jax
    >>> model = vgg11(num_classes=10)
    >>> images = jax.ShapeDtypeStruct((1, 256, 224, 3), jnp.float32)
    >>> def run(key, images):
    ...     variables = model.init(key, images)
    ...     dense, (module, kernels) = variables["params"], fully_convolutional(model, variables)
    ...     return dense["head"], kernels["params"]["head"], module.apply(kernels, images)
    >>> dense, kernels, logits = jax.eval_shape(run, jax.random.key(0), images)
    >>> dense["dense0"]["kernel"].shape, kernels["dense0"]["kernel"].shape, logits.shape
    ((25088, 4096), (7, 7, 512, 4096), (1, 2, 1, 10))
    """
    head = classifier.head
    if not isinstance(head, DenseHead):
        raise InputError(
            f"the head is a {type(head).__name__}: fully_convolutional takes a classifier with a "
            "DenseHead"
        )
    module = Classifier(
        classifier.encoder,
        ConvHead(head.features, head.window, head.dropout, head.dtype, head.param_dtype),
    )
    params = dict(variables["params"])
    params["head"] = {
        name: {
            **layer,
            "kernel": _window(layer["kernel"], head.window if name == "dense0" else (1, 1)),
        }
        for name, layer in params["head"].items()
    }
    return module, {**variables, "params": params}


def _window(kernel: Array, window: Size) -> Array:
    """`[C * h * w, F]` as `[h, w, C, F]`."""
    return kernel.reshape(-1, *window, kernel.shape[-1]).transpose(1, 2, 0, 3)


def _vgg(
    encoder: Callable[..., encoders.VGG],
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.5,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> Classifier:
    types = {"dtype": dtype, "param_dtype": param_dtype}
    head = DenseHead(
        (4096, 4096, _at_least_one(num_classes)),
        (7, 7),
        dropout,
        _vgg_dense,
        **types,
    )
    return Classifier(encoder(in_channels=in_channels, ceil_mode=False, **types), head)


def _resnet(
    encoder: Callable[..., encoders.ResNet],
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> Classifier:
    types = {"dtype": dtype, "param_dtype": param_dtype}
    head = DenseHead((_at_least_one(num_classes),), **types)
    return Classifier(encoder(in_channels=in_channels, **types), head)


def _at_least_one(num_classes: int) -> int:
    if num_classes < 1:
        raise InputError(f"num_classes={num_classes}: a classifier has at least one class")
    return num_classes


resnet18 = partial(_resnet, encoders.resnet18)
"""ResNet-18 as torchvision has it; keyword arguments `num_classes`, `in_channels` and the types."""
resnet34 = partial(_resnet, encoders.resnet34)
"""ResNet-34; arguments as of `resnet18`."""
resnet50 = partial(_resnet, encoders.resnet50)
"""ResNet-50; arguments as of `resnet18`."""
resnet101 = partial(_resnet, encoders.resnet101)
"""ResNet-101; arguments as of `resnet18`."""
resnet152 = partial(_resnet, encoders.resnet152)
"""ResNet-152; arguments as of `resnet18`."""
vgg11 = partial(_vgg, encoders.vgg11)
"""VGG-11 as torchvision has it; arguments as of `resnet18`, and `dropout`."""
vgg11_bn = partial(_vgg, encoders.vgg11_bn)
"""VGG-11 with batch normalisation; arguments as of `vgg11`."""
vgg13 = partial(_vgg, encoders.vgg13)
"""VGG-13; arguments as of `vgg11`."""
vgg13_bn = partial(_vgg, encoders.vgg13_bn)
"""VGG-13 with batch normalisation; arguments as of `vgg11`."""
vgg16 = partial(_vgg, encoders.vgg16)
"""VGG-16; arguments as of `vgg11`."""
vgg16_bn = partial(_vgg, encoders.vgg16_bn)
"""VGG-16 with batch normalisation; arguments as of `vgg11`."""
vgg19 = partial(_vgg, encoders.vgg19)
"""VGG-19; arguments as of `vgg11`."""
vgg19_bn = partial(_vgg, encoders.vgg19_bn)
"""VGG-19 with batch normalisation; arguments as of `vgg11`."""

_BUILDERS: Mapping[str, Callable[..., Classifier]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
    "vgg13": vgg13,
    "vgg13_bn": vgg13_bn,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "vgg19": vgg19,
    "vgg19_bn": vgg19_bn,
}


def names() -> list[str]:
    """The names that `create` knows.

    >>> names()[:2]
    ['resnet18', 'resnet34']
    """
    return list(_BUILDERS)


def create(name: str, **options: Any) -> Classifier:
    """A classifier by name.

    Args:
        name: One of `names()`.
        **options: Arguments of its builder, such as `num_classes` (1000 by default).

    Raises:
        InputError: If the name or an option is not known, or an option's value does not do.

    >>> create("vgg16", num_classes=21).head.features
    (4096, 4096, 21)
    """
    if name not in _BUILDERS:
        raise unknown("classifier", name, _BUILDERS)
    builder = _BUILDERS[name]
    encoders.check_options(f"classifier {name!r}", builder, options)
    return encoders.build(f"classifier {name!r}", builder, options)
