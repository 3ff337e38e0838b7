"""A large image in overlapping windows through U-Net with ResNet-18, in turns with the same in PyTorch.

The library has no sliding window of its own yet: its side is the loop that a user writes, batches of windows through one
compiled program that cuts them out and adds their logits up in place. The peer is smp's U-Net in the same loop, channels
last, as it comes ("torch"), and in MONAI's `sliding_window_inference` where that is installed ("monai"). All take the same
windows, as many at a time, and average logits where windows overlap. Weights are random, and each side has its own.

    python experiments/benchmarks/sliding_window.py
    python experiments/benchmarks/sliding_window.py --height 2048 --width 2048 --window 256 --overlap 0.5

Needs torch and segmentation_models.pytorch. Prints a row for each side and appends them to docs/benchmarks.md with
`--append`.
"""

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from page import append
from turns import rows, take_turns

HEADING = "## A large image in windows"
INTRODUCTION = """Rows of `python experiments/benchmarks/sliding_window.py --append`: U-Net with ResNet-18 over one image, medians of runs
that take turns, half the distance of the quartiles over the median, how many times as fast as the faster peer, start and
compiling, peak memory.

| what | side | median | spread | ratio | ready after | peak | where and when |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    height: int = 1024
    """Of the image, at least a window."""
    width: int = 2048
    """Of the image, at least a window."""
    window: int = 512
    """Height and width of a window."""
    overlap: float = 0.25
    """The part of a window that the next one shares."""
    at_once: int = 2
    """Windows of a batch."""
    classes: int = 19
    """Channels of the logits."""
    rounds: int = 7
    """How often each side is timed."""
    append: bool = False
    """Whether to append the rows to docs/benchmarks.md."""


def places(arguments: Arguments) -> np.ndarray:
    """Where windows begin, `[M, 2]`: the last of a row or column is moved back into the image."""
    stride = int(arguments.window * (1 - arguments.overlap))

    def starts(side: int) -> list[int]:
        last = side - arguments.window
        return [min(i * stride, last) for i in range(math.ceil(last / stride) + 1)]

    return np.array([(y, x) for y in starts(arguments.height) for x in starts(arguments.width)])


def picture(arguments: Arguments) -> np.ndarray:
    """A random image `[1, H, W, 3]`."""
    shape = (1, arguments.height, arguments.width, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def jaxseg_side(arguments: Arguments) -> Callable[[], Any]:
    """Sums and counts stay on the device; the last batch repeats a window, with weight 0."""
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import train
    from jaxseg.compiler import jit

    model = jaxseg.create("unet", encoder="resnet18", num_classes=arguments.classes)
    variables = train.initialize(model, jax.random.key(0))
    image = jnp.asarray(picture(arguments)[0])
    begins, window = places(arguments), arguments.window
    missing = -len(begins) % arguments.at_once
    weights = np.repeat(np.float32([1, 0]), (len(begins), missing))
    begins = np.concatenate([begins, begins[-1:].repeat(missing, 0)])
    chunks = [
        (jnp.asarray(begins[i : i + arguments.at_once]), weights[i : i + arguments.at_once])
        for i in range(0, len(begins), arguments.at_once)
    ]

    def add(sums: Any, variables: Any, image: Any, begins: Any, weights: Any) -> Any:
        corners = [(y, x, 0) for y, x in begins]
        size = (window, window, 3)
        tiles = jnp.stack([jax.lax.dynamic_slice(image, at, size) for at in corners])
        logits = model.apply(variables, tiles).logits
        ones = jnp.ones((*logits.shape[:3], 1))
        values = jnp.concatenate([logits, ones], -1) * weights[:, None, None, None]
        for at, value in zip(corners, values, strict=True):
            before = jax.lax.dynamic_slice(sums, at, value.shape)
            sums = jax.lax.dynamic_update_slice(sums, before + value, at)
        return sums

    add = jit(add, donate_argnums=0)
    mean = jit(lambda sums: sums[..., :-1] / sums[..., -1:])

    def run() -> Any:
        sums = jnp.zeros((*image.shape[:2], arguments.classes + 1))
        for begins, weights in chunks:
            sums = add(sums, variables, image, begins, weights)
        return jax.block_until_ready(mean(sums))

    return run


def torch_side(arguments: Arguments, monai: bool) -> Callable[[], Any]:
    """The peer, in the same loop or in MONAI's."""
    import peers
    import torch

    smp = peers.segmentation_models_pytorch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = smp.Unet("resnet18", encoder_weights=None, classes=arguments.classes).eval()
    model = model.to(device, memory_format=torch.channels_last)
    image = torch.from_numpy(picture(arguments)).to(device).permute(0, 3, 1, 2)
    begins, window = places(arguments).tolist(), arguments.window

    def windows() -> Any:
        sums = torch.zeros((1, arguments.classes, *image.shape[2:]), device=device)
        counts = torch.zeros((1, 1, *image.shape[2:]), device=device)
        for i in range(0, len(begins), arguments.at_once):
            chunk = begins[i : i + arguments.at_once]
            tiles = torch.cat([image[..., y : y + window, x : x + window] for y, x in chunk])
            for (y, x), logits in zip(chunk, model(tiles), strict=True):
                sums[0, :, y : y + window, x : x + window] += logits
                counts[..., y : y + window, x : x + window] += 1
        return sums / counts

    def by_monai() -> Any:
        from monai.inferers import sliding_window_inference

        return sliding_window_inference(
            image, (window, window), arguments.at_once, model, arguments.overlap
        )

    def run() -> Any:
        with torch.inference_mode():
            result = by_monai() if monai else windows()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    if not 0 <= arguments.overlap < 1 or arguments.window > min(arguments.height, arguments.width):
        raise SystemExit("windows must fit into the image, and overlap lies in [0, 1)")
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `jaxseg train` has it
    sides: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "jaxseg": (jaxseg_side, (arguments,)),
        "torch": (torch_side, (arguments, False)),
    }
    if importlib.util.find_spec("monai"):
        sides["monai"] = (torch_side, (arguments, True))
    what = (
        f"{arguments.height} x {arguments.width}, {len(places(arguments))} windows of {arguments.window}, "
        f"{arguments.at_once} at once, overlap {arguments.overlap}"
    )
    lines = rows(what, take_turns(sides, arguments.rounds))
    print("\n".join(lines))
    if arguments.append:
        append(HEADING, INTRODUCTION, lines)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
