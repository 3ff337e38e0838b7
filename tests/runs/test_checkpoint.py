"""A checkpoint is complete or absent, and names the differences to a template that does not fit."""

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
import time

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

from jaxseg.errors import InputError
from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.train.state import create_state


def _state(width: int = 3, value: float = 1.0):
    params = {"head": {"kernel": jnp.full((2, width), value), "bias": jnp.zeros(width)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return create_state(
        {"params": params, "batch_stats": {"norm": {"mean": jnp.ones(4)}}}, optimizer
    )


def test_restore_returns_the_state_bit_for_bit(tmp_path):
    state = _state(value=1 / 3)
    slot = Checkpoint(tmp_path / "last")
    slot.save(7, state, {"best": 0.1})
    restored, metadata = slot.restore(jax.tree.map(jnp.zeros_like, state))
    chex.assert_trees_all_equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert metadata == {"best": 0.1}
    assert slot.step == 7


def test_restore_accepts_a_template_of_shapes(tmp_path):
    slot = Checkpoint(tmp_path)
    slot.save(1, {"w": jnp.arange(3)}, {})
    restored, _ = slot.restore({"w": jax.ShapeDtypeStruct((3,), jnp.int32)})
    chex.assert_trees_all_equal(restored, {"w": jnp.arange(3)})


def test_save_keeps_the_newest_versions(tmp_path):
    slot = Checkpoint(tmp_path, keep=2)
    for step in (1, 5, 7):
        slot.save(step, {"w": jnp.full(2, step)}, {"step": step})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["5", "7"]
    slot.save(7, {"w": jnp.zeros(2)}, {})  # by a resumed run: the stored version stays
    assert slot.restore({"w": jnp.zeros(2, jnp.int32)})[1] == {"step": 7}
    slot.save(6, {"w": jnp.full(2, 6)}, {"step": 6})  # after falling back to step 5
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["5", "6"]


def test_restore_names_every_differing_leaf(tmp_path):
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


def test_restore_without_a_version_raises(tmp_path):
    slot = Checkpoint(tmp_path / "none")
    assert slot.step is None
    with pytest.raises(InputError, match="no checkpoint in"):
        slot.restore({})


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FAULTS = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "flipped": _flip,
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_to_any_file_falls_back_to_the_version_before(tmp_path, caplog, fault):
    weights = jax.random.normal(jax.random.key(0), (64, 64))
    Checkpoint(tmp_path).save(1, {"w": weights}, {})
    intact = tmp_path / "intact"
    shutil.copytree(tmp_path / "1", intact)
    names = [p.relative_to(intact) for p in intact.rglob("*") if p.is_file() and p.stat().st_size]
    assert len(names) > 5
    slot = Checkpoint(tmp_path, keep=2)
    for name in names:
        slot.save(1, {"w": weights}, {"step": 1})
        shutil.rmtree(tmp_path / "2", ignore_errors=True)
        shutil.copytree(intact, tmp_path / "2")
        FAULTS[fault](tmp_path / "2" / name)
        caplog.clear()
        tree, _ = slot.restore({"w": jnp.zeros((64, 64))})
        chex.assert_trees_all_equal(tree, {"w": weights})
        assert "the checkpoint of step 2" in caplog.text
        assert "falling back to that of step 1" in caplog.text
    slot.save(2, {"w": 2 * weights}, {})  # the damaged version is replaced
    chex.assert_trees_all_equal(slot.restore({"w": weights})[0], {"w": 2 * weights})


def test_restore_with_damaged_versions_alone_raises(tmp_path):
    slot = Checkpoint(tmp_path)
    slot.save(1, {"w": jnp.ones(3)}, {})
    FAULTS["truncated"](tmp_path / "1" / "metadata.json")
    with pytest.raises(InputError, match=r"damaged and there is no other: step 1: metadata.json"):
        slot.restore({"w": jnp.zeros(3)})


def test_save_verifies_before_it_removes_the_old_version(tmp_path, monkeypatch):
    """Reading back finds bits that the disk has changed."""
    slot = Checkpoint(tmp_path)
    slot.save(1, {"w": jnp.ones(3)}, {})
    write = ocp.Checkpointer.save

    def corrupt(self, path, *, args):
        args.item["w"] = args.item["w"] + 1
        write(self, path, args=args)

    monkeypatch.setattr(ocp.Checkpointer, "save", corrupt)
    with pytest.raises(InputError, match="of step 1 is intact: w is not what was written"):
        slot.save(2, {"w": jnp.ones(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    slot = Checkpoint(tmp_path)
    slot.save(1, {"w": jnp.ones(3)}, {})
    shutil.copytree(tmp_path / "1", tmp_path / "2.unfinished")
    shutil.copytree(tmp_path / "1", tmp_path / "0.removed")
    assert slot.steps == (1,)
    slot.save(2, {"w": jnp.ones(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_save_into_a_removed_folder_raises(tmp_path):
    slot = Checkpoint(tmp_path / "run" / "last")
    (tmp_path / "run").mkdir()
    slot.save(1, {"w": jnp.ones(3)}, {})
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError, match=r"step 2 in .*there was none before.*No such file"):
        slot.save(2, {"w": jnp.ones(3)}, {})
    assert not (tmp_path / "run").exists()


SAVES = """
import sys, jax
from jaxseg.runs.checkpoint import Checkpoint
slot = Checkpoint(sys.argv[1], keep=2)
step = slot.step or 0
size = int(sys.argv[2])
while True:
    step += 1
    slot.save(step, {"w": jax.random.normal(jax.random.key(step), (size,))}, {"step": step})
    print("saved", flush=True)
"""


def _numbers(step, size):
    return {"w": jax.random.normal(jax.random.key(step), (size,))}


def _check_newest(folder, size=10_000):
    tree, metadata = Checkpoint(folder).restore({"w": jnp.zeros(size)})
    chex.assert_trees_all_equal(tree, _numbers(metadata["step"], size))
    return metadata["step"]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_kill_during_a_save_leaves_an_intact_version(tmp_path, kills, caplog):
    rng, step = random.Random(0), 0
    for _ in range(kills):
        command = [sys.executable, "-c", SAVES, str(tmp_path), "10000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "saved\n"
            time.sleep(rng.random())
            process.kill()
        reached = _check_newest(tmp_path)
        assert reached > step
        step = reached
    assert not caplog.records  # complete or absent: no damage was found


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes; mounting it needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


# When a write fails, others end after Orbax has closed the event loop that waited for them.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)
def test_full_disk_leaves_an_intact_version(small_disk):
    """The disk is full before, during or after the arrays are written."""
    size, saved, failed = 100_000, 1, 0
    slot = Checkpoint(small_disk / "slot")
    slot.save(1, _numbers(1, size), {"step": 1})
    needed = 3_000_000 - shutil.disk_usage(small_disk).free
    filler = small_disk / "filler"
    for step, share in enumerate((2.0, 0.99, 0.98, 0.95, 0.5, 0.01, 0.0, 2.0), start=2):
        filler.write_bytes(b"")
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - int(share * needed))))
        with contextlib.suppress(InputError):
            slot.save(step, _numbers(step, size), {"step": step})
            saved = step
        failed += saved != step
        assert _check_newest(small_disk / "slot", size) == saved
    assert failed >= 4
    assert saved == step


@pytest.mark.sample(1)
def test_failed_write_leaves_an_intact_version(tmp_path):
    """A limit on the size of files replaces the full disk: writes fail in the same way."""
    program = textwrap.dedent(
        """
        import resource, sys
        import jax, jax.numpy as jnp
        from jaxseg.errors import InputError
        from jaxseg.runs.checkpoint import Checkpoint
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
    slot.save(3, {"w": jnp.zeros(4)}, {})  # leftovers of the failure do not matter
    assert slot.step == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
