"""Images per second of the training loader beside torch's DataLoader, which take turns.

Both read one folder of JPEG images and PNG masks, which is drawn first, and apply the same albumentations: random scale,
crop, flip, colours. jaxseg's side is what `jaxseg train --data.source folder` reads (Grain, PIL), the peer a dataset as
tutorials have it (OpenCV) with as many worker processes. With 0 workers jaxseg reads in threads and torch in the loop. A
run takes a fixed number of batches; what was read ahead before it began is taken first, untimed.

    python experiments/benchmarks/loader.py
    python experiments/benchmarks/loader.py --size 720 960 --crop 512 512 --workers 2 4

Needs torch. Prints a row for each side and number of workers and appends them to docs/benchmarks.md with `--append`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from page import append
from PIL import Image
from turns import Timing, take_turns, where

HEADING = "## The loader beside torch's DataLoader"
INTRODUCTION = """Rows of `python experiments/benchmarks/loader.py --append`: JPEG images and PNG masks to augmented batches, medians of
runs that take turns, half the distance of the quartiles over the median, how many times as fast as torch, start (workers
included) and first batches, peak memory of the process without its workers.

| what | side | images/s | spread | ratio | ready after | peak | where and when |
|---|---|---|---|---|---|---|---|"""
SCALE = (0.5, 2.0)
FILL = (124, 116, 104)
IGNORED = 255
AHEAD = 10
"""More batches than any side holds ready."""


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    size: tuple[int, int] = (360, 480)
    """Height and width of the images in the folder."""
    crop: tuple[int, int] = (256, 256)
    """Height and width of what is trained on."""
    images: int = 128
    """Images in the folder."""
    batch: int = 8
    """Images of a batch."""
    batches: int = 32
    """Batches of a run."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Worker processes, each in turn."""
    rounds: int = 7
    """How often each side is timed."""
    append: bool = False
    """Whether to append the rows to docs/benchmarks.md."""


def draw(root: Path, arguments: Arguments) -> None:
    """Fills `images/train` and `masks/train` with what the embedded data set draws, and a little noise."""
    from jaxseg import data

    source = data.Shapes(arguments.images, arguments.size, seed=0)
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    for index in range(arguments.images):
        record = source[index]
        noisy = record["image"] + rng.normal(scale=8, size=record["image"].shape)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(root / "images" / "train" / f"{index}.jpg", quality=90)
        Image.fromarray(record["label"]).save(root / "masks" / "train" / f"{index}.png")


def jaxseg_side(root: str, workers: int, arguments: Arguments) -> Callable[[], Any]:
    """The batches of `jaxseg train`."""
    from jaxseg import data
    from jaxseg.cli import assemble, sources
    from jaxseg.recipe import AugmentRecipe, DataRecipe

    recipe = DataRecipe(source="folder", root=root, num_classes=7)
    augment = AugmentRecipe(crop_size=arguments.crop, scale=SCALE, photometric=True)
    batches = data.train_batches(
        sources.open_source(recipe, "train"),
        assemble.augmentation(augment, arguments.size, IGNORED),
        batch_size=arguments.batch,
        seed=0,
        num_workers=workers,
    )
    return taking(batches, arguments)


class Pairs:
    """The folder as a torch dataset."""

    def __init__(self, root: str, crop: tuple[int, int]):
        import albumentations as alb
        import cv2

        images = sorted(Path(root, "images", "train").iterdir())
        self.files = [
            (image, Path(root, "masks", "train", f"{image.stem}.png")) for image in images
        ]
        self.transform = alb.Compose(
            [
                alb.RandomScale(
                    (SCALE[0] - 1, SCALE[1] - 1),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,
                    p=1.0,
                ),
                alb.RandomCrop(
                    *crop,
                    pad_if_needed=True,
                    pad_position="random",
                    border_mode=cv2.BORDER_CONSTANT,
                    fill=FILL,
                    fill_mask=IGNORED,
                    p=1.0,
                ),
                alb.HorizontalFlip(p=0.5),
                alb.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.05, 0.05), p=0.8),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        image, mask = map(str, self.files[index])
        pixels = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB)
        out = self.transform(image=pixels, mask=cv2.imread(mask, cv2.IMREAD_UNCHANGED))
        return out["image"], out["mask"]


def torch_side(root: str, workers: int, arguments: Arguments) -> Callable[[], Any]:
    """The peer: uint8 batches from persistent workers, two each ahead, as the default is."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Pairs(root, arguments.crop),
        arguments.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
    )

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    return taking(endless(), arguments)


def one_thread(worker: int) -> None:
    """Keeps OpenCV from starting threads in each worker, as jaxseg's do."""
    import cv2

    cv2.setNumThreads(0)


def taking(batches: Iterator[Any], arguments: Arguments) -> Callable[[], Any]:
    """A run that takes batches, once there is none left that was ready before it."""

    def take(count: int) -> None:
        for _ in range(count):
            next(batches)

    def run() -> None:
        take(arguments.batches)

    run.before = lambda: take(AHEAD)
    return run


def rows(what: str, timings: dict[str, Timing], images: int) -> list[str]:
    """A table's rows, one for each side."""
    return [
        f"| {what} | {name} | {images / t.median:.0f} | {100 * t.spread:.0f} % | "
        f"{timings['torch'].median / t.median:.2f} | {t.prepare:.1f} s | {t.peak / 2**20:.0f} MiB | {where()} |"
        for name, t in timings.items()
    ]


def main(arguments: Arguments) -> None:
    """Draws, measures, prints and, if asked to, appends."""
    if arguments.images < arguments.batch:
        raise SystemExit(f"{arguments.images} images do not fill a batch of {arguments.batch}")
    height, width = arguments.size
    with tempfile.TemporaryDirectory() as root:
        draw(Path(root), arguments)
        for workers in arguments.workers:
            sides = {
                "jaxseg": (jaxseg_side, (root, workers, arguments)),
                "torch": (torch_side, (root, workers, arguments)),
            }
            what = (
                f"{workers} workers, {height} x {width} to {arguments.batch} x "
                f"{arguments.crop[0]} x {arguments.crop[1]}"
            )
            timings = take_turns(sides, arguments.rounds)
            lines = rows(what, timings, arguments.batches * arguments.batch)
            print("\n".join(lines), flush=True)
            if arguments.append:
                append(HEADING, INTRODUCTION, lines)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
