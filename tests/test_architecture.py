"""Who may import whom, and through which door heavy libraries come in: docs/design.md, section 2, "Arrows"."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxseg

PACKAGE = Path(jaxseg.__file__).parent
ANYTHING = None

BASE = {"typing", "errors", "collective", "imports"}
ARROWS = {
    "__init__": {"models", "recipe", "typing"},
    "typing": set(),
    "errors": set(),
    "imports": set(),
    "collective": {"typing"},
    "compiler": set(),
    "distance": {"typing", "errors"},
    "nn": BASE,
    "encoders": {*BASE, "nn"},
    "decoders": {*BASE, "nn"},
    "networks": {*BASE, "nn"},
    "models": {*BASE, "nn", "encoders", "decoders", "networks"},
    "classifiers": {*BASE, "nn", "encoders"},
    "losses": {*BASE, "nn.resize", "distance"},
    "metrics": {*BASE, "nn.resize", "distance"},
    "data": {*BASE, "nn.resize"},
    "inference": {*BASE, "nn.resize"},
    "pretrained": {"typing", "errors"},
    # Model, loss and optimizer are arguments; metrics for the totals of an evaluation, nn for its BatchNorm.
    "train": {*BASE, "compiler", "metrics", "nn"},
    "recipe": {"typing", "errors"},
    "report": {"typing", "errors", "metrics", "data"},
    "cli": ANYTHING,
}

DOORS = {
    "orbax": ["train/checkpoint.py"],
    "grain": ["data/"],
    "tensorflow_datasets": ["data/"],
    "albumentations": ["data/augment.py"],
    "matplotlib": ["report/"],
    "huggingface_hub": ["pretrained/hub.py"],
    "safetensors": ["pretrained/hub.py"],
    "rich": ["cli/"],
    "tyro": ["cli/"],
    "tensorboardX": ["train/log.py"],
    "tensorflow": [],
    "torch": [],
    "torchvision": [],
    "timm": [],
    "segmentation_models_pytorch": [],
}

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(path):
    return path.parts[0].removesuffix(".py")


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(source, package=("jaxseg",)):
    """Dotted names that a file imports anywhere, functions included; what is for type checkers alone is not."""
    names, nodes = [], [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names += [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        if not is_type_checking(node):
            nodes += ast.iter_child_nodes(node)
    return [str(name) for name in names]


def names_of(path):
    return imported((PACKAGE / path).read_text(), ("jaxseg", *path.parts[:-1]))


def forbidden(path, names):
    """The names of one file that no arrow allows."""
    home = room(path)
    allowed = ARROWS[home]
    wrong = []
    for name in names:
        parts = name.split(".")
        if parts[0] != "jaxseg" or len(parts) == 1 or allowed is ANYTHING:
            continue
        target, inner = parts[1], ".".join(parts[1:3])
        if target != home and target in ARROWS and target not in allowed and inner not in allowed:
            wrong.append(name)
    return wrong


def outside_doors(path, names):
    """The names of heavy libraries that this file is no door of."""
    return [
        name
        for name in names
        if (doors := DOORS.get(name.split(".")[0])) is not None
        and not any(path.as_posix().startswith(door) for door in doors)
    ]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_arrows_and_the_doors(path):
    assert room(path) in ARROWS, f"{room(path)} is a room that docs/design.md does not know"
    names = names_of(path)
    assert not forbidden(path, names)
    assert not outside_doors(path, names)


def test_nobody_imports_the_command_line_or_the_experiments():
    for path in FILES:
        for name in names_of(path):
            assert not name.startswith("experiments")
            assert room(path) == "cli" or not name.startswith("jaxseg.cli")


def test_pretrained_knows_names_and_shapes_not_flax():
    for path in FILES:
        if room(path) == "pretrained":
            assert not [name for name in names_of(path) if name.split(".")[0] == "flax"]


def test_the_reader_sees_what_it_should():
    source = """
import orbax.checkpoint as ocp
from jaxseg import nn, models
from ..nn.norm import BatchNorm
from . import state
if typing.TYPE_CHECKING:
    import torch
def late():
    import grain
    importlib.import_module("rich.progress")
"""
    names = imported(source, ("jaxseg", "losses"))
    assert sorted(names) == [
        "grain",
        "jaxseg.losses.state",
        "jaxseg.models",
        "jaxseg.nn",
        "jaxseg.nn.norm.BatchNorm",
        "orbax.checkpoint",
        "rich.progress",
    ]
    path = Path("losses/combine.py")
    assert sorted(forbidden(path, names)) == [
        "jaxseg.models",
        "jaxseg.nn",
        "jaxseg.nn.norm.BatchNorm",
    ]
    assert not forbidden(path, ["jaxseg.nn.resize.bilinear", "jaxseg.collective.psum"])
    assert sorted(outside_doors(path, names)) == ["grain", "orbax.checkpoint", "rich.progress"]
    assert not outside_doors(Path("cli/train.py"), ["rich.progress"])


def test_importing_brings_in_jax_flax_and_optax_and_nothing_else():
    """Neither the package nor the rooms that compute; in a fresh process, beside these three alone."""
    script = """
import sys
import jax, flax, flax.linen, optax
tops = lambda: {name.split(".")[0] for name in sys.modules}
before = tops()
import jaxseg
assert not [name for name in sys.modules if name.startswith("jaxseg.")], "rooms are loaded lazily"
for name in "collective compiler errors typing nn encoders decoders networks models classifiers losses metrics train inference".split():
    getattr(jaxseg, name)
print(sorted(tops() - before - sys.stdlib_module_names - {"jaxseg"}))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_the_command_line_leaves_torch_and_the_hub_alone_where_they_are_installed(tmp_path):
    """albumentations would import both and tensorboardX the first, a second that nothing comes of."""
    (tmp_path / "torch.py").write_text("")
    script = (
        "import sys, jaxseg.cli.training, jaxseg.data.augment, jaxseg.train.log; "
        "print('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"


def test_rooms_are_attributes_and_others_are_not():
    assert jaxseg.train.Parallel
    assert {"models", "train", "losses", "create"} <= set(dir(jaxseg))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = jaxseg.tarin


def test_property_tests_do_not_fix_what_they_draw():
    """The profile in conftest.py does, unless `--hypothesis-seed` is given, which a setting of a test would override."""
    fixed = "derandomize" + "="
    files = PACKAGE.parent.joinpath("tests").rglob("*.py")
    assert [file.name for file in files if fixed in file.read_text(encoding="utf-8")] == []
