"""From the start of a process to the end of its first train step: cold, warm, PyTorch's, and what the import costs.

Cold is with an empty folder of compiled programs, warm the same program again with what the first run left there, kept as
`jaxseg` on the command line keeps it. PyTorch's is that of the twin in `models.py`, as it comes. Seconds depend on the
machine and on who else uses it, so they are given in train steps of the twin too, the median of those that follow its first
one. The import is `import jaxseg` with the rooms a training run needs, beyond `import jax, flax, optax`. Every run is a
process of its own; they take turns.

    python experiments/benchmarks/startup.py
    python experiments/benchmarks/startup.py --network unet_resnet50 --rounds 5

Needs torch and segmentation_models.pytorch. Prints a row and appends it to docs/benchmarks.md with `--append`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from models import NETWORKS
from page import append
from turns import where

from jaxseg.cli import compiled

HEADING = "## Start-up"
INTRODUCTION = """Rows of `python experiments/benchmarks/startup.py --append`: seconds from the start of a process to the end
of its first train step, with no compiled programs and with those of the run before, beside the twin in PyTorch; the same
in train steps of the twin; and seconds of `import jaxseg` beyond `import jax, flax, optax`. Medians of runs that take turns.

| what | cold | warm | PyTorch's | its step | cold, warm in its steps | import | where and when |
|---|---|---|---|---|---|---|---|"""
OURS = """
import sys, time
import jax, numpy as np
import jaxseg
from jaxseg import compiler, train
name, encoder, batch, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = jaxseg.create(name, encoder=encoder, num_classes=12)
optimizer, parallel = train.adamw(1e-4), train.Parallel("jit", jax.devices()[:1])
loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0})
step = parallel.compile(train.make_train_step(model, optimizer, loss))
images = np.zeros((batch, size, size, 3), np.float32)
data = {"image": images, "label": np.zeros(images.shape[:3], np.uint8)}
key = jax.random.key(0)
init, create = train.make_init(model), lambda variables: train.create_state(variables, optimizer)
shapes = jax.eval_shape(create, jax.eval_shape(init, key))
variables = compiler.in_background(init, key)
step.prepare(shapes, data, key)
state = parallel.replicate(create(variables.result()))
jax.block_until_ready(step(state, parallel.shard(data), parallel.replicate(key)))
print(time.time())
"""
TWIN = """
import statistics, sys, time
import models
network, batch, size = sys.argv[1:]
step = models.torch_side(models.Arguments(network, "train", int(batch), int(size)), False)
step()
print(time.time())
times = []
for _ in range(7):
    began = time.time()
    step()
    times.append(time.time() - began)
print(statistics.median(times))
"""
TIME = "import time; print(time.time())"
BESIDE = "import jax, flax, flax.linen, optax"
IMPORTS = f"{BESIDE}\nimport jaxseg\njaxseg.create, jaxseg.train, jaxseg.losses, jaxseg.metrics"


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    network: Literal["unet_resnet34", "unet_resnet50", "fpn_resnet50"] = "unet_resnet34"
    """Architecture and encoder."""
    batch: int = 4
    """Images of a batch."""
    size: int = 256
    """Their height and width."""
    rounds: int = 3
    """How often each is timed."""
    append: bool = False
    """Whether to append the row to docs/benchmarks.md."""


def run(script: str, arguments: list[str], environment: dict[str, str]) -> list[float]:
    """Seconds from the start of a process to the time that it prints first, and what it prints then."""
    began = time.time()
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, check=True, stdout=subprocess.PIPE
    )
    ended, *others = map(float, process.stdout.split())
    return [ended - began, *others]


def measure(arguments: Arguments) -> dict[str, float]:
    """Medians of what is measured, by name."""
    name, encoder, _ = NETWORKS[arguments.network]
    numbers = [str(arguments.batch), str(arguments.size)]
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as `jaxseg` has it
    seen: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            kept = environment | compiled.settings({"XDG_CACHE_HOME": folder})
            now = {kind: run(OURS, [name, encoder, *numbers], kept)[0] for kind in ("cold", "warm")}
        now["twin"], now["step"] = run(TWIN, [arguments.network, *numbers], environment)
        beside = run(f"{BESIDE}\n{TIME}", [], environment)[0]
        now["import"] = run(f"{IMPORTS}\n{TIME}", [], environment)[0] - beside
        now |= {f"{kind} in steps": now[kind] / now["step"] for kind in ("cold", "warm")}
        for key, value in now.items():
            seen.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in seen.items()}


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    seen = measure(arguments)
    row = (
        f"| {arguments.network}, {arguments.batch} x {arguments.size} x {arguments.size} | {seen['cold']:.1f} s | "
        f"{seen['warm']:.1f} s | {seen['twin']:.1f} s | {seen['step']:.2f} s | {seen['cold in steps']:.1f}, "
        f"{seen['warm in steps']:.1f} | {seen['import']:.1f} s | {where()} |"
    )
    print(row)
    if arguments.append:
        append(HEADING, INTRODUCTION, [row])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
