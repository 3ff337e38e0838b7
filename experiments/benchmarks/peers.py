"""The peers that benchmarks run against; torch is imported here and in tests alone."""

import importlib
from types import ModuleType


def segmentation_models_pytorch() -> ModuleType:
    """smp, also beside a CPU build of torch."""
    return _beside_torchvision("segmentation_models_pytorch")


def torchvision() -> ModuleType:
    """torchvision, also beside a CPU build of torch."""
    return _beside_torchvision("torchvision")


def torchmetrics() -> ModuleType:
    """torchmetrics, which imports torchvision where it is installed."""
    return _beside_torchvision("torchmetrics")


def _beside_torchvision(name: str) -> ModuleType:
    """A module that imports torchvision.

    torchvision's wheels register shapes for two operators that only its CUDA build holds; declaring them is enough,
    since no segmentation network calls them.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return importlib.import_module(name)


_KEPT: list = []  # torch forgets the operators of a library that is collected
