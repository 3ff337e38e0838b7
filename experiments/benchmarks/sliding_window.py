"""Times U-Net with ResNet-18 on a large image in overlapping windows, beside the same in PyTorch.

The side of jaxseg is a loop over batches of windows, with one compiled program that crops them and adds their logits in
place. The peer is smp's U-Net in the same loop, channels last, in eager mode ("torch"), and in MONAI's
`sliding_window_inference` where that is installed ("monai"). All use the same windows in batches of the same size, and
average the logits where windows overlap. Weights are random on each side.

    python experiments/benchmarks/sliding_window.py
    python experiments/benchmarks/sliding_window.py --height 2048 --width 2048 --window 256 --overlap 0.5

Needs torch and segmentation_models.pytorch. Prints a row for each side; `--append` adds them to docs/benchmarks.md.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from append_table import append, rows
from interleave import records, time_alternately


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    height: int = 1024
    """Height of the image, at least that of a window."""
    width: int = 2048
    """Width of the image, at least that of a window."""
    window: int = 512
    """Height and width of a window."""
    overlap: float = 0.25
    """The fraction of a window that it shares with the next one."""
    at_once: int = 2
    """Windows per batch."""
    classes: int = 19
    """Channels of the logits."""
    rounds: int = 7
    """Timed runs per side."""
    append: bool = False
    """Whether to append the result to docs/benchmarks.md."""


def origins(arguments: Arguments) -> np.ndarray:
    """Returns the top left corners of all windows, `[M, 2]`. The last of a row or column is moved back into the image."""
    stride = int(arguments.window * (1 - arguments.overlap))

    def starts(side: int) -> list[int]:
        last = side - arguments.window
        return [min(i * stride, last) for i in range(math.ceil(last / stride) + 1)]

    return np.array([(y, x) for y in starts(arguments.height) for x in starts(arguments.width)])


def random_image(arguments: Arguments) -> np.ndarray:
    """Returns an image `[1, H, W, 3]`."""
    shape = (1, arguments.height, arguments.width, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def jaxseg_side(arguments: Arguments) -> Callable[[], Any]:
    """Returns the function to time of jaxseg.

    Sums and counts stay on the device. A last batch that is not full repeats a window with weight 0.
    """
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import train
    from jaxseg.compiler import jit

    model = jaxseg.create("unet", encoder="resnet18", num_classes=arguments.classes)
    variables = train.init(model, jax.random.key(0))
    image = jnp.asarray(random_image(arguments)[0])
    begins, window = origins(arguments), arguments.window
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
    """Returns the function to time of PyTorch, in the same loop or in MONAI's."""
    import peers
    import torch

    smp = peers.segmentation_models_pytorch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = smp.Unet("resnet18", encoder_weights=None, classes=arguments.classes).eval()
    model = model.to(device, memory_format=torch.channels_last)
    image = torch.from_numpy(random_image(arguments)).to(device).permute(0, 3, 1, 2)
    begins, window = origins(arguments).tolist(), arguments.window

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
    """Measures, prints and, on request, appends."""
    if not 0 <= arguments.overlap < 1 or arguments.window > min(arguments.height, arguments.width):
        raise SystemExit("the window must fit into the image, and the overlap must be in [0, 1)")
    sides: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "jaxseg": (jaxseg_side, (arguments,)),
        "torch": (torch_side, (arguments, False)),
    }
    if importlib.util.find_spec("monai"):
        sides["monai"] = (torch_side, (arguments, True))
    what = (
        f"{arguments.height} x {arguments.width}, {len(origins(arguments))} windows of {arguments.window}, "
        f"{arguments.at_once} at once, overlap {arguments.overlap}"
    )
    measured = records(what, time_alternately(sides, arguments.rounds))
    print("\n".join(rows("sliding_window", measured)))
    if arguments.append:
        append("sliding_window", measured)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
