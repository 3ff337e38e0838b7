"""Several processes with devices of their own, as on a cluster: one batch, one result."""

import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import os, sys
rank, processes, port, strategy = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // processes}"
import warnings
warnings.simplefilter("error")
import jax
jax.config.update("jax_enable_x64", True)
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, rank)
import flax.linen as nn, jax.numpy as jnp, numpy as np, optax
from jaxseg import losses, nn as blocks, train
from jaxseg.typing import Output

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, param_dtype=x.dtype)(x)
        x = nn.relu(blocks.BatchNorm(param_dtype=x.dtype)(x, train=train))
        return Output(nn.Conv(3, (1, 1), param_dtype=x.dtype)(x))

rng = np.random.default_rng(0)
images, labels = rng.normal(size=(8, 6, 5, 2)), rng.integers(0, 3, (8, 6, 5)).astype(np.uint8)
labels[:3] = 255
part = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
batch = {"image": images[part], "label": labels[part], "name": ["a"]}
model, optimizer = Net(), optax.adamw(1e-2)
loss_fn = losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0})
parallel = train.Parallel(strategy)
variables = jax.jit(model.init)(jax.random.key(0), images)
state = parallel.replicate(train.create_state(variables, optimizer))
key, totals = parallel.replicate((jax.random.key(1), train.EvalTotals.zero(3)))
step = parallel.compile(train.make_train_step(model, optimizer, loss_fn))
evaluate = parallel.compile(train.make_eval_step(model, loss_fn), donate=(2,))
for _ in range(3):
    state, logs = step(state, parallel.shard(batch), key)
    totals = evaluate(state, parallel.shard(batch), totals)
leaves = jax.tree.leaves((state, logs, totals))
assert all(leaf.sharding.device_set == set(jax.devices()) for leaf in leaves)
numbers = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
if rank == 0:
    print("NUMBERS", *(number.hex() for number in numbers))
"""


def run(processes, strategy):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SCRIPT]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(processes), port, strategy],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=180) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    line = next(line for line in outputs[0][0].splitlines() if line.startswith("NUMBERS"))
    return np.array([float.fromhex(number) for number in line.split()[1:]])


@pytest.fixture(scope="module")
def alone():
    return run(1, "jit")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
def test_two_processes_equal_one(alone, strategy):
    np.testing.assert_allclose(run(2, strategy), alone, rtol=0, atol=1e-9)
