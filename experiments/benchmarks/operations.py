"""Every kind of operation of U-Net's train step beside PyTorch's: what is left to gain, and where.

Each operation runs forward and backward, as the step needs it, in a process of its own on each side, which take turns (see
`turns.py`). A row says how often the network has the operation and what a step would win if it took PyTorch's time. The
sum over convolutions is an honest guess at what oneDNN's convolutions, called from XLA, would give: they are what PyTorch
calls.

    python experiments/benchmarks/operations.py
    python experiments/benchmarks/operations.py --only 64-64@64 max-pool --rounds 21

Needs torch. Prints the table and appends it to docs/benchmarks.md with `--append`.
"""

import datetime
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from page import append
from turns import machine, take_turns

HEADING = "## Operations beside PyTorch's"
INTRODUCTION = """`python experiments/benchmarks/operations.py --append`: the operations of a train step of U-Net with ResNet-34,
256 x 256 pixels, float32, forward and backward; medians of runs that take turns, in milliseconds. "A step" is how often the
network has the operation, times the difference. `C-D@S` is a convolution of C to D channels on S x S pixels; with `up` the
first C channels come from a map of half the size and are doubled by repeating pixels."""
HEAD = "| operation | times | jaxseg | torch | ratio | a step |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Convolution:
    """A square kernel on a square map."""

    channels: int
    features: int
    size: int
    kernel: int = 3
    stride: int = 1


@dataclass(frozen=True)
class Doubled:
    """Nearest upsampling, concatenation with a skip and 3 x 3 taps, as each step of the decoder begins."""

    channels: int
    skip: int
    features: int
    size: int


@dataclass(frozen=True)
class Norm:
    """Batch normalisation and ReLU."""

    channels: int
    size: int


OPERATIONS: dict[str, tuple[Any, int]] = {
    "stem 3-64@256": (Convolution(3, 64, 256, 7, 2), 1),
    "64-64@64": (Convolution(64, 64, 64), 7),
    "64-128@64/2": (Convolution(64, 128, 64, 3, 2), 1),
    "128-128@32": (Convolution(128, 128, 32), 8),
    "128-256@32/2": (Convolution(128, 256, 32, 3, 2), 1),
    "256-256@16": (Convolution(256, 256, 16), 12),
    "256-512@16/2": (Convolution(256, 512, 16, 3, 2), 1),
    "512-512@8": (Convolution(512, 512, 8), 5),
    "up 512 + 256-256@16": (Doubled(512, 256, 256, 16), 1),
    "up 256 + 128-128@32": (Doubled(256, 128, 128, 32), 1),
    "up 128 + 64-64@64": (Doubled(128, 64, 64, 64), 1),
    "up 64 + 64-32@128": (Doubled(64, 64, 32, 128), 1),
    "32-32@128": (Convolution(32, 32, 128), 1),
    "up 32-16@256": (Doubled(32, 0, 16, 256), 1),
    "16-16@256": (Convolution(16, 16, 256), 1),
    "head 16-12@256": (Convolution(16, 12, 256), 1),
    "shortcut 64-128@64/2": (Convolution(64, 128, 64, 1, 2), 1),
    "shortcut 128-256@32/2": (Convolution(128, 256, 32, 1, 2), 1),
    "shortcut 256-512@16/2": (Convolution(256, 512, 16, 1, 2), 1),
    "norm 64@128": (Norm(64, 128), 1),
    "norm 64@64": (Norm(64, 64), 8),
    "norm 128@32": (Norm(128, 32), 11),
    "norm 256@16": (Norm(256, 16), 15),
    "norm 512@8": (Norm(512, 8), 7),
    "norm 32@128": (Norm(32, 128), 2),
    "norm 16@256": (Norm(16, 256), 2),
    "max-pool": ("max-pool", 1),
    "cross-entropy": ("cross-entropy", 1),
}


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    only: tuple[str, ...] = ()
    """Operations, by the beginning of their names; all of them by default."""
    batch: int = 4
    """Images of a batch."""
    rounds: int = 15
    """How often each side is timed."""
    append: bool = False
    """Whether to append the table to docs/benchmarks.md."""


def inputs(operation: Any, batch: int) -> list[np.ndarray]:
    """What is differentiated, images `[N, H, W, C]` and kernels `[h, w, C, D]`; of cross-entropy the labels too."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    match operation:
        case Convolution(channels, features, size, kernel):
            return [
                noise(batch, size, size, channels),
                noise(kernel, kernel, channels, features) / kernel,
            ]
        case Doubled(channels, skip, features, size):
            joined = channels + skip
            return [
                noise(batch, size // 2, size // 2, channels),
                *([noise(batch, size, size, skip)] if skip else []),
                noise(3, 3, joined, features) / 3,
            ]
        case Norm(channels, size):
            return [noise(batch, size, size, channels), noise(channels), noise(channels)]
        case "max-pool":
            return [np.maximum(noise(batch, 128, 128, 64), 0)]
        case "cross-entropy":
            return [noise(batch, 256, 256, 12), rng.integers(0, 12, (batch, 256, 256))]
    raise ValueError(operation)


def jaxseg_side(operation: Any, batch: int) -> Callable[[], Any]:
    """The operation and its gradients as the library has them."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    from jaxseg import compiler, losses
    from jaxseg.nn import max_pool
    from jaxseg.nn.convolution import convolution
    from jaxseg.nn.doubled import doubled
    from jaxseg.nn.norm import normalize

    def convolve(x: Any, kernel: Any, stride: int, form: Any = convolution) -> Any:
        layer = nn.Conv(
            kernel.shape[-1],
            kernel.shape[:2],
            strides=stride,
            padding=kernel.shape[0] // 2,
            use_bias=False,
            conv_general_dilated=form,
        )
        return layer.apply({"params": {"kernel": kernel}}, x)

    def of_doubled(x: Any, *others: Any) -> Any:
        *skip, kernel = others
        joined, form = doubled(x, skip[0] if skip else None)
        return convolve(joined, kernel, 1, form)

    arrays = [jnp.asarray(x) for x in inputs(operation, batch)]
    match operation:
        case Convolution():
            # An image needs no gradient.
            fixed = arrays[:1] if operation.channels == 3 else []
            form = lambda x, kernel: convolve(x, kernel, operation.stride)  # noqa: E731
        case Doubled():
            fixed, form = [], of_doubled
        case Norm():
            fixed, form = [], lambda x, scale, bias: normalize(x, scale, bias, 1e-5, True)[0]
        case "max-pool":
            fixed, form = [], lambda x: max_pool(x, 3, 2, 1)
        case _:
            labels = arrays.pop()
            fixed, form = (
                [],
                lambda x: losses.softmax_cross_entropy(x, labels, ignore_index=255).mean(),
            )
    trained = arrays[len(fixed) :]
    shape = jax.eval_shape(form, *fixed, *trained).shape
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)

    def both(fixed: Any, trained: Any, cotangent: Any) -> Any:
        y, back = jax.vjp(lambda *trained: form(*fixed, *trained), *trained)
        return y, back(cotangent)

    run = compiler.jit(both)
    return lambda: jax.block_until_ready(run(fixed, trained, cotangent))


def torch_side(operation: Any, batch: int) -> Callable[[], Any]:
    """The same in PyTorch, channels last."""
    import torch
    from torch.nn import functional

    arrays = inputs(operation, batch)
    kernel = arrays[-1] if isinstance(operation, Convolution | Doubled) else None
    tensors = []
    for x in arrays:
        if x is kernel:
            x = torch.from_numpy(np.ascontiguousarray(x.transpose(3, 2, 0, 1)))
        else:
            x = torch.from_numpy(x)
            x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        if x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
        tensors.append(x.requires_grad_(x.is_floating_point()))
    match operation:
        case Convolution(channels, _, _, size, stride):
            tensors[0].requires_grad_(channels != 3)
            run = lambda x, k: functional.conv2d(x, k, None, stride, size // 2)  # noqa: E731
        case Doubled():

            def run(x: Any, *others: Any) -> Any:
                joined = torch.cat((functional.interpolate(x, scale_factor=2), *others[:-1]), 1)
                return functional.conv2d(joined, others[-1], padding=1)

        case Norm(channels):
            moving = torch.zeros(channels), torch.ones(channels)
            run = lambda x, s, b: functional.relu(  # noqa: E731
                functional.batch_norm(x, *moving, s, b, training=True), inplace=True
            )
        case "max-pool":
            run = lambda x: functional.max_pool2d(x, 3, 2, 1)  # noqa: E731
        case _:
            run = functional.cross_entropy
    shape = run(*tensors).shape
    cotangent = torch.from_numpy(
        np.random.default_rng(1).normal(size=tuple(shape)).astype(np.float32)
    )
    if cotangent.ndim == 4:
        cotangent = cotangent.to(memory_format=torch.channels_last)
    wanted = [x for x in tensors if x.requires_grad]
    return lambda: torch.autograd.grad(run(*tensors), wanted, cotangent)


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `jaxseg train` has it
    lines, lost, of_convolutions = [], 0.0, 0.0
    for name, (operation, times) in OPERATIONS.items():
        if arguments.only and not name.startswith(arguments.only):
            continue
        given = (operation, arguments.batch)
        sides = {"jaxseg": (jaxseg_side, given), "torch": (torch_side, given)}
        timings = take_turns(sides, arguments.rounds)
        ours, theirs = (1e3 * timings[side].median for side in ("jaxseg", "torch"))
        more = times * (ours - theirs)
        lost += more
        of_convolutions += more if isinstance(operation, Convolution | Doubled) else 0
        lines.append(
            f"| {name} | {times} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} | {more:+.0f} |"
        )
        print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "torch"))
    lines += [
        f"| all convolutions with PyTorch's times | | | | | {of_convolutions:+.0f} |",
        f"| all operations with PyTorch's times | | | | | {lost:+.0f} |",
    ]
    print("\n".join(lines[-2:]))
    if arguments.append:
        about = f"{machine()}; {versions}; batch {arguments.batch}; {datetime.date.today()}:"
        append(HEADING, INTRODUCTION, ["", about, "", HEAD, *lines])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
