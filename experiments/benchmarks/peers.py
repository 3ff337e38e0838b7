"""Imports the peers of the benchmarks."""

import importlib
from types import ModuleType


def segmentation_models_pytorch() -> ModuleType:
    """Returns smp, also with a CPU build of torch."""
    return _with_torchvision("segmentation_models_pytorch")


def torchvision() -> ModuleType:
    """Returns torchvision, also with a CPU build of torch."""
    return _with_torchvision("torchvision")


def torchmetrics() -> ModuleType:
    """Returns torchmetrics, which imports torchvision where it is installed."""
    return _with_torchvision("torchmetrics")


def _with_torchvision(name: str) -> ModuleType:
    """Imports a module that imports torchvision.

    torchvision's wheels register shapes for two operators that exist only in its CUDA build. Declaring them is enough,
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
        _LIBRARIES.append(library)
    return importlib.import_module(name)


_LIBRARIES: list = []  # torch unregisters the operators of a library that is garbage collected
