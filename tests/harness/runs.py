"""Runs without data: a recipe built with made-up facts."""

from jaxseg.recipe import Recipe
from jaxseg.runs.build import Run, build, complete
from jaxseg.runs.info import RunInfo


def make_info(*, num_classes=2, channels=3, **fields):
    """Facts of a semantic data set."""
    values = {
        "task": {"num_classes": num_classes, "classes": (), "palette": (), "ignore_index": 255},
        "channels": channels,
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
        "image_size": (64, 64),
        "targets": {"label": ((), "uint8")},
        "train_images": 100,
        "steps_per_epoch": 10,
        "pretrained": None,
        "environment": {},
    }
    return RunInfo(**(values | fields))


def make_run(recipe: Recipe, **fields) -> Run:
    """The run of a recipe."""
    info = make_info(**fields)
    return build(complete(recipe, info), info)
