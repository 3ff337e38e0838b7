"""The data set of a recipe."""

from typing import Any

from jaxseg import data
from jaxseg.recipe import DataRecipe


def open_source(recipe: DataRecipe, split: str) -> Any:
    """Opens one split of a recipe's data set, see `data.open_source`."""
    labels = data.LabelOptions(
        num_classes=recipe.num_classes,
        classes=recipe.classes,
        ignore_index=recipe.ignore_index,
        label_map=recipe.label_map,
        reduce_zero_label=recipe.reduce_zero_label,
    )
    return data.open_source(
        recipe.source,
        split,
        root=recipe.root,
        labels=labels,
        options=recipe.options,
        skip_unreadable=recipe.unreadable == "skip",
    )
