"""Trains a network on the embedded data set and draws the strip of the README: image, truth and prediction.

    python experiments/readme/strip.py                 # trains on larger images than the default first
    python experiments/readme/strip.py --run RUN --size 64 96 --index 11      # of a run of `jaxseg train`, as committed

Writes docs/images/strip.png. The image was not seen in training.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from PIL import Image

from jaxseg import Recipe, data, runs
from jaxseg.recipe import DataRecipe, OptimizerRecipe, TrainRecipe

OUT = Path(__file__).parents[2] / "docs" / "images" / "strip.png"


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    out: Path = OUT
    """The picture to write."""
    size: tuple[int, int] = (96, 128)
    """Height and width of the images."""
    train_length: int = 1280
    """Training images."""
    epochs: int = 4
    """Epochs of the training."""
    seed: int = 7
    """Seed of the images to choose from."""
    index: int = 7
    """The image to show."""
    run: Path | None = None
    """A finished run folder to use instead of training."""


def recipe(arguments: Arguments) -> Recipe:
    """Returns the recipe: U-Net with ResNet-18 on larger images than the default."""
    options = {"size": arguments.size, "train_length": arguments.train_length}
    return Recipe(
        data=DataRecipe(options=options),
        optimizer=OptimizerRecipe(learning_rate=2e-3),
        train=TrainRecipe(epochs=arguments.epochs),
    )


def plot(pictures: dict[str, np.ndarray], out: Path) -> None:
    """Writes pictures side by side with titles above them."""
    height, width = next(iter(pictures.values())).shape[:2]
    figure = Figure(figsize=(6.1, 2 * height / width + 0.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04)
    panels = figure.subplots(1, len(pictures))
    for axes, (title, picture) in zip(panels, pictures.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=144, metadata={"Software": None})
    print(f"{out}  {out.stat().st_size / 1000:.0f} kB")


def main(arguments: Arguments) -> None:
    """Trains, predicts and plots."""
    source = data.Shapes(arguments.index + 1, arguments.size, seed=arguments.seed)
    sample = source[arguments.index]
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or Path(folder, "run")
        if arguments.run is None and runs.train(recipe(arguments), run) is None:
            raise SystemExit("the training was stopped")
        image = Path(folder, "image.png")
        Image.fromarray(sample["image"]).save(image)
        runs.predict(run, image, Path(folder, "out"))
        predicted = np.asarray(Image.open(Path(folder, "out", "image.index.png")))
    palette = np.asarray(source.palette, np.uint8)
    pictures = {"image": sample["image"], "truth": palette[sample["label"]]}
    plot(pictures | {"prediction": palette[predicted]}, arguments.out)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
