"""Times value and gradient of single losses beside their peers in PyTorch.

The peers are torch.nn.functional, torchvision and segmentation_models.pytorch, as they come ("torch") and through
`torch.compile`; the focal loss over a softmax, which none of them has, is written as everyone does. Options are such that
both sides compute the same, and small values and gradients are compared first. Logits and labels lie in each library's own layout and type beforehand; 5 % of the
pixels are ignored where the peer can do so. The gradient is that with respect to the logits.

    python experiments/benchmarks/losses.py
    python experiments/benchmarks/losses.py --losses dice lovasz_softmax --size 512 --classes 150

Needs torch, torchvision and segmentation_models.pytorch. Prints a row for each side and appends them to
docs/benchmarks.md with `--append`.
"""

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from append_table import append, rows
from interleave import records, time_alternately

IGNORED = 255
ONE_LOGIT = ("lovasz_hinge", "mcc")
MULTILABEL = ("sigmoid_cross_entropy", "sigmoid_focal")
CANNOT_IGNORE = (*MULTILABEL, "mcc")

Loss = Literal[
    "cross_entropy",
    "softmax_focal",
    "dice",
    "jaccard",
    "tversky",
    "lovasz_softmax",
    "lovasz_hinge",
    "mcc",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
]


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    losses: tuple[Loss, ...] = Loss.__args__
    """Which losses."""
    batch: int = 4
    """Images of a batch."""
    size: int = 256
    """Their height and width."""
    classes: int = 12
    """Channels of the logits, but for those losses that have one."""
    rounds: int = 15
    """Timed runs per side."""
    compiled: bool = True
    """Whether the peer runs through torch.compile as well."""
    append: bool = False
    """Whether to append the rows to docs/benchmarks.md."""


def drawn(name: str, arguments: Arguments) -> tuple[np.ndarray, np.ndarray]:
    """Random logits `[N, H, W, K]` and class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`."""
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.size, arguments.size)
    channels = 1 if name in ONE_LOGIT else arguments.classes
    logits = rng.normal(size=(*shape, channels)).astype(np.float32)
    if name in MULTILABEL:
        return logits, rng.integers(0, 2, logits.shape).astype(np.uint8)
    labels = rng.integers(0, max(channels, 2), shape).astype(np.uint8)
    if name not in CANNOT_IGNORE:
        labels[rng.random(shape) < 0.05] = IGNORED
    return logits, labels


def jaxseg_side(name: str, arguments: Arguments) -> Callable[[], Any]:
    """Value and gradient in one program, compiled as `Parallel.compile` compiles a step."""
    import jax

    from jaxseg import compiler, losses

    fns: dict[str, Callable[..., Any]] = {
        "cross_entropy": losses.cross_entropy,
        "softmax_focal": losses.focal_loss,
        "dice": losses.dice_loss,
        "jaccard": losses.jaccard_loss,
        "tversky": losses.tversky_loss,
        "lovasz_softmax": losses.lovasz_softmax_loss,
        "lovasz_hinge": losses.lovasz_hinge_loss,
        "mcc": losses.mcc_loss,
        "sigmoid_cross_entropy": losses.cross_entropy,
        "sigmoid_focal": functools.partial(losses.focal_loss, alpha=0.25),
    }
    logits, labels = map(jax.numpy.asarray, drawn(name, arguments))
    value_and_grad = compiler.jit(jax.value_and_grad(fns[name]))
    return lambda: jax.block_until_ready(value_and_grad(logits, labels))


def torch_side(name: str, arguments: Arguments, compiled: bool) -> Callable[[], Any]:
    """The peer."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits, labels = (torch.from_numpy(array).to(device) for array in drawn(name, arguments))
    logits = logits.permute(0, 3, 1, 2).contiguous().requires_grad_()
    if name in MULTILABEL:
        labels = labels.permute(0, 3, 1, 2).float().contiguous()
    else:
        labels = labels.long()
    loss = peer(name)
    loss = torch.compile(loss) if compiled else loss

    def run() -> Any:
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        if device == "cuda":
            torch.cuda.synchronize()
        return value.detach(), gradient

    return run


def peer(name: str) -> Callable[[Any, Any], Any]:
    """Returns the function that a user of PyTorch calls: logits `[N, K, H, W]` and labels to a scalar."""
    import peers
    import torch
    from torch.nn import functional

    if name == "cross_entropy":
        return functools.partial(functional.cross_entropy, ignore_index=IGNORED)
    if name == "sigmoid_cross_entropy":
        return functional.binary_cross_entropy_with_logits
    if name == "sigmoid_focal":
        focal = peers.torchvision().ops.sigmoid_focal_loss
        return functools.partial(focal, alpha=0.25, gamma=2.0, reduction="mean")

    def softmax_focal(logits: Any, labels: Any) -> Any:
        nll = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        return ((1 - torch.exp(-nll)) ** 2 * nll).sum() / (labels != IGNORED).sum()

    if name == "softmax_focal":
        return softmax_focal
    losses = peers.segmentation_models_pytorch().losses
    if name == "mcc":
        mcc = losses.MCCLoss()
        return lambda logits, labels: mcc(logits.sigmoid(), labels[:, None].float())
    return {
        "dice": lambda: losses.DiceLoss("multiclass", ignore_index=IGNORED),
        "jaccard": lambda: losses.JaccardLoss("multiclass", ignore_index=IGNORED),
        "tversky": lambda: losses.TverskyLoss(
            "multiclass", ignore_index=IGNORED, alpha=0.3, beta=0.7
        ),
        "lovasz_softmax": lambda: losses.LovaszLoss(
            "multiclass", per_image=True, ignore_index=IGNORED
        ),
        "lovasz_hinge": lambda: losses.LovaszLoss("binary", per_image=True, ignore_index=IGNORED),
    }[name]()


def compare(arguments: Arguments) -> None:
    """Raises an `AssertionError` where both sides do not compute the same."""
    small = dataclasses.replace(arguments, batch=2, size=min(arguments.size, 48))
    for name in small.losses:
        value, gradient = jaxseg_side(name, small)()
        expected, slope = torch_side(name, small, False)()
        slope = slope.permute(0, 2, 3, 1).cpu().numpy()
        np.testing.assert_allclose(value, expected.cpu(), rtol=1e-5, err_msg=name)
        # Where errors are as good as equal, float32 sorts them in another order.
        np.testing.assert_allclose(gradient, slope, atol=1e-3 * abs(slope).max(), err_msg=name)


def measure(name: str, arguments: Arguments) -> list[dict[str, Any]]:
    """Returns the records of one loss."""
    sides: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "jaxseg": (jaxseg_side, (name, arguments)),
        "torch": (torch_side, (name, arguments, False)),
    }
    if arguments.compiled:
        sides["torch.compile"] = (torch_side, (name, arguments, True))
    channels = 1 if name in ONE_LOGIT else arguments.classes
    what = f"{name}, {arguments.batch} x {arguments.size} x {arguments.size}, K = {channels}"
    return records(what, time_alternately(sides, arguments.rounds))


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    apart = multiprocessing.get_context("spawn")  # this process must not hold the devices
    with ProcessPoolExecutor(1, apart) as pool:
        pool.submit(compare, arguments).result()
    for name in arguments.losses:
        measured = measure(name, arguments)
        print("\n".join(rows("losses", measured)), flush=True)
        if arguments.append:
            append("losses", measured)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
