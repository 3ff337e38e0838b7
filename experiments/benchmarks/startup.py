"""Times the start of a process until the end of its first train step.

There are three sides. `jaxseg train` is the command on the embedded data set, until the first step is in its log: it reads
its arguments, opens and checks the data, loads, augments and logs. `library` is a script that builds a model, an optimizer,
a state and a step, and calls the step on zeros; `torch` does the same with the network of `models.py` in eager mode.
"Cold" starts with an empty compilation cache, "warm" with that of the run before.

Seconds depend on the machine and on what else it runs, so they are also given in train steps of PyTorch, the median of the
steps that follow its first one. Every run is a process of its own, and the sides alternate.

    python experiments/benchmarks/startup.py
    python experiments/benchmarks/startup.py --network unet_resnet50 --rounds 5

Needs torch and segmentation_models.pytorch. Prints a row for each side and the time of `import jaxseg` beyond that of
`import jax, flax, optax`; `--append` adds the rows to docs/benchmarks.md.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from append_table import append, rows
from interleave import where
from models import NETWORKS

IMAGES = 64
COMMAND = "from jaxseg.cli.main import program; program()"
LIBRARY = """
import sys, time
import jax, numpy as np
import jaxseg
from jaxseg import train
from jaxseg.parallel import Parallel
name, encoder, batch, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = jaxseg.create(name, encoder=encoder, num_classes=12)
optimizer, parallel = train.adamw(1e-4), Parallel("jit", jax.devices()[:1])
loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0})
step = parallel.compile(train.make_train_step(model, optimizer, loss))
images = np.zeros((batch, size, size, 3), np.float32)
data = {"image": images, "label": np.zeros(images.shape[:3], np.uint8)}
key = jax.random.key(0)
create = lambda key: train.create_state(train.init(model, key), optimizer)
step.compile_in_background(jax.eval_shape(create, key), data, key)
state = parallel.replicate(create(key))
jax.block_until_ready(step(state, parallel.shard(data), parallel.replicate(key)))
print(time.time())
"""
TORCH = """
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
IMPORT_PEERS = "import jax, flax, flax.linen, optax"
IMPORT_JAXSEG = (
    f"{IMPORT_PEERS}\nimport jaxseg\njaxseg.create, jaxseg.train, jaxseg.losses, jaxseg.metrics"
)
PRINT_TIME = "import time; print(time.time())"


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    network: Literal["unet_resnet34", "unet_resnet50", "fpn_resnet50"] = "unet_resnet34"
    """Architecture and encoder."""
    batch: int = 4
    """Images per batch."""
    size: int = 256
    """Their height and width."""
    rounds: int = 3
    """Timed runs per side."""
    append: bool = False
    """Whether to append the result to docs/benchmarks.md."""


def time_command(arguments: Arguments, cache: str) -> float:
    """Returns the seconds from the start of `jaxseg train` until its first step is in the log.

    Args:
        arguments: The network and the batch.
        cache: The user's cache folder for this run.

    Raises:
        SystemExit: The command ended before its first step.
    """
    name, encoder, _ = NETWORKS[arguments.network]
    size, batch = str(arguments.size), str(arguments.batch)
    with tempfile.TemporaryDirectory() as runs:
        log = Path(runs) / "run" / "metrics.jsonl"
        options = ["--run", str(log.parent), "--model.name", name, "--model.encoder", encoder]
        options += ["--data.options", "size", size, size, "train_length", str(IMAGES)]
        options += ["--train.batch-size", batch, "--train.log-every", "1"]
        environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "train", *options],
            env=environment | {"XDG_CACHE_HOME": cache},
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


def time_script(script: str, *arguments: str, cache: str = "") -> list[float]:
    """Returns the seconds from the start of a script to the time that it prints first, and the numbers that follow.

    Args:
        script: Python code.
        arguments: Its `sys.argv[1:]`.
        cache: The folder of JAX's compilation cache; none is used without it.
    """
    settings = {}
    if cache:
        settings = {"JAX_COMPILATION_CACHE_DIR": cache}
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    began = time.time()
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(__file__).parent,
        env=os.environ | settings,
        check=True,
        stdout=subprocess.PIPE,
    )
    ended, *others = map(float, process.stdout.split())
    return [ended - began, *others]


def measure(arguments: Arguments) -> dict[str, float]:
    """Returns the medians of all measurements by name."""
    name, encoder, _ = NETWORKS[arguments.network]
    numbers = [str(arguments.batch), str(arguments.size)]
    seen: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        now: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("cold", "warm"):
                now[f"command {kind}"] = time_command(arguments, cache)
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("cold", "warm"):
                (now[f"library {kind}"],) = time_script(
                    LIBRARY, name, encoder, *numbers, cache=cache
                )
        now["torch warm"], now["step"] = time_script(TORCH, arguments.network, *numbers)
        peers = time_script(f"{IMPORT_PEERS}\n{PRINT_TIME}")[0]
        now["import"] = time_script(f"{IMPORT_JAXSEG}\n{PRINT_TIME}")[0] - peers
        now |= {f"{key} in steps": now[key] / now["step"] for key in now if key != "import"}
        for key, value in now.items():
            seen.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in seen.items()}


def results(arguments: Arguments, seen: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns a record of each side."""
    what = f"{arguments.network}, {arguments.batch} x {arguments.size} x {arguments.size}"
    found = []
    for side, label in (("command", "jaxseg train"), ("library", "library"), ("torch", "torch")):
        record = where() | {"what": what, "side": label, "step_s": round(seen["step"], 2)}
        for kind in ("cold", "warm"):
            if f"{side} {kind}" in seen:
                record[f"{kind}_s"] = round(seen[f"{side} {kind}"], 1)
                record[f"{kind}_steps"] = round(seen[f"{side} {kind} in steps"], 1)
        found.append(record)
    return found


def main(arguments: Arguments) -> None:
    """Measures, prints and, on request, appends."""
    seen = measure(arguments)
    found = results(arguments, seen)
    print("\n".join(rows("startup", found)))
    print(f"a step of torch: {seen['step']:.2f} s")
    print(f"import jaxseg: {seen['import']:.2f} s beyond jax, flax and optax")
    if arguments.append:
        append("startup", found)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
