"""From the start of a process to the end of its first train step: cold, warm, PyTorch's, and what the import costs.

There are three sides. `jaxseg train` is the command, on the embedded shapes, to the line of its log that the first step
ends with: it reads its arguments, opens and checks the data set, loads, augments and logs. `library` is a script that makes
model, optimizer, state and step, and calls it on zeros; `torch` does that with the twin in `models.py`, as it comes. Cold is
with an empty folder of compiled programs, warm with what the run before left there. Seconds depend on the machine and on
who else uses it, so they are given in train steps of the twin too, the median of those that follow its first one. The
import is `import jaxseg` with the rooms a training run needs, beyond `import jax, flax, optax`. Every run is a process of
its own; they take turns.

    python experiments/benchmarks/startup.py
    python experiments/benchmarks/startup.py --network unet_resnet50 --rounds 5

Needs torch and segmentation_models.pytorch. Prints rows and appends them to docs/benchmarks.md with `--append`.
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
of its first train step, with no compiled programs and with those of the run before; the same in train steps of the twin in
PyTorch. Medians of runs that take turns. `jaxseg train` opens and checks its data, loads, augments and logs besides;
`library` and `torch` make a model, a state and a step and call it on zeros.

| what | side | cold | warm | in the twin's steps | where and when |
|---|---|---|---|---|---|"""
LIBRARY = """
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
step.prepare(shapes, data, key)
variables = compiler.in_background(init, key)
state = parallel.replicate(create(variables.result()))
jax.block_until_ready(step(state, parallel.shard(data), parallel.replicate(key)))
print(time.time())
"""
PROGRAM = "from jaxseg.cli.main import program; program()"
IMAGES = 64  # of which 16 are checked before a run begins, as of larger sets
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


def command(arguments: Arguments, folder: Path) -> float:
    """Seconds from the start of `jaxseg train` until the first step is in its log; `folder` has its programs."""
    name, encoder, _ = NETWORKS[arguments.network]
    size, batch = str(arguments.size), str(arguments.batch)
    with tempfile.TemporaryDirectory() as runs:
        log = Path(runs) / "run" / "metrics.jsonl"
        options = ["--run", str(log.parent), "--model.name", name, "--model.encoder", encoder]
        options += ["--data.size", size, size, "--data.train-length", str(IMAGES)]
        options += ["--train.batch-size", batch, "--train.log-every", "1", "--loss.dice", "0"]
        kept = ("GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR")  # what the program chooses itself
        environment = {key: value for key, value in os.environ.items() if key not in kept}
        environment["XDG_CACHE_HOME"] = str(folder)
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "train", *options],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not (log.exists() and b"\n" in log.read_bytes()):
                if process.poll() is not None:
                    raise SystemExit("jaxseg train ended before its first step")
                time.sleep(0.005)
            return time.time() - began
        finally:
            process.kill()
            process.wait()


def run(script: str, arguments: list[str], **settings: str) -> list[float]:
    """Seconds from the start of a process to the time that it prints first, and what it prints then."""
    environment = os.environ | settings | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # `jaxseg`'s
    began = time.time()
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(__file__).parent,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
    )
    ended, *others = map(float, process.stdout.split())
    return [ended - began, *others]


def measure(arguments: Arguments) -> dict[str, float]:
    """Medians of what is measured, by name."""
    name, encoder, _ = NETWORKS[arguments.network]
    numbers = [str(arguments.batch), str(arguments.size)]
    seen: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        now: dict[str, float] = {}
        for side in ("command", "library"):
            with tempfile.TemporaryDirectory() as folder:
                kept = compiled.settings({"XDG_CACHE_HOME": folder})
                for kind in ("cold", "warm"):
                    if side == "command":
                        now[f"{side} {kind}"] = command(arguments, Path(folder))
                    else:
                        now[f"{side} {kind}"] = run(LIBRARY, [name, encoder, *numbers], **kept)[0]
        now["torch"], now["step"] = run(TWIN, [arguments.network, *numbers])
        beside = run(f"{BESIDE}\n{TIME}", [])[0]
        now["import"] = run(f"{IMPORTS}\n{TIME}", [])[0] - beside
        now |= {f"{key} in steps": now[key] / now["step"] for key in now if key != "import"}
        for key, value in now.items():
            seen.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in seen.items()}


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    seen = measure(arguments)
    what = f"{arguments.network}, {arguments.batch} x {arguments.size} x {arguments.size}"
    rows = [
        f"| {what} | {label} | {seen[f'{side} cold']:.1f} s | {seen[f'{side} warm']:.1f} s | "
        f"{seen[f'{side} cold in steps']:.1f}, {seen[f'{side} warm in steps']:.1f} | {where()} |"
        for side, label in (("command", "`jaxseg train`"), ("library", "library"))
    ]
    rows.append(
        f"| {what}, {seen['step']:.2f} s a step | torch | | {seen['torch']:.1f} s | "
        f"{seen['torch in steps']:.1f} | {where()} |"
    )
    print("\n".join(rows))
    print(f"import jaxseg: {seen['import']:.2f} s beyond jax, flax and optax")
    if arguments.append:
        append(HEADING, INTRODUCTION, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
