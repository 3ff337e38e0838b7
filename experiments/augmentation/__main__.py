"""Each transform of `data.device_augment` on images of the shapes set, with the label laid over them.

    python experiments/augmentation

Writes docs/images/augmentation.jpg. The images are drawn large and the numbers chosen so that each effect is seen.
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
from jaxseg.data import device_augment as aug
from jaxseg.report.overlay import overlay

SIZE = (160, 200)
OUT = Path(__file__).parents[2] / "docs" / "images" / "augmentation.jpg"


@dataclass(frozen=True)
class Arguments:
    """What to draw."""

    out: Path = OUT
    """Where the picture goes."""
    seed: int = 9
    """Of the shapes and of what is drawn at random."""


def transforms() -> dict[str, Callable[[jax.Array, jax.Array, jax.Array], tuple]]:
    """By name: functions of a key and four images and labels."""

    def single(transform: aug.Transform):
        return lambda key, images, labels: transform(key, images[0], labels[0])

    def view(**options):
        return single(lambda key, image, label: aug.view(image, label, size=SIZE, **options))

    def colour(**options):
        return single(lambda key, image, label: (aug.adjust_colour(image, **options), label))

    def elastic(key, images, labels):
        points = 12 * jax.random.normal(key, (3, 3, 2))
        field = aug.elastic_field(points, SIZE)
        return aug.view(images[0], labels[0], size=SIZE, displacement=field)

    every = aug.compose(
        aug.random_view(SIZE, scale=(0.5, 2.0), rotate=20.0, elastic=10.0),
        aug.random_colour(probability=1.0),
        aug.random_blur(2.0, probability=1.0),
    )
    figures = jnp.arange(7) > 0  # all but the background
    return {
        "as it is": view(),
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
        "blur, sigma 3": single(lambda k, i, label: (aug.blur(i, 3.0, radius=9), label)),
        "cutmix": lambda k, i, label: aug.cutmix(i[:2], label[:2], box=(40, 60, 130, 170)),
        "copy-paste of all figures": lambda k, i, label: aug.copy_paste(
            i[:2], label[:2], chosen=figures
        ),
        "mosaic": lambda k, i, label: aug.mosaic(i, label, centre=(90, 80)),
        "all of a random view,\ncolours and blur": single(every),
    }


def draw(arguments: Arguments) -> None:
    """Draws the picture: for each transform the image, and below it the label's overlay."""
    source = Shapes(4, SIZE, seed=arguments.seed)
    dataset = load(source).dataset
    images, labels = dataset.take(np.arange(4))
    figure, axes = plt.subplots(4, 8, figsize=(16, 7.2), layout="constrained")
    for index, (name, transform) in enumerate(transforms().items()):
        key = jax.random.fold_in(jax.random.key(arguments.seed), index)
        image, label = jax.device_get(jax.jit(transform)(key, images, labels))
        row, column = divmod(index, 8)
        laid = overlay(image, label, source.palette, ignore_index=source.ignore_index)
        axes[2 * row, column].imshow(image)
        axes[2 * row, column].set_title(name, fontsize=9)
        axes[2 * row + 1, column].imshow(laid)
    for axis in axes.flat:
        axis.set_axis_off()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=75, pil_kwargs={"quality": 88})
    plt.close(figure)
    print(arguments.out)


if __name__ == "__main__":
    draw(tyro.cli(Arguments, description=__doc__))
