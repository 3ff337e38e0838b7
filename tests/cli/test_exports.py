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
from jaxseg.cli.exports import Exports
from jaxseg.cli.folder import Facts
from jaxseg.cli.programs import Programs
from jaxseg.cli.step import described
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
    """The only module that is loaded, in a file of a folder where packages are installed."""
    file = tmp_path / "module.py"
    file.write_text("x = 1")
    module = types.ModuleType("module")
    module.__file__ = str(file)
    monkeypatch.setattr(exports, "_modules", lambda: [module, sys])
    monkeypatch.setattr(exports.site, "getsitepackages", lambda: [str(tmp_path)])
    return file


def find(tmp_path, identity="recipe"):
    """Whether the program that was written first is found."""
    return exports.find(tmp_path / "traced", identity).read("double") is not None


@pytest.fixture
def written(tmp_path, code):
    exports.find(tmp_path / "traced", "recipe").write("double", double, X)
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


def test_nothing_is_kept_with_code_of_ones_own(tmp_path):
    """Such as this file."""
    assert exports.find(tmp_path, "recipe") is None


def run_parts():
    recipe = Recipe(
        model=ModelRecipe(name="original_unet_padded", options={"channels": (4, 6)}),
        optimizer=OptimizerRecipe(warmup=0.0),
        train=TrainRecipe(batch_size=2, ema_decay=0.5),
    )
    network = assemble.network(recipe.model, FACTS)
    return recipe, network, assemble.optimizer(recipe, assemble.learning_rate(recipe, 9))


def test_a_run_with_programs_that_are_read_is_the_run_that_traced_them(tmp_path):
    """Variables and three steps, to the last bit; and the run that keeps nothing."""
    recipe, network, optimizer = run_parts()
    parallel = Parallel("jit", jax.devices()[:1])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 16, 20, 3), np.uint8)
    data = {"image": images, "label": rng.integers(0, 3, (2, 16, 20), np.uint8)}
    seen = []
    for kept in (Exports(tmp_path, "digest"), Exports(tmp_path, "digest"), None):
        begin = Programs(recipe, FACTS, network, optimizer, kept)
        assert begin.are_kept == (len(seen) == 1)
        fn, args = begin.step()
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x: (x.shape, str(x.dtype)), args),
            jax.tree.map(
                lambda x: (x.shape, str(x.dtype)),
                described(recipe, FACTS, network.shapes(), optimizer),
            ),
        )
        step = parallel.compile(fn)
        step.prepare(*args)
        state = create_state(begin.init()(jax.random.key(0)), optimizer, ema=True)
        state, key = parallel.replicate(state), parallel.replicate(jax.random.key(1))
        logs = []
        for _ in range(3):
            state, log = step(state, parallel.shard(data), key)
            logs.append(log)
        seen.append((state, logs))
    chex.assert_trees_all_equal(seen[0], seen[1])
    chex.assert_trees_all_equal(seen[0], seen[2])
    assert float(seen[0][1][0]["loss"]) != float(seen[0][1][2]["loss"])


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
    monkeypatch.setattr(programs.exports, "find", lambda folder, identity: folder)
    cache_in(folder)
    recipe = Recipe(train=TrainRecipe(cut_state=cut_state))
    parallel = Parallel(strategy, jax.devices()[:count])
    assert (programs.find(recipe, FACTS, parallel, b"") is not None) == kept


def test_recipe_its_file_and_the_data_set_tell_programs_apart(monkeypatch, cache_in):
    """But not where and when a run was started."""
    monkeypatch.setattr(programs.exports, "find", lambda folder, identity: identity)
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


@pytest.mark.slow
def test_a_second_run_traces_nothing_and_is_the_same(tmp_path):
    """Of the installed program; with another recipe file, or with code of one's own, it traces anew."""
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
        traced = {path.name for path in (tmp_path / "cache").rglob("traced/*")}
        return [(row["loss"], row.get("gradient_norm")) for row in read_rows(run)], traced

    rows, traced = run("first")
    assert len(traced) == 2
    assert run("second") == (rows, traced)
    recipe.write_text(f"{text}# changed\n")
    assert len(run("third")[1]) == 4
    recipe.write_text(f"import own\n{text}")
    assert len(run("fourth")[1]) == 4
