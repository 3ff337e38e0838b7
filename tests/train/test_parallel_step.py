import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.train import Parallel, fully_sharded


def add(state, batch, key):
    total = collective.psum(batch["image"].sum())
    return jax.tree.map(lambda leaf: leaf + total, state), jax.random.bits(key)


STATE = {"a": np.ones(8, np.float32), "b": np.ones((), np.float32)}
BATCH = {"image": np.ones((4, 4, 5), np.float32)}
PARALLEL = {
    "one device": lambda: Parallel("jit", jax.devices()[:1]),
    "jit": lambda: Parallel("jit", jax.devices()[:2]),
    "cut": lambda: Parallel("jit", jax.devices()[:4], bands=2, layout=fully_sharded(minimum=1)),
    "shard_map": lambda: Parallel("shard_map", jax.devices()[:2]),
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def called(parallel, step):
    arguments = parallel.replicate(STATE), parallel.shard(BATCH), parallel.replicate(KEY)
    return jax.device_get(step(*arguments)[0])


KEY = jax.random.key(0)


@pytest.mark.parametrize("parallel", PARALLEL.values(), ids=PARALLEL)
def test_what_is_prepared_is_not_compiled_again(parallel, compiled):
    parallel = parallel()
    step = parallel.compile(add)
    called(parallel, lambda *arguments: [arguments[0]])  # the programs that place arguments
    step.prepare(shapes(STATE), shapes(BATCH), jax.eval_shape(lambda: KEY))
    state = called(parallel, step)
    assert compiled("add") == 1
    jax.tree.map(lambda got: np.testing.assert_array_equal(got, np.full_like(got, 81)), state)
    called(parallel, step)
    assert compiled("add") == 1


def test_pmap_compiles_when_it_is_called(compiled):
    parallel = Parallel("pmap", jax.devices()[:2])
    step = parallel.compile(add)
    called(parallel, lambda *arguments: [arguments[0]])
    step.prepare(shapes(STATE), shapes(BATCH), KEY)
    assert compiled("add") == 0
    assert called(parallel, step)["b"] == step.fn(STATE, BATCH, KEY)[0]["b"] == 81


def test_other_arguments_compile_anew():
    parallel = PARALLEL["jit"]()
    step = parallel.compile(add)
    step.prepare(STATE, {"image": np.ones((2, 4, 5), np.float32)}, KEY)
    assert called(parallel, step)["b"] == 81


def test_what_a_trace_refuses_is_said_at_once():
    def refuse(state, batch):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        PARALLEL["jit"]().compile(refuse).prepare(STATE, BATCH)


def test_what_cannot_be_compiled_fails_when_it_is_called(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no room")

    parallel = PARALLEL["jit"]()
    step = parallel.compile(lambda state, batch: jnp.sin(state) + batch["image"].sum())
    arguments = parallel.replicate(np.ones(3, np.float32)), parallel.shard(BATCH)
    monkeypatch.setattr("jax._src.compiler.backend_compile_and_load", fail)
    step.prepare(*arguments)
    with pytest.raises(RuntimeError, match="no room"):
        step(*arguments)
    monkeypatch.undo()
    np.testing.assert_allclose(step(*arguments), np.sin(1) + 80, rtol=1e-6)


def test_what_comes_from_elsewhere_is_called_and_nothing_compiles(compiled):
    def own(state, batch, key):  # no other test has compiled it
        return add(state, batch, key)

    parallel = PARALLEL["one device"]()
    step = parallel.compile(own)
    called(parallel, lambda *arguments: [arguments[0]])
    step.use(lambda: lambda state, batch, key: ("elsewhere", key), 3)
    assert called(parallel, step) == called(parallel, step) == "elsewhere"
    assert compiled("own") == 0


def test_what_cannot_come_fails_when_it_is_called():
    def fail():
        raise RuntimeError("no room")

    parallel = PARALLEL["one device"]()
    step = parallel.compile(add)
    step.use(fail, 3)
    with pytest.raises(RuntimeError, match="no room"):
        called(parallel, step)


def test_is_named_as_its_function():
    assert PARALLEL["jit"]().compile(add).__name__ == "add"
