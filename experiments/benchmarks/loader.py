"""Times the training loader beside torch's DataLoader, in images per second.

Both read one folder of JPEG images and PNG masks, which is generated first, and apply the same albumentations: random
scale, crop, flip and colours. jaxseg's side is the loader of `jaxseg train --data.source folder` (Grain, PIL), the peer a
dataset as in PyTorch's tutorials (OpenCV) with the same number of worker processes. With 0 workers jaxseg reads in threads
and torch in the main loop. A run reads a fixed number of batches; those that were prefetched before it are read first and
not timed.

    python experiments/benchmarks/loader.py
    python experiments/benchmarks/loader.py --size 720 960 --crop 512 512 --workers 2 4

Needs torch. Prints a row for each side and number of workers; `--append` adds them to docs/benchmarks.md.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from append_table import append, rows
from interleave import Timing, memory, time_alternately, where
from PIL import Image

SCALE = (0.5, 2.0)
FILL = (124, 116, 104)
IGNORED = 255
AHEAD = 10
"""More batches than any side prefetches."""


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    size: tuple[int, int] = (360, 480)
    """Height and width of the images in the folder."""
    crop: tuple[int, int] = (256, 256)
    """Height and width of the random crops."""
    images: int = 128
    """Images in the folder."""
    batch: int = 8
    """Images per batch."""
    batches: int = 32
    """Batches per run."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes to measure."""
    rounds: int = 7
    """Timed runs per side."""
    append: bool = False
    """Whether to append the result to docs/benchmarks.md."""


def generate(root: Path, arguments: Arguments) -> None:
    """Writes samples of the embedded data set with a little noise to `images/train` and `masks/train`."""
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
    """Returns the function to time of jaxseg: it reads batches of `jaxseg train`."""
    from jaxseg import data
    from jaxseg.recipe import DataRecipe
    from jaxseg.runs import sources

    recipe = DataRecipe(source="folder", root=root, num_classes=7)
    source = sources.open_source(recipe, "train")
    batches = data.train_batches(
        source,
        data.TrainAugment(arguments.crop, scale=SCALE, photometric=True, targets=source.targets),
        batch_size=arguments.batch,
        seed=0,
        num_workers=workers,
    )
    return reader(batches, arguments)


class Pairs:
    """A torch dataset of the folder's images and masks."""

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
    """Returns the function to time of torch: uint8 batches from persistent workers, with the default prefetching."""
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

    return reader(endless(), arguments)


def one_thread(worker: int) -> None:
    """Keeps OpenCV from starting threads in each worker, like jaxseg's workers."""
    import cv2

    cv2.setNumThreads(0)


def reader(batches: Iterator[Any], arguments: Arguments) -> Callable[[], Any]:
    """Returns a run that reads batches, after those that were prefetched before it have been read."""

    def read(count: int) -> None:
        for _ in range(count):
            next(batches)

    def run() -> None:
        read(arguments.batches)

    run.before = lambda: read(AHEAD)
    return run


def results(what: str, timings: dict[str, Timing], images: int) -> list[dict[str, Any]]:
    """Returns a record of each side."""
    return [
        where()
        | {"what": what, "side": name}
        | {"images_per_s": round(images / t.median), "spread": round(t.spread, 3)}
        | {"ratio": round(timings["torch"].median / t.median, 3)}
        | memory(t)
        for name, t in timings.items()
    ]


def main(arguments: Arguments) -> None:
    """Generates the images, measures, prints and, on request, appends."""
    if arguments.images < arguments.batch:
        raise SystemExit(f"{arguments.images} images do not fill a batch of {arguments.batch}")
    height, width = arguments.size
    with tempfile.TemporaryDirectory() as root:
        generate(Path(root), arguments)
        for workers in arguments.workers:
            sides = {
                "jaxseg": (jaxseg_side, (root, workers, arguments)),
                "torch": (torch_side, (root, workers, arguments)),
            }
            what = (
                f"{workers} workers, {height} x {width} to {arguments.batch} x "
                f"{arguments.crop[0]} x {arguments.crop[1]}"
            )
            timings = time_alternately(sides, arguments.rounds)
            measured = results(what, timings, arguments.batches * arguments.batch)
            print("\n".join(rows("loader", measured)), flush=True)
            if arguments.append:
                append("loader", measured)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
