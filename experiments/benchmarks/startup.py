"""From the start of a process to the end of its first train step: cold, warm, PyTorch's, and what the import costs.

The command is `jaxseg train` on the embedded shapes, to the line of its log that the first step ends with: cold with an
empty folder of compiled programs, warm with what that run left there. It reads its arguments, opens and checks the data
set, loads, augments and logs, what PyTorch's side, the twin in `models.py` as it comes, has not to do: its one batch is
zeros. Seconds depend on the machine and on who else uses it, so they are given in train steps of the twin too, the median
of those that follow its first one. The import is `import jaxseg` with the rooms a training run needs, beyond
`import jax, flax, optax`. Every run is a process of its own; they take turns.

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

HEADING = "## Start-up"
INTRODUCTION = """Rows of `python experiments/benchmarks/startup.py --append`: seconds from the start of `jaxseg train` to the end
of its first train step, with no compiled programs and with those of the run before, beside the twin in PyTorch; the same
in train steps of the twin; and seconds of `import jaxseg` beyond `import jax, flax, optax`. Medians of runs that take turns.

| what | cold | warm | PyTorch's | its step | cold, warm in its steps | import | where and when |
|---|---|---|---|---|---|---|---|"""
PROGRAM = "from jaxseg.cli.main import program; program()"
IMAGES = 64  # as many as are checked at most before a run begins
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


def ours(arguments: Arguments, folder: Path) -> float:
    """Seconds from the start of `jaxseg train` until the first step is in its log; `folder` has its programs."""
    name, encoder, _ = NETWORKS[arguments.network]
    size, batch = str(arguments.size), str(arguments.batch)
    with tempfile.TemporaryDirectory() as runs:
        log = Path(runs) / "run" / "metrics.jsonl"
        options = ["--run", str(log.parent), "--model.name", name, "--model.encoder", encoder]
        options += ["--data.size", size, size, "--data.train-length", str(IMAGES)]
        options += ["--train.batch-size", batch, "--train.log-every", "1", "--loss.dice", "0"]
        kept = ("GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR")  # what the program chooses itself
        environment = {name: value for name, value in os.environ.items() if name not in kept}
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


def run(script: str, arguments: list[str]) -> list[float]:
    """Seconds from the start of a process to the time that it prints first, and what it prints then."""
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as `jaxseg` has it
    began = time.time()
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, check=True, stdout=subprocess.PIPE
    )
    ended, *others = map(float, process.stdout.split())
    return [ended - began, *others]


def measure(arguments: Arguments) -> dict[str, float]:
    """Medians of what is measured, by name."""
    twin = [arguments.network, str(arguments.batch), str(arguments.size)]
    seen: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            now = {kind: ours(arguments, Path(folder)) for kind in ("cold", "warm")}
        now["twin"], now["step"] = run(TWIN, twin)
        beside = run(f"{BESIDE}\n{TIME}", [])[0]
        now["import"] = run(f"{IMPORTS}\n{TIME}", [])[0] - beside
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
