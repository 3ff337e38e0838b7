"""Compiled programs that later runs load: the same numbers, and never those of anything else."""

import dataclasses
import os
import shutil
import subprocess
import sys
import types

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.cli import assemble, kept, programs
from jaxseg.cli.ahead import Ahead
from jaxseg.cli.folder import Facts
from jaxseg.cli.kept import Kept
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


DEVICE = jax.devices()[0]


@pytest.fixture(scope="module")
def double_compiled():
    return jax.jit(double).lower(X).compile()


class Lowered:
    """What `Kept.compile` sees of a program of `jax.stages.Lowered`, and how often it was compiled."""

    def __init__(self, compiled, text="double", *, found=False):
        self.count, self._compiled, self._text, self._found = 0, compiled, text, found

    def as_text(self):
        return self._text

    def compile(self):
        self.count += 1
        jax.monitoring.record_event("/jax/compilation_cache/compile_requests_use_cache")
        if self._found:
            jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
        return self._compiled


def keep(folder, identity="recipe", surroundings="here"):
    return Kept(folder, surroundings, identity, DEVICE)


def written(place, name, lowered):
    """The program that `place` compiles and keeps."""
    program = place.compile(name, lowered)
    place.write()
    return program


@pytest.fixture
def lowered(double_compiled):
    return Lowered(double_compiled)


def test_what_was_compiled_is_read(tmp_path, lowered, double_compiled):
    assert written(keep(tmp_path / "new"), "double", lowered) is double_compiled
    program = keep(tmp_path / "new").read("double")()
    np.testing.assert_array_equal(program(X)["y"], [0, 2, 4])
    with pytest.raises(TypeError, match="pytree"):
        program({"z": X["x"]})


def test_programs_of_other_identities_surroundings_and_names_are_not_read(tmp_path, lowered):
    written(keep(tmp_path), "double", lowered)
    assert keep(tmp_path).read("triple") is None
    assert keep(tmp_path, "other").read("double") is None
    assert keep(tmp_path, surroundings="elsewhere").read("double") is None


def test_another_identity_loads_the_same_program(tmp_path, lowered):
    """Such as a recipe with another seed; but not in other surroundings, and not a program of another text or name."""
    written(keep(tmp_path), "double", lowered)
    program = written(keep(tmp_path, "seed 1"), "double", lowered)
    np.testing.assert_array_equal(program(X)["y"], [0, 2, 4])
    assert lowered.count == 1
    assert keep(tmp_path, "seed 1").read("double") is not None
    written(keep(tmp_path, surroundings="elsewhere"), "double", lowered)
    written(keep(tmp_path), "other", lowered)
    assert lowered.count == 3
    other = Lowered(program, "another text")
    written(keep(tmp_path), "double", other)
    assert other.count == 1


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: b"", lambda c: c[:99] + b"\0" + c[100:]]
)
def test_a_torn_program_is_not_read_but_compiled(tmp_path, lowered, change):
    written(keep(tmp_path), "double", lowered)
    for path in tmp_path.iterdir():
        path.write_bytes(change(path.read_bytes()))
    assert keep(tmp_path).read("double") is None
    written(keep(tmp_path), "double", lowered)
    assert lowered.count == 2
    assert keep(tmp_path).read("double") is not None


def test_a_program_that_its_device_refuses_is_none_and_compiled(tmp_path, lowered, monkeypatch):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: another driver")

    written(keep(tmp_path), "double", lowered)
    monkeypatch.setattr(kept.serialize_executable, "deserialize_and_load", refuse)
    assert keep(tmp_path).read("double")() is None
    written(keep(tmp_path), "double", lowered)
    assert lowered.count == 2


@pytest.mark.parametrize("call", [jax.pure_callback, jax.experimental.io_callback])
def test_what_calls_python_is_not_kept(tmp_path, call):
    def fn(tree):
        return call(np.sin, jax.ShapeDtypeStruct(tree["x"].shape, tree["x"].dtype), tree["x"])

    written(keep(tmp_path), "sine", Lowered(jax.jit(fn).lower(X).compile()))
    assert keep(tmp_path).read("sine") is None


def test_what_jax_has_loaded_is_not_kept(tmp_path, double_compiled):
    """XLA on a CPU would write it without its kernels, and a later run would fail in its first step."""
    written(keep(tmp_path), "double", Lowered(double_compiled, found=True))
    assert keep(tmp_path).read("double") is None


def test_a_disk_that_takes_nothing_is_no_error(tmp_path, lowered, double_compiled):
    (tmp_path / "file").write_text("no folder can be made below a file")
    nowhere = keep(tmp_path / "file" / "folder")
    assert written(nowhere, "double", lowered) is double_compiled
    assert nowhere.read("double") is None


def test_the_programs_that_were_read_last_stay(tmp_path, double_compiled, monkeypatch):
    monkeypatch.setattr(kept, "_KEPT", 4)
    for age, name in enumerate(("first", "second")):
        written(keep(tmp_path), name, Lowered(double_compiled, name))
        for path in tmp_path.iterdir():
            os.utime(path, (age, age))
    keep(tmp_path).read("first")
    written(keep(tmp_path), "third", Lowered(double_compiled, "third"))
    found = [keep(tmp_path).read(name) is not None for name in ("first", "second", "third")]
    assert found == [True, False, True]


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The only module that is loaded, in a file of a folder where packages are installed."""
    file = tmp_path / "module.py"
    file.write_text("x = 1")
    module = types.ModuleType("module")
    module.__file__ = str(file)
    monkeypatch.setattr(kept, "_modules", lambda: [module, sys])
    monkeypatch.setattr(kept.site, "getsitepackages", lambda: [str(tmp_path)])
    return file


def same(before):
    return kept.fingerprint(DEVICE) == before


@pytest.fixture
def before(code):
    """What is around the programs, before it changes."""
    fingerprint = kept.fingerprint(DEVICE)
    assert same(fingerprint)
    return fingerprint


def test_code_that_has_changed_makes_another_program(before, code):
    code.write_text("x = 12")
    assert not same(before)


def test_code_of_another_time_makes_another_program(before, code):
    os.utime(code, ns=(0, code.stat().st_mtime_ns + 1))
    assert not same(before)


def test_another_configuration_makes_another_program(before):
    precision = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", "bfloat16")
    try:
        assert not same(before)
    finally:
        jax.config.update("jax_default_matmul_precision", precision)


@pytest.mark.parametrize("flag", ["XLA_FLAGS", "LIBTPU_INIT_ARGS"])
def test_other_flags_make_another_program(before, monkeypatch, flag):
    monkeypatch.setenv(flag, "--xla_something")
    assert not same(before)


def test_another_processor_makes_another_program(before, monkeypatch):
    monkeypatch.setattr(kept, "processor", lambda: "another")
    assert not same(before)


def test_another_device_makes_another_program(before):
    assert kept.fingerprint(jax.devices()[1]) != before


def test_nothing_is_kept_with_code_of_ones_own():
    """Such as this file."""
    assert kept.fingerprint(DEVICE) is None


def run_parts(channels):
    """`channels` have the programs differ from those of other tests, which JAX has kept."""
    recipe = Recipe(
        model=ModelRecipe(name="original_unet_padded", options={"channels": channels}),
        optimizer=OptimizerRecipe(warmup=0.0),
        train=TrainRecipe(batch_size=2, ema_decay=0.5),
    )
    network = assemble.network(recipe.model, FACTS)
    return recipe, network, assemble.optimizer(recipe, assemble.learning_rate(recipe, 9))


def batch_of(parallel):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 16, 20, 3), np.uint8)
    return parallel.shard({"image": images, "label": rng.integers(0, 3, (2, 16, 20), np.uint8)})


@pytest.fixture
def _at_once(monkeypatch):
    """What is kept in the background is there when `keep` returns."""
    monkeypatch.setattr(programs, "in_background", lambda fn: fn())


def three_steps(kept_in, channels, slot=None):
    """The state and the logs of three steps, and whether the programs were kept before; `slot` has the state restored."""
    recipe, network, optimizer = run_parts(channels)
    parallel = Parallel("jit", [DEVICE])
    begin = Programs(recipe, FACTS, network, optimizer, kept_in)
    step = parallel.compile(train_step(recipe, FACTS, network, optimizer))
    begin.prepare(step)
    state, key = parallel.take(begin.draw(7)), parallel.replicate(jax.random.key(1))
    if slot is not None:
        slot.save(0, state, {})
        state, _ = slot.restore(state)
    logs = []
    for _ in range(3):
        state, log = step(state, batch_of(parallel), key)
        logs.append(jax.device_get(log))
    begin.keep()
    return jax.device_get(state), logs, begin.are_kept


@pytest.mark.usefixtures("_at_once")
def test_a_run_with_programs_that_are_loaded_is_the_run_that_compiled_them(tmp_path, compiled):
    """State and logs to the last bit, also where it goes on from a checkpoint; and the run that keeps nothing."""
    *first, was_kept = three_steps(keep(tmp_path), (4, 6))
    assert not was_kept
    count = compiled("train_step")
    *second, was_kept = three_steps(keep(tmp_path), (4, 6))
    assert was_kept
    assert compiled("train_step") == count
    *resumed, _ = three_steps(keep(tmp_path), (4, 6), Checkpoint(tmp_path / "slot"))
    assert compiled("train_step") == count
    *third, was_kept = three_steps(None, (4, 6))
    assert not was_kept
    assert compiled("train_step") > count
    chex.assert_trees_all_equal(first, resumed)
    chex.assert_trees_all_equal(first, second)
    chex.assert_trees_all_equal(first, third)
    assert float(first[1][0]["loss"]) != float(first[1][2]["loss"])


@pytest.mark.usefixtures("_at_once")
def test_what_cannot_be_loaded_is_compiled(tmp_path, monkeypatch):
    *first, _ = three_steps(keep(tmp_path), (4, 7))
    monkeypatch.setattr(kept, "_load", lambda *_: None)
    *second, was_kept = three_steps(keep(tmp_path), (4, 7))
    assert was_kept
    chex.assert_trees_all_equal(first, second)


def test_the_state_is_that_of_the_variables(tmp_path):
    """Drawn by one program, it is what `create_state` makes of them, in memory of its own."""
    recipe, network, optimizer = run_parts((4, 6))
    state = Programs(recipe, FACTS, network, optimizer, None).draw(7)
    chex.assert_trees_all_equal(
        state, create_state(network.init(jax.random.key(7)), optimizer, ema=True)
    )
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(places)) == len(places)


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
    monkeypatch.setattr(programs.kept_programs, "fingerprint", lambda device: "here")
    cache_in(folder)
    recipe = Recipe(train=TrainRecipe(cut_state=cut_state))
    parallel = Parallel(strategy, jax.devices()[:count])
    assert (programs.find(recipe, FACTS, parallel, b"") is not None) == kept


def test_recipe_its_file_and_the_data_set_tell_programs_apart(monkeypatch, cache_in):
    """But not where and when a run was started."""
    monkeypatch.setattr(programs.kept_programs, "fingerprint", lambda device: "here")
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
def runs(tmp_path, cache_in, code, lowered):
    """The folder of kept programs, with a step that a command has used."""
    cache_in(str(tmp_path))
    written(keep(tmp_path / "runs"), "step", lowered)
    Ahead("command").give(keep(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def loads(monkeypatch):
    """What has been loaded so far."""
    loads, load = [], kept._load
    monkeypatch.setattr(kept, "_load", lambda *args: loads.append(args) or load(*args))
    return loads


def test_a_command_loads_what_it_used_last_once(runs, loads):
    Ahead("another command")
    ahead, again = Ahead("command"), keep(runs)
    ahead.give(again)
    program = again.read("step")()
    assert again.read("step")() is program
    np.testing.assert_array_equal(program(X)["y"], [0, 2, 4])
    assert len(loads) == 1
    ahead.give(third := keep(runs))
    assert third.read("step")() is not program  # what was loading belongs to one


def test_what_was_loaded_in_vain_is_left_and_the_right_one_is_noted(runs, loads, double_compiled):
    right = keep(runs, "right")
    written(right, "step", Lowered(double_compiled, "another text"))
    Ahead("command").give(right)
    assert right.read("step")() is not right.read("step")()
    del loads[:]
    Ahead("command").give(right)
    assert right.read("step")() is right.read("step")()
    assert len(loads) == 1


def test_another_jax_or_processor_loads_nothing(runs, loads, code, monkeypatch):
    """Whose programs might end the process before it is known that they are not the right ones."""
    with monkeypatch.context() as patch:
        patch.setattr(kept, "processor", lambda: "another")
        Ahead("command")
    code.write_text("x = 12")
    Ahead("command").give(keep(runs))
    assert loads == []


def test_nothing_loads_early_where_nothing_is_kept(cache_in):
    cache_in(None)
    Ahead("command").give(keep("nowhere"))


@pytest.mark.slow
def test_a_second_run_compiles_nothing_and_is_the_same(tmp_path):
    """Of the installed program; with another recipe file, or with code of one's own, it compiles anew."""
    recipe = tmp_path / "recipe.py"
    text = (
        "from jaxseg.recipe import *\n"
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
        files = [path.name for path in (tmp_path / "cache").rglob("runs/*")]
        rows = [(row["loss"], row.get("gradient_norm")) for row in read_rows(run)]
        return rows, sorted(name.partition("-")[2] or "program" for name in files)

    rows, names = run("first")
    assert names == ["last", "program", "program", "state", "step"]
    assert run("second") == (rows, names)
    recipe.write_text(f"{text}# changed\n")
    names = ["last", "program", "program", "state", "state", "step", "step"]
    assert run("third") == run("fourth") == (rows, names)
    shutil.rmtree(next((tmp_path / "cache").rglob("runs")))  # but JAX still has them
    assert run("fifth") == run("sixth") == (rows, ["last", "state", "step"])
    recipe.write_text(text.replace("epochs=1", "epochs=1, ema_decay=0.5"))
    rows, names = run("seventh")
    assert names == ["last", "program", "program", "state", "state", "step", "step"]
    recipe.write_text(f"import own\n{recipe.read_text()}")
    assert run("eighth") == (rows, names)
