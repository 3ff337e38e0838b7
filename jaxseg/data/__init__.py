"""Data: sources of images and targets, their augmentation, and loaders that feed a training step.

A source is any picklable object with `__len__`, `__getitem__(i) -> {"image": uint8 [H, W, C], **targets, "name": str}` and
an attribute `targets`, which maps the name of each target to its kind (`data.Target`). A source of semantic segmentation has
`targets = data.targets.labels(ignore_index)`, one mask `[H, W]` of class ids (uint8, or int32 where uint8 cannot hold
them), and the attributes `num_classes`, `classes`, `palette` and `ignore_index`. Modules and the libraries that they need
(grain, tensorflow_datasets, albumentations) are imported on first use.
"""

import importlib
import typing

_NAMES = {
    "CAMVID_CLASSES": "labels",
    "CAMVID_PALETTE": "labels",
    "IMAGENET_MEAN": "normalization",
    "IMAGENET_STD": "normalization",
    "CamVid": "sources.camvid",
    "DeviceDataset": "device.dataset",
    "FileList": "sources.file_list",
    "Folder": "sources.folder",
    "LabelMap": "labels",
    "LabelOptions": "label_spec",
    "Shapes": "sources.shapes",
    "SkipUnreadable": "sources.skip_unreadable",
    "Subset": "sources.subset",
    "TFDS": "sources.tfds_dataset",
    "Target": "targets",
    "Targets": "targets",
    "TrainAugment": "host.augment",
    "class_pixels": "host.sampling",
    "class_probabilities": "host.sampling",
    "eval_batches": "host.loader",
    "folder": "sources.folder",
    "ids_from_colors": "labels",
    "load": "device.dataset",
    "make_feed": "device.dataset",
    "make_sampler": "device.epoch_order",
    "normalize": "normalization",
    "open_source": "sources",
    "palette": "labels",
    "rare_class_weights": "host.sampling",
    "read_list": "sources.file_list",
    "shuffled": "device.epoch_order",
    "train_batches": "host.loader",
    "weighted": "device.epoch_order",
}
_MODULES = frozenset(
    {"check", "decode", "device", "host", "label_spec", "labels", "sources", "targets"}
)

if typing.TYPE_CHECKING:
    from jaxseg.data import check, decode, device, host, label_spec, labels, sources, targets
    from jaxseg.data.device.dataset import DeviceDataset, load, make_feed
    from jaxseg.data.device.epoch_order import make_sampler, shuffled, weighted
    from jaxseg.data.host.augment import TrainAugment
    from jaxseg.data.host.loader import eval_batches, train_batches
    from jaxseg.data.host.sampling import class_pixels, class_probabilities, rare_class_weights
    from jaxseg.data.label_spec import LabelOptions
    from jaxseg.data.labels import (
        CAMVID_CLASSES,
        CAMVID_PALETTE,
        LabelMap,
        ids_from_colors,
        palette,
    )
    from jaxseg.data.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize
    from jaxseg.data.sources import open_source
    from jaxseg.data.sources.camvid import CamVid
    from jaxseg.data.sources.file_list import FileList, read_list
    from jaxseg.data.sources.folder import Folder, folder
    from jaxseg.data.sources.shapes import Shapes
    from jaxseg.data.sources.skip_unreadable import SkipUnreadable
    from jaxseg.data.sources.subset import Subset
    from jaxseg.data.sources.tfds_dataset import TFDS
    from jaxseg.data.targets import Target, Targets

__all__ = sorted([*_NAMES, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"jaxseg.data.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jaxseg.data.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'jaxseg.data' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_NAMES, *_MODULES])
