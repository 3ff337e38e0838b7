"""From a recipe's names to the images and masks of a split."""

from pathlib import Path
from typing import Any

from jaxseg import data
from jaxseg.data.lists import Listed
from jaxseg.data.shapes import Shapes
from jaxseg.data.sources import CamVid, Folder, folder, holdout
from jaxseg.data.unreadable import SkipUnreadable
from jaxseg.errors import InputError, unknown
from jaxseg.recipe import DataRecipe

_SHAPES_SEEDS = {"train": 0, "val": 1, "test": 2}


def open_source(recipe: DataRecipe, split: str) -> Any:
    """The source of one split of a recipe's data set.

    Raises:
        InputError: An unknown source or split, or a field that the source needs is not given.
    """
    openers = {"shapes": _shapes, "camvid": _camvid, "folder": _folder, "tfds": _tfds}
    if recipe.source not in openers:
        raise unknown("data source", recipe.source, openers)
    source = openers[recipe.source](recipe, split)
    if not len(source):
        raise InputError(f"split {split!r} of {recipe.source} is empty")
    return SkipUnreadable(source) if recipe.unreadable == "skip" else source


def _shapes(recipe: DataRecipe, split: str) -> Shapes:
    if split not in _SHAPES_SEEDS:
        raise unknown("split of shapes", split, _SHAPES_SEEDS)
    length = recipe.train_length if split == "train" else recipe.validation_length
    source = Shapes(length, recipe.size, seed=_SHAPES_SEEDS[split])
    fixed = {
        "num_classes": (None, source.num_classes),
        "classes": (None, tuple(source.classes)),
        "ignore_index": (source.ignore_index,),
        "label_map": (None,),
        "reduce_zero_label": (False,),
    }
    for name, values in fixed.items():
        if getattr(recipe, name) not in values:
            raise InputError(
                f"the embedded shapes have labels of their own: leave out --data.{name.replace('_', '-')}"
            )
    return source


def _camvid(recipe: DataRecipe, split: str) -> CamVid:
    return CamVid(_needed(recipe, "root"), split, **_labels(recipe))


def _folder(recipe: DataRecipe, split: str) -> Any:
    root = Path(_needed(recipe, "root"))
    _needed(recipe, "num_classes")
    if recipe.list is not None:
        return Listed(root, root / recipe.list.replace("{split}", split), **_labels(recipe))
    options: dict[str, Any] = _labels(recipe) | {
        "image_suffix": recipe.image_suffix,
        "mask_suffix": recipe.mask_suffix,
    }
    if recipe.images is None and recipe.masks is None:
        return folder(root, split, **options)
    images, masks = _needed(recipe, "images"), _needed(recipe, "masks")
    source = Folder(
        root / images.replace("{split}", split), root / masks.replace("{split}", split), **options
    )
    if "{split}" in images + masks:
        return source
    return holdout(source, split)  # one folder for all: never validate on what is trained on


def _tfds(recipe: DataRecipe, split: str) -> Any:
    return data.TFDS(
        _needed(recipe, "name"),
        split,
        data_dir=recipe.root,
        manual_dir=recipe.manual_dir,
        **_labels(recipe),
    )


def _labels(recipe: DataRecipe) -> dict[str, Any]:
    """What the recipe says of labels; what it leaves out the source knows itself."""
    options: dict[str, Any] = {"ignore_index": recipe.ignore_index}
    if recipe.num_classes is not None:
        options["num_classes"] = recipe.num_classes
    if recipe.classes is not None:
        options["classes"] = recipe.classes
    if recipe.label_map is not None or recipe.reduce_zero_label:
        options["label_map"] = data.LabelMap(
            recipe.label_map, reduce_zero_label=recipe.reduce_zero_label
        )
    return options


def _needed(recipe: DataRecipe, name: str) -> Any:
    value = getattr(recipe, name)
    if value is None:
        flag = name.replace("_", "-")
        raise InputError(f"data source {recipe.source!r} needs --data.{flag}")
    return value
