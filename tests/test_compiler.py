import gc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import compiler


@pytest.fixture(autouse=True)
def _forget():
    compiler.options.cache_clear()
    yield
    compiler.options.cache_clear()


def test_options_are_for_cpus_alone():
    assert compiler.options("gpu") is None
    assert compiler.options("tpu") is None


def test_options_are_left_out_where_xla_does_not_know_them(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU_OPTIONS", {"xla_no_such_option": ""})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiler.options("cpu") is None
        assert compiler.jit(lambda x: 2 * x)(jnp.float32(2)) == 4


def test_options_reach_the_compiler(monkeypatch):
    """Seen by one that is refused, once the check is past."""
    monkeypatch.setattr(compiler, "options", lambda platform: {"xla_no_such_option": ""})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        compiler.jit(lambda x: 2 * x)(jnp.float32(2))


def test_arguments_are_those_of_jit():
    state = jnp.zeros(4)
    step = compiler.jit(
        lambda state, much: state + (1 if much else 0), static_argnums=1, donate_argnums=0
    )
    np.testing.assert_array_equal(step(state, True), np.ones(4))
    assert state.is_deleted()


def test_the_garbage_collector_is_as_it_was_after_a_trace():
    assert gc.isenabled()
    seen = []
    with pytest.raises(ZeroDivisionError), compiler.uncollected():
        jax.eval_shape(lambda: seen.append(gc.isenabled()) or 1 // 0)
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        with compiler.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
