"""The peers to compare with: how to import them, weights for both sides, and the table of comparisons.

Neither torch nor a peer is imported before it is asked for. Weights depend on names and shapes alone.
"""

import importlib
import sys
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


@dataclass(frozen=True)
class Case:
    """A comparison with a peer.

    Attributes:
        name: Name of the encoder or architecture.
        peer: Name of the peer's model.
        size: Height and width of the images.
        encoder: Name of the encoder that an architecture stands on.
        options: Options of the encoder.
        model_options: Options of the architecture.
        peer_options: Options of the peer's model.
    """

    name: str
    peer: str
    size: tuple[int, int]
    encoder: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    peer_options: Mapping[str, Any] = field(default_factory=dict)


def quick(*row, **options):
    """Returns pytest's parameter of a `Case`."""
    case = Case(*row, **options)
    settings = {**case.options, **case.model_options}
    parts = (case.name, case.encoder, *(f"{k}={v}" for k, v in settings.items()))
    return pytest.param(case, id="-".join(filter(None, parts)))


def slow(*row, **options):
    """Returns pytest's parameter of a `Case` that takes long to compile."""
    case = quick(*row, **options)
    return pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)


TIMM_FEATURES = (
    quick("resnet18", "resnet18", (45, 70)),
    quick("resnet18", "resnet18", (64, 64), options={"output_stride": 16}),
    quick("resnet18", "resnet18", (64, 64), options={"output_stride": 8, "depth": 4}),
    slow("resnet34", "resnet34", (64, 32)),
    slow("resnet50", "resnet50", (64, 32)),
    quick("resnet50", "resnet50", (45, 70), options={"output_stride": 8}),
    slow("resnet101", "resnet101", (64, 64)),
    slow("resnet152", "resnet152", (64, 64)),
    quick("mobilenetv2_100", "mobilenetv2_100", (45, 70)),
    slow("mobilenetv2_110d", "mobilenetv2_110d", (64, 96), options={"output_stride": 8}),
    quick("mobilenetv3_small_100", "mobilenetv3_small_100", (45, 70)),
    slow("mobilenetv3_small_050", "mobilenetv3_small_050", (64, 96), options={"output_stride": 16}),
    slow("mobilenetv3_large_100", "mobilenetv3_large_100", (64, 96), options={"output_stride": 8}),
    slow("tf_mobilenetv3_large_100", "tf_mobilenetv3_large_100", (45, 70)),
    slow("tf_mobilenetv3_small_minimal_100", "tf_mobilenetv3_small_minimal_100", (47, 33)),
    quick("efficientnet_b0", "efficientnet_b0", (45, 70)),
    slow("efficientnet_b1", "efficientnet_b1", (64, 96), options={"output_stride": 8}),
    slow("efficientnet_lite0", "efficientnet_lite0", (64, 96), options={"output_stride": 16}),
    slow("tf_efficientnet_b0", "tf_efficientnet_b0", (45, 70)),
    slow("tf_efficientnet_b0", "tf_efficientnet_b0", (64, 96)),
    slow("tf_efficientnet_lite0", "tf_efficientnet_lite0", (47, 33)),
    quick("vgg11_bn", "vgg11_bn", (32, 64)),
    quick("vgg11_bn", "vgg11_bn", (32, 64), options={"depth": 1}),
    *(slow("vgg11_bn", "vgg11_bn", (32, 64), options={"depth": d}) for d in (2, 3, 4)),
)
"""Encoders and timm's models with `features_only`."""

STRIDE_8 = {"output_stride": 8, "dilate_first": True}
STRIDE_16 = {"output_stride": 16, "dilate_first": True}

SMP_LOGITS = (
    quick("unet", "Unet", (64, 96), "resnet18"),
    quick("unet", "Unet", (45, 70), "resnet18"),
    slow("unet", "Unet", (64, 32), "resnet34"),
    slow("unet", "Unet", (64, 32), "resnet50"),
    quick(
        *("unet", "Unet", (64, 32), "resnet18", {"depth": 3}),
        peer_options={"encoder_depth": 3, "decoder_channels": (64, 32, 16)},
    ),
    quick(
        *("unet", "Unet", (64, 96), "resnet18", {"output_stride": 16, "dilate_first": True}),
        peer_options={"output_stride": 16},
    ),
    quick(
        *("unet", "Unet", (64, 32), "resnet18", {"in_channels": 5}),
        peer_options={"in_channels": 5},
    ),
    slow("unet", "Unet", (64, 32), "vgg16"),
    quick("unet", "Unet", (32, 64), "vgg16_bn"),
    quick(
        *("unet", "Unet", (64, 32), "vgg11_bn", {"depth": 3}),
        peer_options={"encoder_depth": 3, "decoder_channels": (64, 32, 16)},
    ),
    slow(
        *("unet", "Unet", (64, 96), "tf_efficientnet_b1", {"stem_feature": True}),
        peer_options={"encoder_name": "efficientnet-b1"},
    ),
    slow(
        *("unet", "Unet", (64, 96), "efficientnet_b0"),
        peer_options={"encoder_name": "tu-efficientnet_b0"},
    ),
    slow(
        *("unet", "Unet", (64, 96), "mobilenetv3_small_100"),
        peer_options={"encoder_name": "tu-mobilenetv3_small_100"},
    ),
    slow(
        *("fpn", "FPN", (64, 32), "mobilenetv2_100"),
        peer_options={"encoder_name": "tu-mobilenetv2_100"},
    ),
    slow("fpn", "FPN", (64, 32), "vgg11"),
    quick("fpn", "FPN", (64, 96), "resnet18"),
    slow("fpn", "FPN", (64, 32), "resnet34"),
    slow("fpn", "FPN", (32, 64), "resnet50"),
    quick(
        *("fpn", "FPN", (64, 32), "resnet18", {"depth": 4}),
        # Without it smp upsamples logits of stride 2 by 4.
        peer_options={"encoder_depth": 4, "upsampling": 2},
    ),
    quick(
        *("deeplab_v3", "DeepLabV3", (64, 96), "resnet18", STRIDE_8),
        # On maps of this size larger rates see zeros alone.
        model_options={"rates": (2, 3, 5)},
        peer_options={"decoder_atrous_rates": (2, 3, 5)},
    ),
    slow("deeplab_v3", "DeepLabV3", (128, 160), "resnet34", STRIDE_8),
    slow(
        *("deeplab_v3", "DeepLabV3", (256, 192), "resnet50", STRIDE_16),
        model_options={"rates": (6, 12, 18), "separable": True, "channels": 64},
        peer_options={
            "encoder_output_stride": 16,
            "decoder_atrous_rates": (6, 12, 18),
            "decoder_aspp_separable": True,
            "decoder_channels": 64,
        },
    ),
    slow(
        *("deeplab_v3", "DeepLabV3", (64, 96), "resnet18", STRIDE_8 | {"depth": 4}),
        model_options={"rates": (2, 3, 5)},
        peer_options={"encoder_depth": 4, "decoder_atrous_rates": (2, 3, 5)},
    ),
    quick(
        *("deeplab_v3_plus", "DeepLabV3Plus", (64, 96), "resnet18", STRIDE_16),
        model_options={"rates": (1, 2, 3)},
        peer_options={"decoder_atrous_rates": (1, 2, 3)},
    ),
    slow("deeplab_v3_plus", "DeepLabV3Plus", (256, 192), "resnet34", STRIDE_16),
    slow(
        *("deeplab_v3_plus", "DeepLabV3Plus", (128, 160), "resnet50", STRIDE_8),
        model_options={"separable": False, "channels": 64},
        peer_options={
            "encoder_output_stride": 8,
            "decoder_aspp_separable": False,
            "decoder_channels": 64,
        },
    ),
    slow(
        *("deeplab_v3_plus", "DeepLabV3Plus", (64, 96), "resnet18", STRIDE_16 | {"depth": 3}),
        peer_options={"encoder_depth": 3, "upsampling": 4},
    ),
    quick("pspnet", "PSPNet", (64, 96), "resnet18", {"depth": 3}),
    slow(
        *("pspnet", "PSPNet", (64, 32), "vgg11_bn", {"depth": 4}),
        model_options={"channels": 256},
        peer_options={"encoder_depth": 4, "psp_out_channels": 256, "upsampling": 16},
    ),
    slow(
        *("pspnet", "PSPNet", (64, 32), "mobilenetv2_100", {"depth": 3}),
        peer_options={"encoder_name": "tu-mobilenetv2_100"},
    ),
    slow(
        *("pspnet", "PSPNet", (192, 256), "resnet50", STRIDE_8),
        peer_options={"encoder_depth": 5, "output_stride": 8},
    ),
    quick("pan", "PAN", (128, 160), "resnet18", STRIDE_16),
    slow("pan", "PAN", (176, 144), "resnet50", STRIDE_16),
    slow(
        *("pan", "PAN", (256, 288), "resnet34"),
        model_options={"channels": 48},
        peer_options={"encoder_output_stride": 32, "decoder_channels": 48},
    ),
    slow(
        *("pan", "PAN", (64, 96), "resnet18", {"depth": 3}),
        peer_options={"encoder_depth": 3, "encoder_output_stride": 32},
    ),
    slow(
        *("pan", "PAN", (128, 160), "efficientnet_b0", {"output_stride": 16}),
        peer_options={"encoder_name": "tu-efficientnet_b0"},
    ),
    slow("upernet", "UPerNet", (64, 96), "resnet18"),
    slow("upernet", "UPerNet", (96, 64), "vgg11_bn"),
    slow(
        *("upernet", "UPerNet", (64, 96), "resnet50", {"depth": 4}),
        model_options={"channels": 96},
        peer_options={"encoder_depth": 4, "decoder_channels": 96},
    ),
    slow(
        *("upernet", "UPerNet", (128, 96), "mobilenetv2_100"),
        peer_options={"encoder_name": "tu-mobilenetv2_100"},
    ),
    slow("segformer", "Segformer", (64, 96), "resnet18"),
    slow("segformer", "Segformer", (96, 64), "vgg11_bn"),
    slow(
        *("segformer", "Segformer", (64, 96), "resnet50", {"depth": 4}),
        model_options={"channels": 96},
        peer_options={"encoder_depth": 4, "decoder_segmentation_channels": 96},
    ),
    slow(
        *("segformer", "Segformer", (128, 96), "efficientnet_b0"),
        peer_options={"encoder_name": "tu-efficientnet_b0"},
    ),
    slow("unet_plus_plus", "UnetPlusPlus", (64, 96), "resnet18"),
    slow("unet_plus_plus", "UnetPlusPlus", (32, 64), "vgg11_bn"),
    slow(
        *("unet_plus_plus", "UnetPlusPlus", (64, 32), "resnet50", {"depth": 3}),
        model_options={"channels": (48, 24, 12)},
        peer_options={"encoder_depth": 3, "decoder_channels": (48, 24, 12)},
    ),
    slow(
        *("unet_plus_plus", "UnetPlusPlus", (64, 32), "mobilenetv2_100"),
        peer_options={"encoder_name": "tu-mobilenetv2_100"},
    ),
    slow("manet", "MAnet", (64, 96), "resnet18"),
    slow("manet", "MAnet", (32, 64), "vgg11_bn"),
    slow(
        *("manet", "MAnet", (64, 32), "resnet50", {"depth": 3}),
        model_options={"channels": (48, 24, 12), "attention_channels": 16},
        peer_options={
            "encoder_depth": 3,
            "decoder_channels": (48, 24, 12),
            "decoder_pab_channels": 16,
        },
    ),
    slow(
        *("manet", "MAnet", (64, 32), "efficientnet_b0"),
        peer_options={"encoder_name": "tu-efficientnet_b0"},
    ),
    quick("linknet", "Linknet", (64, 96), "resnet18"),
    slow("linknet", "Linknet", (64, 32), "resnet34"),
    slow("linknet", "Linknet", (32, 64), "resnet50"),
    slow("linknet", "Linknet", (32, 64), "vgg11_bn"),
    slow(
        *("linknet", "Linknet", (64, 32), "resnet18", {"depth": 3}),
        peer_options={"encoder_depth": 3},
    ),
)
"""Architectures and the models of segmentation_models.pytorch."""


def load(name: str) -> ModuleType:
    """A peer's module; ImportError where it cannot be imported.

    Released wheels of torchvision, which timm and segmentation_models_pytorch need, do not import
    beside a CPU-only torch unless stand-ins for its compiled operators are registered first, which
    `../shared/reference/torch_cpu.py` does where it is at hand.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name != "torch":
            if REFERENCE.is_dir() and str(REFERENCE) not in sys.path:
                sys.path.append(str(REFERENCE))
            if REFERENCE.is_dir():
                importlib.import_module("torch_cpu")
        try:
            return importlib.import_module(name)
        except RuntimeError as error:  # what torchvision raises beside a torch it was not built for
            raise ImportError(f"{name}: {error}") from error


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict with random values, BatchNorm's scales, biases and statistics among them.

    Every tensor has a generator of its own, seeded by its name, so that both sides agree whatever
    their order. The sizes keep activations near one through the deepest network.
    """
    return {name: _weight(name, shape, seed) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    if len(shape) > 1:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("weight"):
        values = rng.uniform(0.2, 0.8, shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal noise `[N, H, W, C]`."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
