"""`Parallel.compile` compiles once, in the background where asked to, and reports errors where they belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.parallel import Parallel, fully_sharded


def add(state, batch, key):
    total = collective.psum(batch["image"].sum())
    return jax.tree.map(lambda leaf: leaf + total, state), jax.random.bits(key)


STATE = {"a": np.ones(8, np.float32), "b": np.ones((), np.float32)}
BATCH = {"image": np.ones((4, 4, 5), np.float32)}
PARALLEL = {
    "one device": lambda: Parallel("jit", jax.devices()[:1]),
    "jit": lambda: Parallel("jit", jax.devices()[:2]),
    "sharded": lambda: Parallel(
        "jit", jax.devices()[:4], spatial_shards=2, sharding_rule=fully_sharded(min_size=1)
    ),
    "shard_map": lambda: Parallel("shard_map", jax.devices()[:2]),
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def call(parallel, step):
    arguments = parallel.replicate(STATE), parallel.shard(BATCH), parallel.replicate(KEY)
    return jax.device_get(step(*arguments)[0])


KEY = jax.random.key(0)


@pytest.mark.parametrize("parallel", PARALLEL.values(), ids=PARALLEL)
def test_compile_in_background_compiles_once(parallel, compiled):
    parallel = parallel()
    step = parallel.compile(add)
    call(
        parallel, lambda *arguments: [arguments[0]]
    )  # compiles the programs that transfer arguments
    step.compile_in_background(shapes(STATE), shapes(BATCH), jax.eval_shape(lambda: KEY))
    state = call(parallel, step)
    assert compiled("add") == 1
    jax.tree.map(lambda got: np.testing.assert_array_equal(got, np.full_like(got, 81)), state)
    call(parallel, step)
    assert compiled("add") == 1


def test_compile_in_background_with_pmap_does_nothing(compiled):
    parallel = Parallel("pmap", jax.devices()[:2])
    step = parallel.compile(add)
    call(parallel, lambda *arguments: [arguments[0]])
    step.compile_in_background(shapes(STATE), shapes(BATCH), KEY)
    assert compiled("add") == 0
    assert call(parallel, step)["b"] == step.fn(STATE, BATCH, KEY)[0]["b"] == 81


def test_call_with_other_shapes_compiles_again():
    parallel = PARALLEL["jit"]()
    step = parallel.compile(add)
    step.compile_in_background(STATE, {"image": np.ones((2, 4, 5), np.float32)}, KEY)
    assert call(parallel, step)["b"] == 81


def test_compile_in_background_raises_errors_of_the_trace():
    def refuse(state, batch):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        PARALLEL["jit"]().compile(refuse).compile_in_background(STATE, BATCH)


def test_call_raises_errors_of_the_compiler(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    parallel = PARALLEL["jit"]()
    step = parallel.compile(lambda state, batch: jnp.sin(state) + batch["image"].sum())
    arguments = parallel.replicate(np.ones(3, np.float32)), parallel.shard(BATCH)
    monkeypatch.setattr("jax._src.compiler.backend_compile_and_load", fail)
    step.compile_in_background(*arguments)
    with pytest.raises(RuntimeError, match="out of memory"):
        step(*arguments)
    monkeypatch.undo()
    np.testing.assert_allclose(step(*arguments), np.sin(1) + 80, rtol=1e-6)


def test_compiled_step_has_the_name_of_its_function():
    assert PARALLEL["jit"]().compile(add).__name__ == "add"
