"""From the start of a process to the end of its first train step: cold, warm, and what the import costs.

Cold is with an empty folder of compiled programs, warm the same program again with what the first run left there, kept as
`jaxseg` on the command line keeps it. The import is `import jaxseg` with the rooms a training run needs, beyond
`import jax, flax, optax`. Every run is a process of its own.

    python experiments/benchmarks/startup.py
    python experiments/benchmarks/startup.py --encoder resnet50 --rounds 5

Prints a row and appends it to docs/benchmarks.md with `--append`.
"""

import datetime
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import tyro
from page import append
from turns import machine

from jaxseg.cli import compiled

HEADING = "## Start-up"
INTRODUCTION = """Rows of `python experiments/benchmarks/startup.py --append`: seconds from the start of a process to the end
of its first train step, with no compiled programs and with those of the run before, and of `import jaxseg` beyond
`import jax, flax, optax`; medians.

| what | cold | warm | import | where and when |
|---|---|---|---|---|"""
STEP = """
import sys, time
import jax, numpy as np
import jaxseg
from jaxseg import train
name, encoder, batch, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = jaxseg.create(name, encoder=encoder, num_classes=12)
optimizer, parallel = train.adamw(1e-4), train.Parallel("jit", jax.devices()[:1])
loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0})
step = parallel.compile(train.make_train_step(model, optimizer, loss))
images = np.zeros((batch, size, size, 3), np.float32)
data = {"image": images, "label": np.zeros(images.shape[:3], np.uint8)}
key = jax.random.key(0)
init, create = train.make_init(model), lambda variables: train.create_state(variables, optimizer)
step.prepare(jax.eval_shape(create, jax.eval_shape(init, key)), data, key)
state = parallel.replicate(create(init(key)))
jax.block_until_ready(step(state, parallel.shard(data), parallel.replicate(key)))
print(time.time())
"""
TIME = "import time; print(time.time())"
BESIDE = "import jax, flax, flax.linen, optax"
IMPORTS = f"{BESIDE}\nimport jaxseg\njaxseg.create, jaxseg.train, jaxseg.losses, jaxseg.metrics"


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    network: str = "unet"
    """Architecture."""
    encoder: str = "resnet34"
    """Its encoder."""
    batch: int = 4
    """Images of a batch."""
    size: int = 256
    """Their height and width."""
    rounds: int = 3
    """How often each is timed."""
    append: bool = False
    """Whether to append the row to docs/benchmarks.md."""


def seconds(script: str, arguments: list[str], environment: dict[str, str]) -> float:
    """From the start of a process to the time that it prints at its end."""
    began = time.time()
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return float(process.stdout) - began


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    what = [arguments.network, arguments.encoder, str(arguments.batch), str(arguments.size)]
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as `jaxseg` has it
    cold, warm, imports = [], [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            kept = environment | compiled.settings({"XDG_CACHE_HOME": folder})
            cold.append(seconds(STEP, what, kept))
            warm.append(seconds(STEP, what, kept))
        beside = seconds(f"{BESIDE}\n{TIME}", [], environment)
        imports.append(seconds(f"{IMPORTS}\n{TIME}", [], environment) - beside)
    values = " | ".join(f"{statistics.median(each):.1f} s" for each in (cold, warm, imports))
    row = (
        f"| {arguments.network}, {arguments.encoder}, {arguments.batch} x {arguments.size} x "
        f"{arguments.size} | {values} | {machine()}; jax {importlib.metadata.version('jax')}; "
        f"{datetime.date.today()} |"
    )
    print(row)
    if arguments.append:
        append(HEADING, INTRODUCTION, [row])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
