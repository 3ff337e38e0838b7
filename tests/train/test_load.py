"""Memory, open files and speed stay constant in long runs and on large data sets."""

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
from jaxseg.parallel import Parallel
from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.runs.log import RunLog
from jaxseg.runs.loop import Schedule, fit
from jaxseg.runs.observer import combine
from jaxseg.runs.progress import console, log_observer, progress_observer, with_speed
from jaxseg.runs.stop import StopRequest
from jaxseg.tasks import Headline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc"),
]


def resident():
    """Returns the resident memory of this process in MiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files():
    return len(os.listdir("/proc/self/fd"))


class Million:
    """A million records of 2 x 2 pixels, made when they are read; each contains its index."""

    num_classes, classes, ignore_index = 2, ("a", "b"), 255
    palette = np.zeros((2, 3), np.uint8)
    targets = data.targets.labels()

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        image = np.frombuffer(np.int64(index).tobytes() + bytes(4), np.uint8).reshape(2, 2, 3)
        return {"image": image, "label": np.zeros((2, 2), np.uint8), "name": str(index)}


def test_loader_of_a_million_records_has_flat_memory():
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
        assert seen.all()  # an epoch contains every record once
        first = next(batches)["image"].reshape(1000, 12)[:, 0]
        assert len(np.unique(first)) > 200  # in another order
    assert memory[-1] - memory[1] < 50, memory
    assert open_files() <= files
    assert np.median(speeds[5:]) > 0.5 * np.median(speeds[:5]), speeds


def test_fit_of_20000_steps_leaks_nothing(tmp_path):
    """A linear step in the complete loop: batches, log, console, validations and checkpoints."""
    memory, files = [], []

    def linear(state, batch, key):
        w = state.params["w"] - 1e-3 * batch["image"].astype(jnp.float32).mean()
        new = state.replace(step=state.step + 1, params={"w": w})
        return new, {"loss": w.sum(), "gradient_norm": jnp.float32(1)}

    def validate(state):
        memory.append(resident())
        files.append(open_files())
        return {"loss": 0.0, "mean_iou": 0.1, "pixel_accuracy": 0.1, "counts": []}

    parallel = Parallel("jit", jax.devices()[:1])
    step = parallel.compile(train.skip_nonfinite(linear))
    state = train.create_state({"params": {"w": jnp.zeros(4)}}, optax.identity())
    with (
        data.train_batches(Million(), None, batch_size=4, seed=0) as batches,
        RunLog(tmp_path) as log,
        progress_observer(
            console(), start=0, steps=20_000, steps_per_epoch=500, summary=str
        ) as progress,
    ):
        observer = with_speed(
            combine([log_observer(log), progress]),
            start=0,
            steps_per_epoch=500,
            batch_size=4,
            learning_rate=lambda step: 0.1,
        )
        state, _ = fit(
            parallel.replicate(state),
            lambda s, b, k: step(s, parallel.shard(b), k),
            batches,
            key=jax.random.key(0),
            schedule=Schedule(steps_per_epoch=500, epochs=40, log_every=10),
            validate=validate,
            last=Checkpoint(tmp_path / "last", keep=2),
            best=Checkpoint(tmp_path / "best"),
            headline=Headline("mean_iou", "mIoU"),
            observer=observer,
            stop=StopRequest(),
        )
    assert int(state.step) == 20_000
    settled = len(memory) // 4
    assert max(memory[-5:]) - max(memory[settled : settled + 5]) < 30, memory
    assert max(files[-5:]) <= max(files[settled : settled + 5]), files
