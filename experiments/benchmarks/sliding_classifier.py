"""A classifier as convolutions against the same classifier slid over every window of an image.

The network has no padding, so both give the same logits: convolution 5x5, max-pool 2x2, convolution 4x4, max-pool
2x2, and three dense layers over 30 x 30 pixels. Slid, the convolutions of overlapping windows are computed again and
again; all windows are one batch, so that it is not a loop that is slow. The two take turns in one process.

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

from jaxseg.classifiers import Classifier, DenseHead, fully_convolutional
from jaxseg.nn import max_pool

WINDOW, STRIDE = 30, 4


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    sizes: tuple[int, ...] = (30, 62, 94, 126)
    """Heights and widths of the images, 30 and multiples of 4 more."""
    repeats: int = 11
    """How many times each is timed."""


class Unpadded(nn.Module):
    """An encoder whose only feature has stride 4; 30 x 30 pixels become 5 x 5."""

    @property
    def strides(self) -> tuple[int, ...]:
        """One feature, stride 4."""
        return (STRIDE,)

    @property
    def channels(self) -> tuple[int, ...]:
        """Its channels."""
        return (32,)

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        """Maps `[N, H, W, 3]` to one feature."""
        x = nn.relu(nn.Conv(16, (5, 5), padding=0)(images))
        x = max_pool(x, 2, 2)
        x = nn.relu(nn.Conv(32, (4, 4), padding=0)(x))
        return (max_pool(x, 2, 2),)


def windows(images, size: int):
    """Every window of the images, `[places * places, 30, 30, 3]`, row by row."""
    starts = range(0, size - WINDOW + 1, STRIDE)
    return jnp.concatenate(
        [images[:, i : i + WINDOW, j : j + WINDOW] for i in starts for j in starts]
    )


def measure(size: int, repeats: int) -> None:
    """Times both on one image and prints a row."""
    model = Classifier(Unpadded(), DenseHead((128, 128, 10), (5, 5)))
    images = jax.random.normal(jax.random.key(0), (1, size, size, 3))
    variables = model.init(jax.random.key(1), images[:, :WINDOW, :WINDOW])
    whole, kernels = fully_convolutional(model, variables)
    sides = {
        "convolutions": (jax.jit(whole.apply), kernels),
        "slid": (jax.jit(lambda v, x: model.apply(v, windows(x, size))), variables),
    }
    logits = {name: jax.block_until_ready(run(v, images)) for name, (run, v) in sides.items()}
    places = logits["convolutions"].shape[1]
    slid = logits["slid"].reshape(1, places, places, -1)
    difference = float(jnp.abs(logits["convolutions"] - slid).max())
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (run, v) in sides.items():
            began = time.perf_counter()
            jax.block_until_ready(run(v, images))
            seconds[name].append(time.perf_counter() - began)
    fast, slow = (1e3 * statistics.median(seconds[name]) for name in sides)
    print(
        f"| {size} x {size} | {places} x {places} | {fast:.2f} ms | {slow:.2f} ms | {slow / fast:.1f} "
        f"| {difference:.0e} |"
    )


def main(arguments: Arguments) -> None:
    """Prints a table."""
    print(
        "| image | windows | as convolutions | slid | times as long | difference |\n|---|---|---|---|---|---|"
    )
    for size in arguments.sizes:
        measure(size, arguments.repeats)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
