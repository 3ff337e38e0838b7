"""Compiled programs that later runs load: the same numbers, and never those of anything else."""

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

from jaxseg.cli import assemble, kept, programs
from jaxseg.cli.ahead import Ahead
from jaxseg.cli.folder import Facts
from jaxseg.cli.kept import Kept
from jaxseg.cli.programs import Programs
from jaxseg.cli.step import train_step
from jaxseg.recipe import ModelRecipe, OptimizerRecipe, Recipe, TrainRecipe
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
def compiled_double():
    return jax.jit(double).lower(X).compile()


def keep(folder, digest="digest"):
    return Kept(folder, digest, DEVICE)


def test_what_was_written_is_read(tmp_path, compiled_double):
    keep(tmp_path / "new").write("double", compiled_double)
    program = keep(tmp_path / "new").read("double")()
    np.testing.assert_array_equal(program(X)["y"], [0, 2, 4])
    with pytest.raises(TypeError, match="pytree"):
        program({"z": X["x"]})


def test_programs_of_other_identities_and_names_are_not_read(tmp_path, compiled_double):
    keep(tmp_path).write("double", compiled_double)
    assert keep(tmp_path).read("triple") is None
    assert keep(tmp_path, "other").read("double") is None


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: b"", lambda c: c[:99] + b"\0" + c[100:]]
)
def test_a_torn_program_is_not_read(tmp_path, compiled_double, change):
    keep(tmp_path).write("double", compiled_double)
    (path,) = tmp_path.iterdir()
    path.write_bytes(change(path.read_bytes()))
    assert keep(tmp_path).read("double") is None


def test_a_program_that_its_device_refuses_is_none(tmp_path, compiled_double, monkeypatch):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: another driver")

    keep(tmp_path).write("double", compiled_double)
    monkeypatch.setattr(kept.serialize_executable, "deserialize_and_load", refuse)
    assert keep(tmp_path).read("double")() is None


@pytest.mark.parametrize("call", [jax.pure_callback, jax.experimental.io_callback])
def test_what_calls_python_is_not_kept(tmp_path, call):
    def fn(tree):
        return call(np.sin, jax.ShapeDtypeStruct(tree["x"].shape, tree["x"].dtype), tree["x"])

    keep(tmp_path).write("sine", jax.jit(fn).lower(X).compile())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_nothing_is_no_error(tmp_path, compiled_double):
    (tmp_path / "file").write_text("no folder can be made below a file")
    keep(tmp_path / "file" / "folder").write("double", compiled_double)
    assert keep(tmp_path / "file" / "folder").read("double") is None


def test_the_programs_that_were_read_last_stay(tmp_path, compiled_double, monkeypatch):
    monkeypatch.setattr(kept, "_KEPT", 2)
    for age, name in enumerate(("first", "second")):
        keep(tmp_path).write(name, compiled_double)
        os.utime(tmp_path / f"digest-{name}", (age, age))
    keep(tmp_path).read("first")
    keep(tmp_path).write("third", compiled_double)
    assert {path.name for path in tmp_path.iterdir()} == {"digest-first", "digest-third"}


def test_what_begins_early_is_loaded_once(tmp_path, compiled_double, monkeypatch):
    keep(tmp_path).write("double", compiled_double)
    loads, load = [], kept._load
    monkeypatch.setattr(kept, "_load", lambda *args: loads.append(args) or load(*args))
    early = keep(tmp_path)
    early.begin("double", "triple")
    programs_read = [early.read("double")() for _ in range(2)]
    np.testing.assert_array_equal(programs_read[0](X)["y"], [0, 2, 4])
    assert programs_read[0] is programs_read[1]
    assert len(loads) == 1
    assert early.read("triple") is None


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


def find(tmp_path, identity="recipe"):
    """Whether the program that was written first is found."""
    return kept.find(tmp_path / "runs", identity, DEVICE).read("double") is not None


@pytest.fixture
def written(tmp_path, code, compiled_double):
    kept.find(tmp_path / "runs", "recipe", DEVICE).write("double", compiled_double)
    assert find(tmp_path)


@pytest.mark.usefixtures("written")
def test_another_recipe_is_another_program(tmp_path):
    assert not find(tmp_path, "another")


@pytest.mark.usefixtures("written")
def test_code_that_has_changed_makes_another_program(tmp_path, code):
    code.write_text("x = 12")
    assert not find(tmp_path)


@pytest.mark.usefixtures("written")
def test_code_of_another_time_makes_another_program(tmp_path, code):
    os.utime(code, ns=(0, code.stat().st_mtime_ns + 1))
    assert not find(tmp_path)


@pytest.mark.usefixtures("written")
def test_another_configuration_makes_another_program(tmp_path):
    precision = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", "bfloat16")
    try:
        assert not find(tmp_path)
    finally:
        jax.config.update("jax_default_matmul_precision", precision)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("flag", ["XLA_FLAGS", "LIBTPU_INIT_ARGS"])
def test_other_flags_make_another_program(tmp_path, monkeypatch, flag):
    monkeypatch.setenv(flag, "--xla_something")
    assert not find(tmp_path)


@pytest.mark.usefixtures("written")
def test_another_processor_makes_another_program(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "processor", lambda: "another")
    assert not find(tmp_path)


@pytest.mark.usefixtures("written")
def test_another_device_makes_another_program(tmp_path):
    assert kept.find(tmp_path / "runs", "recipe", jax.devices()[1]).read("double") is None


def test_nothing_is_kept_with_code_of_ones_own(tmp_path):
    """Such as this file."""
    assert kept.find(tmp_path, "recipe", DEVICE) is None


def run_parts():
    recipe = Recipe(
        model=ModelRecipe(name="original_unet_padded", options={"channels": (4, 6)}),
        optimizer=OptimizerRecipe(warmup=0.0),
        train=TrainRecipe(batch_size=2, ema_decay=0.5),
    )
    network = assemble.network(recipe.model, FACTS)
    return recipe, network, assemble.optimizer(recipe, assemble.learning_rate(recipe, 9))


def batch_of(parallel):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 16, 20, 3), np.uint8)
    return parallel.shard({"image": images, "label": rng.integers(0, 3, (2, 16, 20), np.uint8)})


def three_steps(kept_in):
    """The state and the logs of three steps, and whether the programs were kept before."""
    recipe, network, optimizer = run_parts()
    parallel = Parallel("jit", [DEVICE])
    begin = Programs(recipe, FACTS, network, optimizer, kept_in)
    step = parallel.compile(train_step(recipe, FACTS, network, optimizer))
    begin.prepare(step)
    state, key = parallel.take(begin.draw(7)), parallel.replicate(jax.random.key(1))
    logs = []
    for _ in range(3):
        state, log = step(state, batch_of(parallel), key)
        logs.append(jax.device_get(log))
    return jax.device_get(state), logs, begin.are_kept


def test_a_run_with_programs_that_are_loaded_is_the_run_that_compiled_them(tmp_path, compiled):
    """State and logs to the last bit; and the run that keeps nothing."""
    *first, was_kept = three_steps(keep(tmp_path))
    assert not was_kept
    count = compiled("train_step")
    *second, was_kept = three_steps(keep(tmp_path))
    assert was_kept
    assert compiled("train_step") == count
    *third, was_kept = three_steps(None)
    assert not was_kept
    assert compiled("train_step") > count
    chex.assert_trees_all_equal(first, second)
    chex.assert_trees_all_equal(first, third)
    assert float(first[1][0]["loss"]) != float(first[1][2]["loss"])


def test_what_cannot_be_loaded_is_compiled(tmp_path, monkeypatch):
    *first, _ = three_steps(keep(tmp_path))
    monkeypatch.setattr(kept, "_load", lambda *_: None)
    *second, was_kept = three_steps(keep(tmp_path))
    assert was_kept
    chex.assert_trees_all_equal(first, second)


def test_the_state_is_that_of_the_variables(tmp_path):
    """Drawn by one program, it is what `create_state` makes of them, in memory of its own."""
    recipe, network, optimizer = run_parts()
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
    monkeypatch.setattr(programs.kept_programs, "find", lambda folder, *_: folder)
    cache_in(folder)
    recipe = Recipe(train=TrainRecipe(cut_state=cut_state))
    parallel = Parallel(strategy, jax.devices()[:count])
    assert (programs.find(recipe, FACTS, parallel, b"") is not None) == kept


def test_recipe_its_file_and_the_data_set_tell_programs_apart(monkeypatch, cache_in):
    """But not where and when a run was started."""
    monkeypatch.setattr(programs.kept_programs, "find", lambda folder, identity, device: identity)
    cache_in("/cache")
    parallel = Parallel("jit", jax.devices()[:1])
    elsewhere = dataclasses.replace(FACTS, environment={"command": "jaxseg train"})
    found = [
        programs.find(recipe, facts, parallel, code)
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
def folder(tmp_path, cache_in, code, compiled_double):
    """The folder of kept programs, with one that a command has used."""
    cache_in(str(tmp_path))
    keep(tmp_path / "runs", "used").write("step", compiled_double)
    Ahead("command").take(keep(tmp_path / "runs", "used"))
    return tmp_path / "runs"


def test_a_command_loads_what_it_used_last(folder, monkeypatch):
    begun = []
    monkeypatch.setattr(Kept, "begin", lambda self, *names: begun.append((self.digest, names)))
    ahead = Ahead("command")
    assert begun == [("used", ("state", "step"))]
    taken = ahead.take(keep(folder, "used"))
    assert taken is not ahead.take(keep(folder, "used"))  # what loads is taken once
    Ahead("another command")
    assert len(begun) == 1


def test_what_was_loaded_in_vain_is_left_and_the_right_one_is_noted(folder):
    right = keep(folder, "right")
    assert Ahead("command").take(right) is right
    again = Ahead("command")
    assert again.take(right) is not right
    assert again.take(right) is right


def test_another_jax_or_processor_loads_nothing(folder, code, monkeypatch):
    """Whose programs might end the process before it is known that they are not the right ones."""
    begun = []
    monkeypatch.setattr(Kept, "begin", lambda self, *names: begun.append(self.digest))
    monkeypatch.setattr(kept, "processor", lambda: "another")
    Ahead("command")
    monkeypatch.undo()
    code.write_text("x = 12")
    Ahead("command")
    assert begun == []


def test_nothing_loads_early_where_nothing_is_kept(cache_in):
    cache_in(None)
    here = keep("nowhere")
    assert Ahead("command").take(here) is here


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
        files = {path.name for path in (tmp_path / "cache").rglob("runs/*")}
        rows = [(row["loss"], row.get("gradient_norm")) for row in read_rows(run)]
        return rows, sorted(name.partition("-")[2] for name in files)

    rows, names = run("first")
    assert names == ["last", "state", "step"]
    assert run("second") == (rows, names)
    recipe.write_text(f"{text}# changed\n")
    names = ["last", "state", "state", "step", "step"]
    assert run("third") == (rows, names)
    recipe.write_text(f"import own\n{text}")
    assert run("fourth") == (rows, names)
