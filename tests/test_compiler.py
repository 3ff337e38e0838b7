"""Compiler options apply to CPUs where XLA knows them, and the garbage collector is restored."""

import gc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import compiler


@pytest.fixture(autouse=True)
def _clear_cache():
    compiler.options.cache_clear()
    yield
    compiler.options.cache_clear()


def test_options_of_accelerators_are_none():
    assert compiler.options("gpu") is None
    assert compiler.options("tpu") is None


def test_options_unknown_to_xla_are_omitted(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU_OPTIONS", {"xla_no_such_option": ""})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiler.options("cpu") is None
        assert compiler.jit(lambda x: 2 * x)(jnp.float32(2)) == 4


def test_options_reach_the_compiler(monkeypatch):
    """An unknown option raises once the check of options is bypassed."""
    monkeypatch.setattr(compiler, "options", lambda platform: {"xla_no_such_option": ""})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        compiler.jit(lambda x: 2 * x)(jnp.float32(2))


def test_jit_passes_keyword_arguments_on():
    state = jnp.zeros(4)
    step = compiler.jit(
        lambda state, flag: state + (1 if flag else 0), static_argnums=1, donate_argnums=0
    )
    np.testing.assert_array_equal(step(state, True), np.ones(4))
    assert state.is_deleted()


def test_gc_disabled_restores_the_collector():
    assert gc.isenabled()
    seen = []
    with pytest.raises(ZeroDivisionError), compiler.gc_disabled():
        jax.eval_shape(lambda: seen.append(gc.isenabled()) or 1 // 0)
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        with compiler.gc_disabled():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
