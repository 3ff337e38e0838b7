"""Image classifiers, an encoder and dense layers, and their fully convolutional form."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.errors import InputError
from jaxseg.nn import Conv, Dropout, adaptive_avg_pool
from jaxseg.nn.inputs import checked, wide
from jaxseg.typing import Array, Size, Variables

torch_dense = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""The initializer of dense layers in PyTorch."""


class Classifier(nn.Module):
    """Images to class logits: the last feature of an encoder, and a head.

    Attributes:
        encoder: `encoder(images, train=...) -> features`.
        head: `head(feature, train=...)`: `DenseHead`, or the `ConvHead` of a fully convolutional
            classifier.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = Classifier(encoders.resnet18(), DenseHead((10,)))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jnp.zeros((2, 33, 47, 3))).shape
    (2, 10)
    """

    encoder: Encoder
    head: nn.Module

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: `[N, H, W, C]`, floating point and normalized.
            train: Whether to normalize by the statistics of this batch (collection `"batch_stats"`
                is then updated) and to drop out (with the PRNG key `"dropout"`).

        Returns:
            Logits in float32 or wider: `[N, L]` of a `DenseHead`, `[N, h, w, L]` of a `ConvHead`.

        Raises:
            InputError: If images are of integer type or do not have four axes.
        """
        features = self.encoder(checked(images), train=train)
        return wide(self.head(features[-1], train=train))


class DenseHead(nn.Module):
    """Adaptive average pooling, then dense layers with ReLU and dropout between them.

    Attributes:
        features: Outputs of each dense layer; the last are the logits.
        window: Height and width that the map is averaged to: `(1, 1)` is the global mean.
        dropout: Rate of dropout after each hidden layer, in training.
        kernel_init: Initializer of the dense layers, PyTorch's by default.
        dtype: Type to compute in; that of the feature and parameters by default.
        param_dtype: Type of parameters.
    """

    features: tuple[int, ...]
    window: Size = (1, 1)
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = torch_dense
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
                x = Dropout(self.dropout)(nn.relu(x), train=train)
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
            x = Conv(
                features,
                self.window if i == 0 else 1,
                padding=0,
                kernel_init=torch_dense,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"dense{i}",
            )(x)
            if i + 1 < len(self.features):
                x = Dropout(self.dropout)(nn.relu(x), train=train)
        return x


def fully_convolutional(
    classifier: Classifier, variables: Variables
) -> tuple[Classifier, dict[str, Any]]:
    r"""Turns the dense layers of a classifier into convolutions, with the same weights.

    A dense layer over a window of $h \times w$ pixels and $C$ channels is a convolution with a
    $h \times w$ kernel that fits at one position only; the layers that follow are $1 \times 1$. On
    a larger image the kernel fits at several positions, and each pixel of the result holds the
    classifier's logits of one window. That is exact if the encoder does not pad and its feature of
    a window is as large as the head's, so that there is nothing to average. With padding they
    differ: a window has zeros around it, the same part of a larger image has its neighbors.

    With a window of `(1, 1)` (ResNet) the mean over the map equals the classifier's logits, since
    mean and dense layer commute: the map shows where they come from.

    Args:
        classifier: A classifier with a `DenseHead`.
        variables: Its variables, which are not changed.

    Returns:
        A classifier that returns `[N, h, w, L]`, and its variables: the same numbers, in kernels of
        four axes.

    Raises:
        InputError: If the head is not a `DenseHead`.

    References:
        Sermanet et al., OverFeat, 2013, https://arxiv.org/abs/1312.6229; Long, Shelhamer and
        Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = vgg_classifier(encoder=encoders.vgg11(), num_classes=10)
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
            "kernel": _as_window(layer["kernel"], head.window if name == "dense0" else (1, 1)),
        }
        for name, layer in params["head"].items()
    }
    return module, {**variables, "params": params}


def _as_window(kernel: Array, window: Size) -> Array:
    """Reshapes `[C * h * w, F]` to `[h, w, C, F]`."""
    return kernel.reshape(-1, *window, kernel.shape[-1]).transpose(1, 2, 0, 3)


def classifier(
    *,
    encoder: Encoder,
    num_classes: int = 1000,
    hidden: tuple[int, ...] = (),
    window: Size = (1, 1),
    dropout: float = 0.0,
    kernel_init: nn.initializers.Initializer = torch_dense,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Classifier:
    """An image classifier on any encoder: the mean over the last feature and dense layers.

    On a ResNet it is torchvision's and timm's, whose weights load. `vgg_classifier` has VGG's hidden
    layers.

    Args:
        encoder: Any encoder.
        num_classes: Number of classes `L`.
        hidden: Outputs of the hidden dense layers.
        window: Height and width that the last feature is averaged to.
        dropout: Rate of dropout after each hidden layer, in training.
        kernel_init: Initializer of the dense layers, PyTorch's by default.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If there is no class.

    >>> from jaxseg import encoders
    >>> classifier(encoder=encoders.resnet18()).head.features
    (1000,)
    >>> vgg_classifier(encoder=encoders.vgg16(ceil_mode=False), num_classes=21).head.features
    (4096, 4096, 21)
    """
    check_encoder(encoder)
    if num_classes < 1:
        raise InputError(f"num_classes={num_classes}: a classifier has at least one class")
    types = inherit_dtypes(encoder, dtype, param_dtype)
    head = DenseHead((*hidden, num_classes), window, dropout, kernel_init, **types)
    return Classifier(encoder, head)


vgg_classifier = partial(
    classifier,
    hidden=(4096, 4096),
    window=(7, 7),
    dropout=0.5,
    kernel_init=nn.initializers.normal(0.01),
)
"""The classifier of the VGG paper; torchvision's and timm's is on a VGG with `ceil_mode=False`."""
