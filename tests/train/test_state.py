"""A training state consists of copies, and knows its variables and their average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import train
from jaxseg.errors import InputError

VARIABLES = {
    "params": {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}},
    "batch_stats": {"norm": {"mean": jnp.zeros(2)}},
}


def test_create_state_holds_the_variables():
    state = train.create_state(VARIABLES, optax.adam(0.1))
    assert state.step == 0
    assert state.ema is None
    assert jax.tree.structure(state.variables) == jax.tree.structure(VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, state.variables, VARIABLES)


def test_state_without_batch_stats_omits_them():
    state = train.create_state({"params": VARIABLES["params"]}, optax.sgd(0.1))
    assert sorted(state.variables) == ["params"]


def test_create_state_copies_every_array():
    """Donating the state would delete arrays that share memory with it; donating a buffer twice is an error."""
    state = train.create_state(VARIABLES, optax.adam(0.1), ema=True)
    leaves = [*jax.tree.leaves(state), *jax.tree.leaves(VARIABLES)]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)
    run = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    assert run(state).step == 1
    assert not VARIABLES["params"]["conv"]["bias"].is_deleted()


def test_create_state_accepts_numpy_arrays():
    variables = jax.tree.map(np.asarray, VARIABLES)
    state = train.create_state(variables, optax.sgd(0.1))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


def test_ema_variables_hold_the_average():
    state = train.create_state(VARIABLES, optax.sgd(0.1), ema=True)
    state = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
    assert state.ema_variables["params"]["conv"]["bias"].tolist() == [0, 0]
    assert state.variables["params"]["conv"]["bias"].tolist() == [1, 1]
    assert state.ema_variables["batch_stats"] is state.batch_stats
    with pytest.raises(InputError, match="ema=True"):
        _ = state.replace(ema=None).ema_variables


def test_other_collections_raise_input_errors():
    with pytest.raises(InputError, match=r"\['cache', 'params'\]"):
        train.create_state({"params": {}, "cache": {}}, optax.sgd(0.1))
    with pytest.raises(InputError, match=r"\['kernel'\]"):
        train.create_state({"kernel": jnp.ones(2)}, optax.sgd(0.1))
