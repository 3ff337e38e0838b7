"""The peers that benchmarks run against; torch is imported here and in tests alone."""

import importlib
from types import ModuleType


def segmentation_models_pytorch() -> ModuleType:
    """smp, also beside a CPU build of torch.

    torchvision's wheels register shapes for two operators that only its CUDA build holds; declaring them is enough,
    since no segmentation network calls them.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return importlib.import_module("segmentation_models_pytorch")


_KEPT: list = []  # torch forgets the operators of a library that is collected
