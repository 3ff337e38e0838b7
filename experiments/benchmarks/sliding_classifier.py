"""Times a classifier as convolutions beside the same classifier applied to every window of an image.

The network has no padding, so both give the same logits: convolution 5x5, max-pool 2x2, convolution 4x4, max-pool 2x2, and
three dense layers over 30 x 30 pixels. Window by window, the convolutions of overlapping windows are computed repeatedly.
All windows form one batch, so that no time goes into a loop. The two run alternately in one process.

    python experiments/benchmarks/sliding_classifier.py     # a minute on 2 CPU cores

Prints, for each size of the image, the median time of both, their ratio and the largest difference of their logits.
"""

import statistics
import time
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro

from jaxseg.models import Classifier, DenseHead, fully_convolutional
from jaxseg.nn import max_pool

WINDOW, STRIDE = 30, 4


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    sizes: tuple[int, ...] = (30, 62, 94, 126)
    """Heights and widths of the images: 30 plus a multiple of 4."""
    repeats: int = 11
    """Timed runs of each."""


class Unpadded(nn.Module):
    """An encoder whose only feature has stride 4; 30 x 30 pixels become 5 x 5."""

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of its feature."""
        return (STRIDE,)

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of its feature."""
        return (32,)

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        """Maps `[N, H, W, 3]` to one feature."""
        x = nn.relu(nn.Conv(16, (5, 5), padding=0)(images))
        x = max_pool(x, 2, 2)
        x = nn.relu(nn.Conv(32, (4, 4), padding=0)(x))
        return (max_pool(x, 2, 2),)


def windows(images, size: int):
    """Returns every window of the images, `[positions * positions, 30, 30, 3]`, row by row."""
    starts = range(0, size - WINDOW + 1, STRIDE)
    return jnp.concatenate(
        [images[:, i : i + WINDOW, j : j + WINDOW] for i in starts for j in starts]
    )


def measure(size: int, repeats: int) -> None:
    """Times both on one image and prints a row."""
    model = Classifier(Unpadded(), DenseHead((128, 128, 10), (5, 5)))
    images = jax.random.normal(jax.random.key(0), (1, size, size, 3))
    variables = model.init(jax.random.key(1), images[:, :WINDOW, :WINDOW])
    network, kernels = fully_convolutional(model, variables)
    sides = {
        "convolutions": (jax.jit(network.apply), kernels),
        "windows": (jax.jit(lambda v, x: model.apply(v, windows(x, size))), variables),
    }
    logits = {name: jax.block_until_ready(run(v, images)) for name, (run, v) in sides.items()}
    positions = logits["convolutions"].shape[1]
    windowed = logits["windows"].reshape(1, positions, positions, -1)
    difference = float(jnp.abs(logits["convolutions"] - windowed).max())
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (run, v) in sides.items():
            began = time.perf_counter()
            jax.block_until_ready(run(v, images))
            seconds[name].append(time.perf_counter() - began)
    fast, slow = (1e3 * statistics.median(seconds[name]) for name in sides)
    print(
        f"| {size} x {size} | {positions} x {positions} | {fast:.2f} ms | {slow:.2f} ms | {slow / fast:.1f} "
        f"| {difference:.0e} |"
    )


def main(arguments: Arguments) -> None:
    """Prints a table."""
    print(
        "| image | windows | as convolutions | window by window | ratio | difference of the logits |\n|---|---|---|---|---|---|"
    )
    for size in arguments.sizes:
        measure(size, arguments.repeats)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
