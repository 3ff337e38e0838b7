"""Traced programs that later runs read: the same numbers, and never those of anything else."""

import dataclasses
import os
import subprocess
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.cli import assemble, exports, programs
from jaxseg.cli.ahead import Ahead
from jaxseg.cli.exports import Exports
from jaxseg.cli.folder import Facts
from jaxseg.cli.programs import Programs
from jaxseg.cli.step import train_step
from jaxseg.recipe import ModelRecipe, OptimizerRecipe, Recipe, TrainRecipe
from jaxseg.train.checkpoint import Checkpoint
from jaxseg.train.log import read_rows
from jaxseg.train.parallel import Parallel
from jaxseg.train.state import create_state


def double(tree):
    return {"y": 2 * tree["x"]}


FACTS = Facts(
    num_classes=3,
    classes=("a", "b", "c"),
    palette=((0, 0, 0), (1, 0, 0), (0, 1, 0)),
    ignore_index=255,
    channels=3,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    image_size=(16, 20),
    train_images=18,
    steps_per_epoch=9,
    pretrained=None,
    environment={},
)
X = {"x": jnp.arange(3.0)}


def test_what_was_written_is_read(tmp_path):
    written = Exports(tmp_path / "new", "digest").write("double", double, X)
    read = Exports(tmp_path / "new", "digest").read("double")
    for program in (written, read):
        np.testing.assert_array_equal(program.call(X)["y"], [0, 2, 4])
    with pytest.raises(ValueError, match="structure"):
        read.call({"z": X["x"]})


def test_programs_of_other_identities_and_names_are_not_read(tmp_path):
    Exports(tmp_path, "digest").write("double", double, X)
    assert Exports(tmp_path, "digest").read("triple") is None
    assert Exports(tmp_path, "other").read("double") is None


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: b"", lambda c: c[:99] + b"\0" + c[100:]]
)
def test_a_torn_program_is_not_read(tmp_path, change):
    Exports(tmp_path, "digest").write("double", double, X)
    (path,) = tmp_path.iterdir()
    path.write_bytes(change(path.read_bytes()))
    assert Exports(tmp_path, "digest").read("double") is None


def test_what_calls_python_is_not_kept(tmp_path):
    def fn(tree):
        shape = jax.ShapeDtypeStruct(tree["x"].shape, tree["x"].dtype)
        return jax.pure_callback(np.sin, shape, tree["x"])

    assert Exports(tmp_path, "digest").write("sine", fn, X) is None
    assert not list(tmp_path.iterdir())


def test_errors_of_a_function_are_its_own(tmp_path):
    with pytest.raises(KeyError, match="z"):
        Exports(tmp_path, "digest").write("wrong", lambda tree: tree["z"], X)


def test_a_disk_that_takes_nothing_is_no_error(tmp_path):
    (tmp_path / "file").write_text("no folder can be made below a file")
    program = Exports(tmp_path / "file" / "folder", "digest").write("double", double, X)
    np.testing.assert_array_equal(program.call(X)["y"], [0, 2, 4])


def test_the_programs_that_were_read_last_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "_KEPT", 2)
    kept = Exports(tmp_path, "digest")
    for age, name in enumerate(("first", "second")):
        kept.write(name, double, X)
        os.utime(tmp_path / f"digest-{name}", (age, age))
    kept.read("first")
    kept.write("third", double, X)
    assert {path.name for path in tmp_path.iterdir()} == {"digest-first", "digest-third"}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The file of the only module that is loaded, in a folder where packages are installed."""
    file = tmp_path / "flax" / "module.py"
    for folder in (file.parent, tmp_path / "flax-1.0.dist-info"):
        folder.mkdir()
    file.write_text("x = 1")
    module = types.ModuleType("flax.module")
    module.__file__ = str(file)
    monkeypatch.setattr(exports, "_modules", lambda: {"flax.module": module, "sys": sys})
    monkeypatch.setattr(exports.site, "getsitepackages", lambda: [str(tmp_path)])
    return file


@pytest.fixture
def before(code):
    """What tells the programs of a recipe apart, before something changes."""
    digest = exports.digest("recipe")
    assert exports.digest("recipe") == digest
    return digest


def test_another_recipe_is_another_program(before):
    assert exports.digest("another") != before


def test_code_that_has_changed_makes_another_program(before, code):
    code.write_text("x = 12")
    assert exports.digest("recipe") != before


def test_code_of_another_time_makes_another_program(before, code):
    os.utime(code, ns=(0, code.stat().st_mtime_ns + 1))
    assert exports.digest("recipe") != before


@pytest.mark.parametrize("name", ["flax-1.0.dist-info", "flax-1.1.dist-info", "other.egg-info"])
def test_what_is_installed_anew_makes_another_program(before, tmp_path, name):
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / "RECORD").write_text("")
    assert exports.digest("recipe") != before


def test_what_jax_imports_when_it_needs_it_makes_no_difference(before, code, monkeypatch):
    modules = exports._modules() | {"scipy.linalg": types.ModuleType("scipy.linalg")}
    modules["scipy.linalg"].__file__ = str(code)
    monkeypatch.setattr(exports, "_modules", lambda: modules)
    assert exports.digest("recipe") == before


def test_another_configuration_makes_another_program(before):
    precision = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", "bfloat16")
    try:
        assert exports.digest("recipe") != before
    finally:
        jax.config.update("jax_default_matmul_precision", precision)


def test_nothing_is_kept_with_code_of_ones_own():
    """Such as this file."""
    assert exports.digest("recipe") is None


def run_parts():
    recipe = Recipe(
        model=ModelRecipe(name="original_unet_padded", options={"channels": (4, 6)}),
        optimizer=OptimizerRecipe(warmup=0.0),
        train=TrainRecipe(batch_size=2, ema_decay=0.5),
    )
    network = assemble.network(recipe.model, FACTS)
    return recipe, network, assemble.optimizer(recipe, assemble.learning_rate(recipe, 9))


def three_steps(kept, loading=None, slot=None):
    """The state and the logs of three steps, and whether the programs were kept before; `slot` has the state restored."""
    recipe, network, optimizer = run_parts()
    parallel = Parallel("jit", jax.devices()[:1])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 16, 20, 3), np.uint8)
    data = {"image": images, "label": rng.integers(0, 3, (2, 16, 20), np.uint8)}
    begin = Programs(recipe, FACTS, network, optimizer, kept, loading or {})
    step = parallel.compile(train_step(recipe, FACTS, network, optimizer))
    begin.prepare(step)
    state = parallel.take(create_state(begin.init(7), optimizer, ema=True))
    if slot is not None:
        slot.save(0, state, {})
        state, _ = slot.restore(state)
    key, logs = parallel.replicate(jax.random.key(1)), []
    for _ in range(3):
        given = jax.tree.leaves(state.params)
        state, log = step(state, parallel.shard(data), key)
        assert all(leaf.is_deleted() for leaf in given)  # its memory is the new one's
        logs.append(jax.device_get(log))
    return jax.device_get(state), logs, begin.are_kept


@pytest.fixture
def traces(monkeypatch):
    """The names of what was traced to be kept."""
    names, write = [], Exports.write
    monkeypatch.setattr(
        Exports, "write", lambda self, name, *args: names.append(name) or write(self, name, *args)
    )
    return names


def test_a_run_with_programs_that_are_read_is_the_run_that_traced_them(tmp_path, traces):
    """State and logs to the last bit, also where it goes on from a checkpoint; and the run that keeps nothing."""
    *first, were_kept = three_steps(Exports(tmp_path, "digest"))
    assert not were_kept
    assert sorted(traces) == ["init", "step"]
    *second, were_kept = three_steps(Exports(tmp_path, "digest"))
    assert were_kept
    *resumed, _ = three_steps(Exports(tmp_path, "digest"), slot=Checkpoint(tmp_path / "slot"))
    *third, were_kept = three_steps(None)
    assert not were_kept
    assert len(traces) == 2
    for other in (second, resumed, third):
        chex.assert_trees_all_equal(first, other)
    assert float(first[1][0]["loss"]) != float(first[1][2]["loss"])


def test_what_cannot_be_exported_is_compiled_as_it_is(tmp_path, monkeypatch):
    *first, _ = three_steps(None)
    monkeypatch.setattr(Exports, "write", lambda *_: None)
    *second, were_kept = three_steps(Exports(tmp_path, "digest"))
    assert not were_kept
    chex.assert_trees_all_equal(first, second)


@pytest.fixture
def cache_in():
    """Sets where JAX keeps what it compiles."""
    name = "jax_compilation_cache_dir"
    before = jax.config.values[name]
    yield lambda folder: jax.config.update(name, folder)
    jax.config.update(name, before)


@pytest.mark.parametrize(
    ("cut_state", "strategy", "count", "folder", "kept"),
    [
        (False, "jit", 1, "/cache", True),
        (True, "jit", 1, "/cache", False),
        (False, "shard_map", 1, "/cache", False),
        (False, "jit", 2, "/cache", False),
        (False, "jit", 1, None, False),
        (False, "jit", 1, "gs://bucket/cache", False),
    ],
)
def test_programs_are_kept_for_one_device_on_a_disk(
    monkeypatch, cache_in, cut_state, strategy, count, folder, kept
):
    monkeypatch.setattr(exports, "digest", lambda identity: identity)
    cache_in(folder)
    recipe = Recipe(train=TrainRecipe(cut_state=cut_state))
    parallel = Parallel(strategy, jax.devices()[:count])
    assert (programs.find(recipe, FACTS, parallel, b"") is not None) == kept


def test_recipe_its_file_and_the_data_set_tell_programs_apart(monkeypatch, cache_in):
    """But not where and when a run was started."""
    monkeypatch.setattr(exports, "digest", lambda identity: identity)
    cache_in("/cache")
    parallel = Parallel("jit", jax.devices()[:1])
    elsewhere = dataclasses.replace(FACTS, environment={"command": "jaxseg train"})
    found = [
        programs.find(recipe, facts, parallel, code).digest
        for recipe, facts, code in (
            (Recipe(), FACTS, b""),
            (Recipe(), elsewhere, b""),
            (Recipe(optimizer=OptimizerRecipe(learning_rate=0.1)), FACTS, b""),
            (Recipe(), dataclasses.replace(FACTS, steps_per_epoch=8), b""),
            (Recipe(), FACTS, b"import jaxseg"),
        )
    ]
    assert found[0] == found[1]
    assert len(set(found[1:])) == 4


@pytest.fixture
def used(tmp_path, cache_in, code):
    """The programs that a recipe has used, which is noted."""
    cache_in(str(tmp_path))
    three_steps(used := Exports(tmp_path / "traced", "used"))
    assert Ahead("recipe").give(used) == {}
    return used


def test_a_recipe_loads_what_it_used_last_and_once(used, traces, monkeypatch):
    assert Ahead("another recipe").give(used) == {}
    loading = Ahead("recipe").give(used)
    assert sorted(loading) == ["init", "step"]
    with monkeypatch.context() as patch:
        patch.delattr(exports, "begin")
        *early, were_kept = three_steps(used, loading)
    assert were_kept
    assert traces == []
    *late, _ = three_steps(used)
    chex.assert_trees_all_equal(early, late)


def test_what_was_loaded_in_vain_is_left_and_the_right_one_is_noted(used):
    other = Exports(used._folder, "other")
    assert Ahead("recipe").give(other) == {}
    assert Ahead("recipe")._loading == {}  # there are no programs of it yet
    assert Ahead("recipe").give(used) == {}
    assert len(Ahead("recipe")._loading) == 2


def test_other_code_loads_nothing(used, code):
    code.write_text("x = 12")
    assert Ahead("recipe")._loading == {}


def test_nothing_loads_early_where_nothing_is_kept(cache_in, tmp_path):
    cache_in(None)
    assert Ahead("recipe").give(Exports(tmp_path, "digest")) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_second_run_traces_nothing_and_is_the_same(tmp_path):
    """Of the installed program; with another recipe file, or with code of one's own, it traces anew."""
    recipe = tmp_path / "recipe.py"
    text = (
        "from jaxseg.recipe import *\n"
        "from jax._src.xla_bridge import backends_are_initialized\n"
        "assert not backends_are_initialized(), 'a recipe may still say which devices there are'\n"
        "model = ModelRecipe(name='original_unet_padded', options={'channels': (4, 6)})\n"
        "data = DataRecipe(size=(16, 20), train_length=8, validation_length=4)\n"
        "recipe = Recipe(model=model, data=data, train=TrainRecipe(epochs=1, batch_size=4, log_every=1))\n"
    )
    recipe.write_text(text)
    (tmp_path / "own.py").write_text("")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "GLIBC_TUNABLES": ""}
    program = "from jaxseg.cli.main import program; program()"

    def run(name):
        command = [sys.executable, "-c", program, "train", str(recipe)]
        run = tmp_path / name
        subprocess.run([*command, "--run", str(run)], env=environment, cwd=tmp_path, check=True)
        traced = [path.name for path in (tmp_path / "cache").rglob("traced/*")]
        rows = [(row["loss"], row.get("gradient_norm")) for row in read_rows(run)]
        return rows, sorted(name.partition("-")[2] for name in traced)

    rows, names = run("first")
    assert names == ["init", "last", "step"]
    assert run("second") == (rows, names)
    recipe.write_text(f"{text}# changed\n")
    assert run("third") == (rows, sorted(2 * names))
    recipe.write_text(f"import own\n{text}")
    assert run("fourth") == (rows, sorted(2 * names))
