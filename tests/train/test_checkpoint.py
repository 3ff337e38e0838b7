"""A checkpoint is whole or absent, and says what differs when it does not fit."""

import os
import resource
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxseg.errors import InputError
from jaxseg.train.checkpoint import Checkpoint
from jaxseg.train.state import create_state


def _state(width: int = 3, value: float = 1.0):
    params = {"head": {"kernel": jnp.full((2, width), value), "bias": jnp.zeros(width)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return create_state(
        {"params": params, "batch_stats": {"norm": {"mean": jnp.ones(4)}}}, optimizer
    )


def test_a_state_comes_back_bit_for_bit_in_its_own_structure(tmp_path):
    state = _state(value=1 / 3)
    slot = Checkpoint(tmp_path / "last")
    slot.save(7, state, {"best": 0.1})
    restored, facts = slot.restore(jax.tree.map(jnp.zeros_like, state))
    chex.assert_trees_all_equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert facts == {"best": 0.1}
    assert slot.step == 7


def test_a_template_of_shapes_is_enough(tmp_path):
    slot = Checkpoint(tmp_path)
    slot.save(1, {"w": jnp.arange(3)}, {})
    restored, _ = slot.restore({"w": jax.ShapeDtypeStruct((3,), jnp.int32)})
    chex.assert_trees_all_equal(restored, {"w": jnp.arange(3)})


def test_only_the_newest_is_kept_and_none_is_written_before_it(tmp_path):
    slot = Checkpoint(tmp_path)
    for step in (1, 5):
        slot.save(step, {"w": jnp.full(2, step)}, {"step": step})
    assert [entry.name for entry in tmp_path.iterdir()] == ["5"]
    slot.save(5, {"w": jnp.zeros(2)}, {})  # a resumed run comes by again
    assert slot.restore({"w": jnp.zeros(2, jnp.int32)})[1] == {"step": 5}
    with pytest.raises(InputError, match="holds step 5, later than step 3"):
        slot.save(3, {"w": jnp.zeros(2)}, {})


def test_another_architecture_is_named_leaf_by_leaf(tmp_path):
    slot = Checkpoint(tmp_path)
    slot.save(1, _state(width=3).variables, {})
    template = _state(width=4).variables
    del template["batch_stats"]["norm"]
    template["params"]["extra"] = jnp.zeros(1)
    with pytest.raises(InputError) as caught:
        slot.restore(template)
    for part in (
        "only in the checkpoint: batch_stats/norm/mean",
        "missing in the checkpoint: params/extra",
        "params/head/kernel: (2, 3) in the checkpoint, (2, 4) in the model",
    ):
        assert part in str(caught.value)


def test_an_empty_slot(tmp_path):
    slot = Checkpoint(tmp_path / "none")
    assert slot.step is None
    with pytest.raises(InputError, match="no checkpoint in"):
        slot.restore({})


def test_a_truncated_array_is_reported_not_loaded(tmp_path):
    slot = Checkpoint(tmp_path)
    slot.save(1, {"w": jax.random.normal(jax.random.key(0), (64, 64))}, {})
    largest = max(
        (f for f in tmp_path.rglob("*") if f.is_file()), key=lambda file: file.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged"):
        slot.restore({"w": jnp.zeros((64, 64))})


def test_when_writing_fails_the_checkpoint_before_stays_loadable(tmp_path):
    """A limit on the size of files stands for the full disk: the system refuses to write on, as it would there."""
    program = textwrap.dedent(
        """
        import resource, sys
        import jax, jax.numpy as jnp
        from jaxseg.errors import InputError
        from jaxseg.train.checkpoint import Checkpoint
        slot = Checkpoint(sys.argv[1])
        slot.save(1, {"w": jnp.ones(4)}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            slot.save(2, {"w": jax.random.normal(jax.random.key(0), (300, 300))}, {})
        except InputError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert "cannot save the checkpoint of step 2" in done.stdout, done.stderr
    assert "that of step 1 is intact" in done.stdout
    slot = Checkpoint(tmp_path)
    assert slot.step == 1
    chex.assert_trees_all_equal(slot.restore({"w": jnp.zeros(4)})[0], {"w": jnp.ones(4)})
    slot.save(3, {"w": jnp.zeros(4)}, {})  # what the failure left behind is in nobody's way
    assert slot.step == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
