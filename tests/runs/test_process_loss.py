"""When one of several processes dies, the others stop; another number of them continues to the same result."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

SCRIPT = """
import os, signal, sys, time
folder, rank, count, port, kill_at = sys.argv[1], *map(int, sys.argv[2:])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={4 // count}"
import jax
jax.config.update("jax_enable_x64", True)
from jaxseg.parallel import Parallel, processes
if count > 1:
    processes.initialize(f"localhost:{port}", count, rank)
import flax.linen as nn, jax.numpy as jnp, numpy as np, optax
from pathlib import Path
from jaxseg import data, losses, nn as blocks, train
from jaxseg.data.sources.shapes import Shapes
from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.runs.loop import Progress, Schedule, fit
from jaxseg.runs.stop import StopRequest
from jaxseg.tasks import Headline
from jaxseg.typing import Output

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, param_dtype=x.dtype)(x)
        x = nn.relu(blocks.BatchNorm(param_dtype=x.dtype)(x, train=train))
        return Output(nn.Conv(7, (1, 1), param_dtype=x.dtype)(x))

class Killer:
    def __getattr__(self, name):
        return lambda *_: None
    def on_step(self, step):
        if step == kill_at:
            print("killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

model, optimizer = Net(), optax.adamw(1e-2)
loss_fn = losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0})
parallel = Parallel("jit")
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
state = parallel.replicate(train.create_state(variables, optimizer, ema=True))
normalize = lambda image: image.astype(jnp.float64) / 255
step = parallel.compile(train.skip_nonfinite(train.make_train_step(
    model, optimizer, loss_fn, preprocess=normalize, ema_decay=0.9)))
last, best = Checkpoint(Path(folder, "last"), keep=2), Checkpoint(Path(folder, "best"))
progress = Progress()
if last.step is not None:
    state, metadata = last.restore(state)
    progress = Progress(**metadata)
start = int(state.step)
batches = data.train_batches(Shapes(20, (16, 16), seed=0), data.TrainAugment((16, 16)), batch_size=8,
                             seed=0, start_step=start, shard=(rank, count))
key = parallel.replicate(jax.random.key(1))
state, progress = fit(
    state, lambda s, b, k: step(s, parallel.shard(b), k), batches, key=key,
    schedule=Schedule(steps_per_epoch=4, epochs=5), validate=lambda s: {"mean_iou": 0.1 * int(s.step)},
    last=last, best=best, headline=Headline("mean_iou", "mIoU"), observer=Killer(), stop=StopRequest(), progress=progress)
numbers = np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(state)])
print("DONE", start, *(number.hex() for number in numbers), flush=True)
"""


def start(folder, count, killed=None, at=-1):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return [
        subprocess.Popen(
            [*command, str(rank), str(count), port, str(at if rank == killed else -1)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
        )
        for rank in range(count)
    ]


def result(running):
    """Returns the first step of a run and its final numbers, from the first process."""
    printed = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), printed
    line = next(line for line in printed[0].splitlines() if line.startswith("DONE"))
    first, *numbers = line.split()[1:]
    return int(first), np.array([float.fromhex(number) for number in numbers])


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return result(start(tmp_path_factory.mktemp("single"), 1))[1]


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "then"), [(2, 2), (0, 1), (3, 4)])
def test_killed_process_ends_the_run_which_resumes(tmp_path, single, killed, then):
    running = start(tmp_path, 4, killed, at=10)
    try:
        running[killed].wait(timeout=600)
        assert running[killed].returncode == -signal.SIGKILL
        died = time.monotonic()
        for process in running:
            process.wait(timeout=max(1, 60 - (time.monotonic() - died)))
            assert process.returncode != 0
    finally:
        for process in running:
            process.kill()
            process.communicate()
    first, numbers = result(start(tmp_path, then))
    assert first == 8
    np.testing.assert_allclose(numbers, single, rtol=0, atol=1e-9)
