"""Times every kind of operation of U-Net's train step beside PyTorch's.

Each operation runs forward and backward, as in the step. The sides run alternately, each in its own process (see
`interleave.py`). A row says how often the network has the operation, and how much longer than PyTorch's a step takes
because of it. The sum over convolutions estimates the gain from oneDNN's convolutions, which are those that PyTorch calls.

    python experiments/benchmarks/operations.py
    python experiments/benchmarks/operations.py --only 64-64@64 max-pool --rounds 21

Needs torch. Prints the table; `--append` adds it to docs/benchmarks.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from append_table import append, rows
from interleave import time_alternately, where


@dataclass(frozen=True)
class Convolution:
    """A convolution with a square kernel on a square map."""

    channels: int
    features: int
    size: int
    kernel: int = 3
    stride: int = 1


@dataclass(frozen=True)
class Upsampled:
    """Nearest upsampling, concatenation with a skip and a 3 x 3 convolution: the start of a step of the decoder."""

    channels: int
    skip: int
    features: int
    size: int


@dataclass(frozen=True)
class Norm:
    """Batch normalization and ReLU."""

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
    "up 512 + 256-256@16": (Upsampled(512, 256, 256, 16), 1),
    "up 256 + 128-128@32": (Upsampled(256, 128, 128, 32), 1),
    "up 128 + 64-64@64": (Upsampled(128, 64, 64, 64), 1),
    "up 64 + 64-32@128": (Upsampled(64, 64, 32, 128), 1),
    "32-32@128": (Convolution(32, 32, 128), 1),
    "up 32-16@256": (Upsampled(32, 0, 16, 256), 1),
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
    """Options of the command line."""

    only: tuple[str, ...] = ()
    """Prefixes of names of operations; all operations by default."""
    batch: int = 4
    """Images per batch."""
    rounds: int = 15
    """Timed runs per side."""
    append: bool = False
    """Whether to append the result to docs/benchmarks.md."""


def inputs(operation: Any, batch: int) -> list[np.ndarray]:
    """Returns the arrays to differentiate by, images `[N, H, W, C]` and kernels `[h, w, C, D]`; for cross-entropy also labels."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    match operation:
        case Convolution(channels, features, size, kernel):
            return [
                noise(batch, size, size, channels),
                noise(kernel, kernel, channels, features) / kernel,
            ]
        case Upsampled(channels, skip, features, size):
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
    """Returns the function to time of jaxseg."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    from jaxseg import compiler, losses
    from jaxseg.nn import Conv, max_pool, upsample_merge
    from jaxseg.nn.norm import normalize

    def convolve(x: Any, kernel: Any, stride: int = 1) -> Any:
        layer = Conv(kernel.shape[-1], kernel.shape[0], stride, use_bias=False)
        return layer.apply({"params": {"kernel": kernel}}, x)

    def convolve_upsampled(x: Any, *others: Any) -> Any:
        *skip, kernel = others
        size = (2 * x.shape[1], 2 * x.shape[2])
        return convolve(upsample_merge(x, skip[0] if skip else None, size), kernel)

    arrays = [jnp.asarray(x) for x in inputs(operation, batch)]
    match operation:
        case Convolution():
            # An image needs no gradient.
            fixed = arrays[:1] if operation.channels == 3 else []
            form = lambda x, kernel: convolve(x, kernel, operation.stride)  # noqa: E731
        case Upsampled():
            fixed, form = [], convolve_upsampled
        case Norm():
            fixed, form = [], lambda x, scale, bias: normalize(x, scale, bias, 1e-5, nn.relu)[0]
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
    """Returns the function to time of PyTorch, channels last."""
    import torch
    from torch.nn import functional

    arrays = inputs(operation, batch)
    kernel = arrays[-1] if isinstance(operation, Convolution | Upsampled) else None
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
        case Upsampled():

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
    """Measures, prints and, on request, appends."""
    found: list[dict[str, Any]] = []
    total, convolutions = 0.0, 0.0
    for name, (operation, count) in OPERATIONS.items():
        if arguments.only and not name.startswith(arguments.only):
            continue
        options = (operation, arguments.batch)
        sides = {"jaxseg": (jaxseg_side, options), "torch": (torch_side, options)}
        timings = time_alternately(sides, arguments.rounds)
        ours, theirs = (1e3 * timings[side].median for side in ("jaxseg", "torch"))
        difference = count * (ours - theirs)
        total += difference
        convolutions += difference if isinstance(operation, Convolution | Upsampled) else 0
        record = {"what": name, "count": count, "jaxseg_ms": round(ours, 1)}
        record |= {"torch_ms": round(theirs, 1), "ratio": round(theirs / ours, 3)}
        found.append(where() | record | {"step_ms": round(difference)})
        print(rows("operations", found[-1:])[0], flush=True)
    sums = {"all convolutions": convolutions, "all operations": total}
    summary = [where() | {"what": name, "step_ms": round(value)} for name, value in sums.items()]
    print("\n".join(rows("operations", summary)))
    if arguments.append:
        append("operations", found + summary)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
