"""Data: sources of images and label maps, their augmentation, and loaders that feed a training
step.

A source is any picklable object with `__len__` and `__getitem__(i) -> {"image", "label", "name"}`:
`image` uint8 `[H, W, C]`, `label` `[H, W]` of ids the network is trained on (uint8, or int32 where
uint8 cannot hold them), `name` a string; and the attributes `num_classes`, `classes`, `palette` and
`ignore_index`. The modules and what they need (grain, tensorflow_datasets, albumentations) are
imported on first use.
"""

import importlib
import typing

_NAMES = {
    "CAMVID_CLASSES": "labels",
    "CAMVID_PALETTE": "labels",
    "IMAGENET_MEAN": "pixels",
    "IMAGENET_STD": "pixels",
    "CamVid": "sources",
    "Folder": "sources",
    "LabelMap": "labels",
    "Listed": "lists",
    "OnDevice": "on_device",
    "Shapes": "shapes",
    "SkipUnreadable": "unreadable",
    "Subset": "sources",
    "TFDS": "tfds",
    "TrainAugment": "augment",
    "class_pixels": "sampling",
    "class_probabilities": "sampling",
    "drawn": "places",
    "eval_batches": "loader",
    "folder": "sources",
    "ids_from_colors": "labels",
    "load": "on_device",
    "make_feed": "on_device",
    "make_places": "places",
    "normalize": "pixels",
    "palette": "labels",
    "rare_class_weights": "sampling",
    "read_list": "lists",
    "shuffled": "places",
    "train_batches": "loader",
}
_MODULES = frozenset(
    {*_NAMES.values(), "check", "decode", "device_augment", "files", "prepare", "spec", "workers"}
)

if typing.TYPE_CHECKING:
    from jaxseg.data import (
        augment,
        check,
        decode,
        device_augment,
        files,
        labels,
        lists,
        loader,
        on_device,
        pixels,
        places,
        prepare,
        sampling,
        shapes,
        sources,
        spec,
        tfds,
        unreadable,
        workers,
    )
    from jaxseg.data.augment import TrainAugment
    from jaxseg.data.labels import (
        CAMVID_CLASSES,
        CAMVID_PALETTE,
        LabelMap,
        ids_from_colors,
        palette,
    )
    from jaxseg.data.lists import Listed, read_list
    from jaxseg.data.loader import eval_batches, train_batches
    from jaxseg.data.on_device import OnDevice, load, make_feed
    from jaxseg.data.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize
    from jaxseg.data.places import drawn, make_places, shuffled
    from jaxseg.data.sampling import class_pixels, class_probabilities, rare_class_weights
    from jaxseg.data.shapes import Shapes
    from jaxseg.data.sources import CamVid, Folder, Subset, folder
    from jaxseg.data.tfds import TFDS
    from jaxseg.data.unreadable import SkipUnreadable

__all__ = sorted([*_NAMES, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"jaxseg.data.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jaxseg.data.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'jaxseg.data' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_NAMES, *_MODULES])
