"""Long runs and large data sets: memory, open files and speed stay as they are."""

import gc
import itertools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import data, train
from jaxseg.cli.progress import RunObserver, console
from jaxseg.train.checkpoint import Checkpoint
from jaxseg.train.log import RunLog
from jaxseg.train.loop import Schedule, fit
from jaxseg.train.stop import StopRequest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks memory up in /proc"),
]


def resident():
    """Megabytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files():
    return len(os.listdir("/proc/self/fd"))


class Million:
    """A million records of 2 x 2 pixels, made when they are read: each holds its own number."""

    num_classes, classes, ignore_index = 2, ("a", "b"), 255
    palette = np.zeros((2, 3), np.uint8)

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        image = np.frombuffer(np.int64(index).tobytes() + bytes(4), np.uint8).reshape(2, 2, 3)
        return {"image": image, "label": np.zeros((2, 2), np.uint8), "name": str(index)}


def test_a_million_records_are_shuffled_and_read_with_flat_memory():
    seen = np.zeros(len(Million()), bool)
    memory, speeds = [], []
    with data.train_batches(Million(), None, batch_size=1000, seed=0) as batches:
        for _ in range(10):
            began = time.monotonic()
            for batch in itertools.islice(batches, 100):
                numbers = batch["image"].reshape(1000, 12)[:, :8].copy().view(np.int64)[:, 0]
                assert not seen[numbers].any()
                seen[numbers] = True
            speeds.append(100_000 / (time.monotonic() - began))
            memory.append(resident())
            files = open_files()
        assert seen.all()  # an epoch: every record once
        first = next(batches)["image"].reshape(1000, 12)[:, 0]
        assert len(np.unique(first)) > 200  # and another order
    assert memory[-1] - memory[1] < 50, memory
    assert open_files() <= files
    assert np.median(speeds[5:]) > 0.5 * np.median(speeds[:5]), speeds


def test_twenty_thousand_steps_leak_nothing(tmp_path):
    """A linear step, but the whole loop: batches, log, console, validations and checkpoints."""
    memory, files = [], []

    def linear(state, batch, key):
        w = state.params["w"] - 1e-3 * batch["image"].astype(jnp.float32).mean()
        new = state.replace(step=state.step + 1, params={"w": w})
        return new, {"loss": w.sum(), "gradient_norm": jnp.float32(1)}

    def validate(state):
        memory.append(resident())
        files.append(open_files())
        return {"loss": 0.0, "mean_iou": 0.1, "pixel_accuracy": 0.1, "counts": []}

    parallel = train.Parallel("jit", jax.devices()[:1])
    step = parallel.compile(train.skip_nonfinite(linear))
    state = train.create_state({"params": {"w": jnp.zeros(4)}}, optax.identity())
    with (
        data.train_batches(Million(), None, batch_size=4, seed=0) as batches,
        RunLog(tmp_path) as log,
        RunObserver(
            log,
            console(),
            start=0,
            steps=20_000,
            steps_per_epoch=500,
            batch_size=4,
            learning_rate=lambda step: 0.1,
        ) as observer,
    ):
        state, _ = fit(
            parallel.replicate(state),
            lambda s, b, k: step(s, parallel.shard(b), k),
            batches,
            key=jax.random.key(0),
            schedule=Schedule(steps_per_epoch=500, epochs=40, log_every=10),
            validate=validate,
            last=Checkpoint(tmp_path / "last", keep=2),
            best=Checkpoint(tmp_path / "best"),
            observer=observer,
            stop=StopRequest(),
        )
    assert int(state.step) == 20_000
    settled = len(memory) // 4
    assert max(memory[-5:]) - max(memory[settled : settled + 5]) < 30, memory
    assert max(files[-5:]) <= max(files[settled : settled + 5]), files
