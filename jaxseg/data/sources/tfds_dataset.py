"""TFDS data sets with an image and a mask, with random access and without TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.data.label_spec import LabelSpec
from jaxseg.data.labels import LabelMap
from jaxseg.data.sources.camvid import camvid_labels
from jaxseg.data.sources.file_pairs import SPLITS
from jaxseg.data.sources.tfds_prepare import command, plain_name, prepared
from jaxseg.data.targets import LABEL
from jaxseg.errors import InputError

MASK_KEYS = (
    *("segmentation_mask", "segmentation_label", "segmentation", "mask", "masks"),
    *(LABEL, "labels", "annotation", "annotations"),
)
NAME_KEYS = ("name", "file_name", "filename", "image_name", "image_id", "id")


class TFDS:
    """One split of a TFDS data set.

    A data set that is not prepared is prepared first: `camvid` by jaxseg's builder from the files in `manual_dir`, any other by
    TFDS, which needs TensorFlow for most data sets (`pip install 'jaxseg[tfds-prepare]'`). Reading never needs it.

    Args:
        name: `name`, `name/config` or `name/config:version`.
        split: A split, or a part of one as in `"train[:80%]"`. `"val"` also stands for `"validation"`; without either, it is
            the last tenth of `"train"`, and `"train"` the rest.
        data_dir: The folder of prepared data sets; TFDS's default if None.
        manual_dir: The folder of files that a builder does not download.
        image_key: The feature that holds the image.
        mask_key: The feature that holds the mask; by default the first of `MASK_KEYS` that is a mask.
        num_classes: K; known for `camvid`, `oxford_iiit_pet` and masks that declare their labels.
        classes: Names of the classes.
        palette: uint8 `[max(K, 2), 3]`.
        ignore_index: The label of pixels that losses and metrics ignore.
        label_map: A `LabelMap` or a mapping. By default the 1, 2, 3 of `oxford_iiit_pet` become 0 (pet), 1 (background),
            2 (border), and the 11 of `camvid` (void) is ignored.

    Raises:
        InputError: The name, split or a feature is unknown, or the data set cannot be prepared. Reading a record raises it as
            for `Folder`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: str | Path | None = None,
        manual_dir: str | Path | None = None,
        image_key: str = "image",
        mask_key: str | None = None,
        num_classes: int | None = None,
        classes: Sequence[str] = (),
        palette: np.ndarray | None = None,
        ignore_index: int = 255,
        label_map: LabelMap | Mapping[Any, Any] | None = None,
    ):
        builder: Any = prepared(name, data_dir, manual_dir)
        self.name, self.directory = name, str(builder.data_dir)
        self.split = _find_split(name, split, list(builder.info.splits))
        features = _features(builder)
        self.image_key, self.mask_key = _find_keys(name, features, image_key, mask_key)
        texts = [k for k in NAME_KEYS if isinstance(features.get(k), tfds.features.Text)]
        self.name_key = texts[0] if texts else None
        arguments = {
            "num_classes": num_classes,
            "classes": tuple(classes) or None,
            "palette": palette,
            "label_map": label_map,
        }
        options = {key: value for key, value in arguments.items() if value is not None}
        options = _label_options(name, options, features[self.mask_key])
        self.spec = LabelSpec(ignore_index=ignore_index, **options)
        self.num_classes, self.classes = self.spec.num_classes, self.spec.classes
        self.palette, self.ignore_index = self.spec.palette, ignore_index
        self.targets = self.spec.targets
        self._source: Any = self._open(builder)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            example = self._source[index]
        except IndexError:
            raise
        except Exception as error:  # of a type that depends on the file format
            raise InputError(
                f"{self.name} {self.split}[{index}] in {self.directory} cannot be read: {_first_line(error)}"
            ) from error
        name_bytes = example[self.name_key] if self.name_key else f"{self.split}/{index}".encode()
        name = name_bytes.decode(errors="replace")
        path = f"{self.name} {self.split}[{index}] ({name})"
        image_path, mask_path = f"the image of {path}", f"the mask of {path}"
        image = decode_image(example[self.image_key], image_path)
        mask = example[self.mask_key]
        if isinstance(mask, bytes):
            mask = decode_mask(mask, mask_path)
        elif mask.ndim == 3:
            mask = mask[..., 0]
        return self.spec.record(image, mask, name, image_path, mask_path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_source"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._source = self._open(tfds.builder_from_directory(self.directory))

    def _open(self, builder: Any) -> Any:
        """Returns the records with images as encoded bytes, since `decode` keeps palettes and names files."""
        decoders = {
            key: tfds.decode.SkipDecoding()
            for key, feature in _features(builder).items()
            if isinstance(feature, tfds.features.Image)
        }
        try:
            return builder.as_data_source(split=self.split, decoders=decoders)
        except NotImplementedError:
            raise InputError(
                f"TFDS data set {self.name!r} in {self.directory} is stored as"
                f" {builder.info.file_format}, which has no random access; prepare it again with"
                f" {command(self.name, Path(self.directory).parents[1])}"
            ) from None
        except Exception as error:  # an unknown split, or any error of damaged files
            raise InputError(
                f"TFDS data set {self.name!r}, split {self.split!r}: {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _label_options(name: str, given: Mapping[str, Any], feature: Any) -> dict[str, Any]:
    """Returns the given label options, completed by those that are known for the data set."""
    known: dict[str, Any] = {}
    declared = getattr(feature, "num_classes", None)
    if plain_name(name) == "camvid":
        return camvid_labels(given)
    if plain_name(name) == "oxford_iiit_pet" and given.keys().isdisjoint(
        {"num_classes", "label_map"}
    ):
        known = {
            "num_classes": 3,
            "classes": ("pet", "background", "border"),
            "label_map": LabelMap({1: 0, 2: 1, 3: 2}),
        }
    elif declared and given.get("num_classes", declared) == declared:
        known = {"num_classes": declared, "classes": tuple(feature.names or ())}
    options = {**known, **given}
    if "num_classes" not in options:
        raise InputError(f"TFDS data set {name!r} does not declare its classes: give num_classes")
    return options


def _find_split(name: str, split: str, known: Sequence[str]) -> str:
    validation = [alias for alias in SPLITS["val"] if alias in known]
    if split == "train" in known and not validation:
        return "train[:90%]"
    if split in known or any(character in split for character in "[+"):
        return split
    aliases = [alias for alias in SPLITS.get(split, ()) if alias in known]
    if aliases:
        return aliases[0]
    if split == "val" and "train" in known:
        return "train[90%:]"
    raise InputError(f"TFDS data set {name!r} has no split {split!r}, but {', '.join(known)}")


def _find_keys(
    name: str, features: Mapping[str, Any], image_key: str, mask_key: str | None
) -> tuple[str, str]:
    """Returns the names of the features of image and mask; an error lists all features."""
    listed = ", ".join(f"{key} ({type(f).__name__} {f.shape})" for key, f in features.items())
    if not isinstance(features.get(image_key), tfds.features.Image):
        raise InputError(
            f"TFDS data set {name!r} has no image {image_key!r}: give image_key. Features: {listed}"
        )
    masks = [key for key in features if key != image_key and _is_mask(features[key])]
    usual = [key for key in MASK_KEYS if key in masks]
    if mask_key is None and (usual or len(masks) == 1):
        return image_key, (usual or masks)[0]
    if mask_key in masks:
        return image_key, mask_key
    fault = (
        "has several candidates for the mask, or none"
        if mask_key is None
        else f"has no mask {mask_key!r}"
    )
    raise InputError(
        f"TFDS data set {name!r} {fault}, a feature with one integer per pixel: give mask_key."
        f" Features: {listed}"
    )


def _is_mask(feature: Any) -> bool:
    shape, dtype = feature.shape, feature.np_dtype  # dictionaries for nested features
    if isinstance(feature, tfds.features.Image):
        return shape[-1] == 1
    if not isinstance(shape, tuple) or not np.issubdtype(dtype, np.integer):
        return False
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] == 1)


def _features(builder: Any) -> dict[str, Any]:
    return dict(sorted(builder.info.features.items()))  # the order on disk is arbitrary
