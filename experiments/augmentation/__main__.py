"""Plots each augmentation of `data.device.augment` on images of the shapes set, with the overlay of the mask below.

    python experiments/augmentation

Writes docs/images/augmentation.jpg. Images are large and the parameters strong, so that each effect is visible.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro

from jaxseg.data import Shapes, load
from jaxseg.data.device import augment as aug
from jaxseg.report.overlay import overlay

SIZE = (160, 200)
OUT = Path(__file__).parents[2] / "docs" / "images" / "augmentation.jpg"


@dataclass(frozen=True)
class Arguments:
    """Options of the plot."""

    out: Path = OUT
    """The file that is written."""
    seed: int = 9
    """Seed of the shapes and of the random parameters."""


def transforms() -> dict[str, Callable[[jax.Array, aug.Sample], aug.Sample]]:
    """Returns functions of a key and four stacked samples, by title."""

    def single(transform: aug.Transform):
        return lambda key, samples: transform(key, first(samples))

    def first(samples: aug.Sample) -> aug.Sample:
        return {name: array[0] for name, array in samples.items()}

    def view(**options):
        return single(lambda key, sample: aug.view(sample, size=SIZE, **options))

    def colour(**options):
        return single(
            lambda key, sample: {**sample, "image": aug.adjust_colour(sample["image"], **options)}
        )

    def elastic(key, samples):
        points = 12 * jax.random.normal(key, (3, 3, 2))
        field = aug.elastic_field(points, SIZE)
        return aug.view(first(samples), size=SIZE, displacement=field)

    all_single = aug.compose(
        aug.random_view(SIZE, scale=(0.5, 2.0), rotate=20.0, elastic=10.0),
        aug.random_colour(probability=1.0),
        aug.random_blur(2.0, probability=1.0),
    )
    foreground = jnp.arange(7) > 0
    return {
        "unchanged": view(),
        "scale 1.6": view(scale=1.6, corner=(0.3 * SIZE[0], 0.3 * SIZE[1])),
        "scale 0.6": view(scale=0.6, corner=(-0.2 * SIZE[0], -0.2 * SIZE[1])),
        "rotate 20 degrees": view(angle=20.0),
        "flip": view(flip=(False, True)),
        "crop": view(corner=(40.0, 60.0)),
        "elastic, 12 pixels": elastic,
        "brightness 1.5": colour(brightness=1.5),
        "contrast 0.5": colour(contrast=0.5),
        "saturation 2": colour(saturation=2.0),
        "hue + 0.2": colour(hue=0.2),
        "blur, sigma 3": single(
            lambda key, sample: {**sample, "image": aug.blur(sample["image"], 3.0, radius=9)}
        ),
        "cutmix": lambda key, samples: aug.cutmix(samples, box=(40, 60, 130, 170)),
        "copy-paste of all shapes": lambda key, samples: aug.copy_paste(samples, chosen=foreground),
        "mosaic": lambda key, samples: aug.mosaic(samples, centre=(90, 80)),
        "random view, colours\nand blur": single(all_single),
    }


def plot(arguments: Arguments) -> None:
    """Plots the augmented image of each transform, and below it the overlay of its mask."""
    source = Shapes(4, SIZE, seed=arguments.seed)
    samples = load(source).dataset.gather(np.arange(4))
    figure, axes = plt.subplots(4, 8, figsize=(16, 7.2), layout="constrained")
    for index, (title, transform) in enumerate(transforms().items()):
        key = jax.random.fold_in(jax.random.key(arguments.seed), index)
        sample = jax.device_get(jax.jit(transform)(key, samples))
        image, label = sample["image"], sample["label"]
        row, column = divmod(index, 8)
        axes[2 * row, column].imshow(image)
        axes[2 * row, column].set_title(title, fontsize=9)
        axes[2 * row + 1, column].imshow(
            overlay(image, label, source.palette, ignore_index=source.ignore_index)
        )
    for axis in axes.flat:
        axis.set_axis_off()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=75, pil_kwargs={"quality": 88})
    plt.close(figure)
    print(arguments.out)


if __name__ == "__main__":
    plot(tyro.cli(Arguments, description=__doc__))
