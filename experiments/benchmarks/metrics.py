"""Times updates of a confusion matrix by jaxseg, a bare jnp.bincount and torchmetrics, alternately in one process.

Each counts the same labels and predictions, 5 % of them ignored (bincount counts all pixels, a lower bound for counting in
JAX), and the counts are compared first. Times are medians over alternating runs, without compilation. Arrays are stored
beforehand in the type of each library (uint8 labels and int32 predictions for jaxseg, int64 for torch, the type of its
argmax). At the end the fraction of counting in a train step of U-Net with ResNet-34 is measured.

    python experiments/benchmarks/metrics.py     # 2 minutes on 2 CPU cores

Needs torch and torchmetrics. Writes docs/benchmarks/metrics.json and prints the rows for docs/metrics.md.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import torch
import tyro

import jaxseg
from jaxseg.data.normalization import normalize
from jaxseg.metrics import ConfusionMatrix, labels_from_logits

IGNORED = 255
OUT = Path(__file__).parents[2] / "docs" / "benchmarks" / "metrics.json"


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    classes: tuple[int, ...] = (21, 150)
    """Numbers of classes."""
    images: int = 8
    """Images of a batch."""
    size: int = 512
    """Their height and width."""
    rounds: int = 15
    """Timed runs of each."""
    step_images: int = 2
    """Images of the train step."""
    step_size: int = 256
    """Their height and width."""
    write: bool = True
    """Whether to write the result."""


def drawn(classes: int, images: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random labels, some of them ignored, and predictions of which half are right."""
    rng = np.random.default_rng(0)
    shape = (images, size, size)
    labels = rng.integers(0, classes, shape)
    predictions = np.where(rng.random(shape) < 0.5, labels, rng.integers(0, classes, shape))
    labels[rng.random(shape) < 0.05] = IGNORED
    return labels.astype(np.uint8), predictions.astype(np.int32)


def count(counts: ConfusionMatrix, labels: jax.Array, predictions: jax.Array) -> ConfusionMatrix:
    """One more batch."""
    return counts.update(labels=labels, predictions=predictions, ignore_index=IGNORED)


def milliseconds(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the sorted times of each side; sides alternate in rotating order, and the first round is not timed."""
    times = {name: [] for name in sides}
    names = list(sides)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = time.perf_counter()
            sides[name]()
            if i:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: sorted(values) for name, values in times.items()}


def counting(classes: int, arguments: Arguments) -> dict:
    """The three ways of counting, side by side."""
    labels, predictions = drawn(classes, arguments.images, arguments.size)
    ours = jnp.asarray(labels), jnp.asarray(predictions)
    theirs = torch.from_numpy(predictions.astype(np.int64)), torch.from_numpy(labels.astype(int))
    zero = ConfusionMatrix.zero(classes)
    began = time.perf_counter()
    compiled = jax.jit(count).lower(zero, *ours).compile()
    compiling = time.perf_counter() - began
    cells = jnp.asarray(np.where(labels == IGNORED, 0, labels) * np.int32(classes) + predictions)
    bincount = jax.jit(lambda cells: jnp.bincount(cells.reshape(-1), length=classes * classes))

    matrix = peers.torchmetrics().functional.classification.multiclass_confusion_matrix
    options = {"num_classes": classes, "ignore_index": IGNORED}

    np.testing.assert_array_equal(
        compiled(zero, *ours).to_numpy(), matrix(*theirs, **options).numpy()
    )
    sides = {
        "jaxseg": lambda: jax.block_until_ready(compiled(zero, *ours)),
        "jnp.bincount": lambda: jax.block_until_ready(bincount(cells)),
        "torchmetrics": lambda: matrix(*theirs, **options),
        "torchmetrics, unchecked": lambda: matrix(*theirs, **options, validate_args=False),
    }
    times = milliseconds(sides, arguments.rounds)
    return {"classes": classes, "compile_seconds": compiling, "milliseconds": times}


def share(classes: int, arguments: Arguments) -> dict:
    """One train step of U-Net with ResNet-34, and counting its predictions."""
    shape = (arguments.step_images, arguments.step_size, arguments.step_size)
    labels, _ = drawn(classes, *shape[:2])
    model = jaxseg.create("unet", encoder="resnet34", num_classes=classes)
    optimizer = optax.adamw(1e-4)
    loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0}, ignore_index=IGNORED)
    parallel = jaxseg.parallel.Parallel("jit", jax.devices()[:1])
    step = parallel.compile(
        jaxseg.train.make_train_step(model, optimizer, loss, preprocess=normalize())
    )
    variables = jaxseg.train.init(model, jax.random.key(0))
    state = parallel.replicate(jaxseg.train.create_state(variables, optimizer))
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    batch = parallel.shard({"image": images, "label": labels})
    logits = jax.random.normal(jax.random.key(0), (*shape, classes))
    zero = ConfusionMatrix.zero(classes)
    counted = jax.jit(count)
    argmax = jax.jit(labels_from_logits)
    predictions = argmax(logits)

    def train() -> None:
        nonlocal state
        state, logs = step(state, batch, jax.random.key(0))
        jax.block_until_ready(logs)

    sides = {
        "train step": train,
        "update": lambda: jax.block_until_ready(counted(zero, batch["label"], predictions)),
        "labels_from_logits": lambda: jax.block_until_ready(argmax(logits)),
    }
    times = milliseconds(sides, max(arguments.rounds // 3, 3))
    return {"classes": classes, "shape": shape, "milliseconds": times}


def processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(arguments: Arguments) -> None:
    """Measures, prints and writes."""
    hardware = {"processor": processor(), "cores": os.cpu_count(), "backend": jax.default_backend()}
    modules = {"jax": jax, "torch": torch, "torchmetrics": peers.torchmetrics()}
    versions = {name: module.__version__ for name, module in modules.items()}
    flags = os.environ.get("XLA_FLAGS", "")
    print(hardware, versions, f"XLA_FLAGS={flags!r}")
    shape = f"{arguments.images} x {arguments.size} x {arguments.size}"
    print(f"\nCounting {shape} pixels, milliseconds: median (fastest to slowest)\n")
    print(
        "| classes | jaxseg | bare jnp.bincount | torchmetrics | torchmetrics, validate_args=False "
        "| times as fast | compiling |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for classes in arguments.classes:
        rows.append(row := counting(classes, arguments))
        times = row["milliseconds"]
        medians = {name: statistics.median(values) for name, values in times.items()}
        shown = " | ".join(
            f"{medians[name]:.1f} ({values[0]:.1f} to {values[-1]:.1f})"
            for name, values in times.items()
        )
        factors = [
            f"{medians[name] / medians['jaxseg']:.0f}"
            for name in ("torchmetrics", "torchmetrics, unchecked")
        ]
        print(
            f"| {classes} | {shown} | **{', '.join(factors)}** | {row['compile_seconds']:.2f} s |"
        )
    last = share(arguments.classes[0], arguments)
    medians = {name: statistics.median(times) for name, times in last["milliseconds"].items()}
    part = 100 * medians["update"] / medians["train step"]
    print(
        f"\nA train step of U-Net with ResNet-34, {last['shape']}, {last['classes']} classes: "
        f"{medians['train step']:.0f} ms; update {medians['update']:.2f} ms = {part:.3f} %; "
        f"labels_from_logits {medians['labels_from_logits']:.2f} ms"
    )
    if arguments.write:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        result = {"hardware": hardware, "versions": versions, "xla_flags": flags, "shape": shape}
        OUT.write_text(json.dumps(result | {"counting": rows, "train_step": last}) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
