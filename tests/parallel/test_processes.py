"""Several processes, each with its devices as on a cluster, compute the parameters and metrics of one device."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

STRATEGIES = ("jit", "pmap", "shard_map")
SCRIPT = """
import os, sys
rank, count, devices, port = map(int, sys.argv[1:5])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices // count}"
import warnings
warnings.simplefilter("error")
import jax
jax.config.update("jax_enable_x64", True)
from jaxseg.parallel import Parallel, processes
if count > 1:
    processes.initialize(f"localhost:{port}", count, rank)
import json
import flax.linen as nn, jax.numpy as jnp, numpy as np, optax
from jaxseg import data, losses, nn as blocks, train
from jaxseg.data.sources.shapes import Shapes
from jaxseg.runs.evaluation import evaluate_batches
from jaxseg.tasks import Semantic
from jaxseg.typing import Output

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, param_dtype=x.dtype)(x)
        x = nn.relu(blocks.BatchNorm(param_dtype=x.dtype)(x, train=train))
        return Output(nn.Conv(7, (1, 1), param_dtype=x.dtype)(x))

class Uneven(Shapes):  # in half of the records every pixel of the upper part is ignored
    def __getitem__(self, index):
        record = super().__getitem__(index)
        label = record["label"].copy()
        label[: 12 * (index % 2)] = 255
        return {**record, "label": label}

shard = (rank, count)
model, optimizer = Net(), optax.adamw(1e-2)
loss_fn = losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0})
options = {"preprocess": lambda image: image.astype(jnp.float64) / 255}
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
found = {}
for strategy in sys.argv[5:]:
    parallel = Parallel(strategy)
    assert len(parallel.devices) == devices
    state = parallel.replicate(train.create_state(variables, optimizer, ema=True))
    key = parallel.replicate(jax.random.key(1))
    step = train.make_train_step(model, optimizer, loss_fn, ema_decay=0.9, **options)
    step = parallel.compile(train.skip_nonfinite(step))
    score = parallel.compile(train.make_eval_step(model, Semantic(7), loss_fn, **options), donate=(2,))

    def scores():  # of 13 images in batches of 8
        held_out = data.eval_batches(Uneven(13, (16, 16), seed=1), batch_size=8, shard=shard)
        return evaluate_batches(state, score, held_out, task=Semantic(7), parallel=parallel)

    before = scores()
    batches = data.train_batches(Uneven(20, (16, 16), seed=0), data.TrainAugment((16, 16)),
                                 batch_size=8, seed=0, shard=shard)
    with batches:
        for _ in range(20):
            state, logs = step(state, parallel.shard(next(batches)), key)
    leaves = jax.tree.leaves((state, logs))
    assert all(leaf.sharding.device_set == set(jax.devices()) for leaf in leaves)
    numbers = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
    found[strategy] = {"numbers": [x.hex() for x in numbers], "before": before, "after": scores()}
print("FOUND", json.dumps(found), flush=True)
"""


def run(count, devices, strategies=STRATEGIES):
    """Returns the results of each process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(count), str(devices), port, *strategies],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
        )
        for rank in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    lines = [line for out, _ in outputs for line in out.splitlines() if line.startswith("FOUND")]
    return [json.loads(line.removeprefix("FOUND")) for line in lines]


def numbers(found):
    return np.array([float.fromhex(number) for number in found["numbers"]])


@pytest.fixture(scope="module")
def single():
    (found,) = run(1, 1, ["jit"])
    return found["jit"]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices"), [(1, 8), (2, 8), (4, 4)])
def test_processes_equal_one_device(single, count, devices):
    """In float64 state and logs of 20 steps agree within 1e-9, counts and scores bit for bit."""
    everywhere = run(count, devices)
    assert len(everywhere) == count
    assert sum(map(sum, single["after"]["counts"])) == (13 * 16 - 6 * 12) * 16  # each image once
    for found in everywhere:
        for strategy in STRATEGIES:
            np.testing.assert_allclose(numbers(found[strategy]), numbers(single), rtol=0, atol=1e-9)
            for moment in ("before", "after"):
                scores, expected = dict(found[strategy][moment]), dict(single[moment])
                assert abs(scores.pop("loss") - expected.pop("loss")) < 1e-9
                assert json.dumps(scores) == json.dumps(expected)  # absent classes are nan
        assert json.dumps(found) == json.dumps(everywhere[0])
