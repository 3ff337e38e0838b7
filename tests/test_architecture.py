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

BASE = {
    "typing",
    "errors",
    "collective",
    "ignored",
    "images",
    "imports",
    "plain_values",
    "registry",
    "tree_paths",
}
ARROWS = {
    "__init__": {"models", "recipe", "typing"},
    "typing": set(),
    "errors": set(),
    "ignored": {"typing"},
    "images": set(),
    "imports": set(),
    "plain_values": {"errors"},
    "registry": {"errors"},
    "tree_paths": {"errors"},
    "collective": {"typing"},
    "compiler": set(),
    "distance": {"typing", "errors"},
    "nn": BASE,
    "encoders": {*BASE, "nn"},
    "models": {*BASE, "nn", "encoders"},
    "losses": {*BASE, "nn.resize", "distance"},
    "metrics": {*BASE, "nn.resize", "distance"},
    "data": {*BASE, "nn.resize"},
    "inference": {*BASE, "nn", "compiler", "models.averaging", "data.normalization", "tasks"},
    "pretrained": {"typing", "errors", "images", "registry"},
    # Model, task, loss and optimizer are arguments; nn for its BatchNorm.
    "train": {*BASE, "compiler", "nn"},
    "parallel": {*BASE, "compiler"},
    "tasks": {*BASE, "models.averaging", "losses", "metrics", "data", "report"},
    "recipe": {"typing", "errors", "plain_values"},
    "report": {"typing", "errors", "metrics", "data"},
    "runs": ANYTHING,
    "cli": ANYTHING,
}

DOORS = {
    "orbax": ["runs/checkpoint.py"],
    "grain": ["data/host/"],
    "tensorflow_datasets": ["data/sources/", "data/builders/"],
    "albumentations": ["data/host/augment.py"],
    "matplotlib": ["report/"],
    "huggingface_hub": ["pretrained/hub.py"],
    "safetensors": ["pretrained/hub.py"],
    "rich": ["cli/", "runs/progress.py"],
    "tyro": ["cli/"],
    "tensorboardX": ["runs/log.py"],
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


def at_import(source, package):
    """Dotted names that a file imports when it is imported itself: what functions import later is left out."""
    tree = ast.parse(source)
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return imported("\n".join(ast.unparse(node) for node in kept), package)


def test_no_file_imports_itself_through_others():
    """The graph of imports at the top of files has no circle."""
    modules = {".".join(("jaxseg", *path.with_suffix("").parts)): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        package = ("jaxseg", *path.parts[:-1])
        found = set()
        for name in at_import((PACKAGE / path).read_text(), package):
            while name and name not in modules and f"{name}.__init__" not in modules:
                name = name.rpartition(".")[0]
            found.add(name)
        graph[module.removesuffix(".__init__")] = found - {module, module.removesuffix(".__init__")}
    done, active = set(), []

    def visit(module):
        assert module not in active, " -> ".join([*active[active.index(module) :], module])
        if module in done or module not in graph:
            return
        active.append(module)
        for other in graph[module]:
            if not module.startswith(f"{other}."):  # a file names its own package
                visit(other)
        active.pop()
        done.add(module)

    for module in graph:
        visit(module)


SEMANTIC = ("ConfusionMatrix", ".logits", '"label"', "mean_iou")
SEMANTIC_HOMES = (
    "tasks/",
    "losses/",
    "metrics/",
    "models/",
    "report/semantic.py",
    "report/matrix.py",
)
SEMANTIC_HOMES += ("report/tables.py", "report/plots.py", "data/targets.py")


def code_of(path):
    """A file's code without its docstrings and comments."""
    tree = ast.parse((PACKAGE / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
        if isinstance(node, ast.Module):  # descriptions of names
            node.body = [item for item in node.body if not isinstance(item, ast.Expr)]
    return ast.unparse(tree).replace("'", '"')


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_tasks_know_semantic_segmentation(path):
    if not path.as_posix().startswith(SEMANTIC_HOMES):
        assert [word for word in SEMANTIC if word in code_of(path)] == []


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
    path = Path("losses/weighted_sum.py")
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
for name in "collective compiler errors typing nn encoders models losses metrics parallel tasks train inference".split():
    getattr(jaxseg, name)
print(sorted(tops() - before - sys.stdlib_module_names - {"jaxseg"}))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_command_line_leaves_torch_and_the_hub_alone_where_they_are_installed(tmp_path):
    """albumentations would import both and tensorboardX the first, a second that nothing comes of."""
    (tmp_path / "torch.py").write_text("")
    script = (
        "import sys, jaxseg.runs, jaxseg.data.host.augment, jaxseg.runs.log; "
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
    assert jaxseg.parallel.Parallel
    assert {"models", "train", "losses", "create"} <= set(dir(jaxseg))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = jaxseg.tarin


def test_property_tests_do_not_fix_what_they_draw():
    """The profile in conftest.py does, unless `--hypothesis-seed` is given, which a setting of a test would override."""
    fixed = "derandomize" + "="
    files = PACKAGE.parent.joinpath("tests").rglob("*.py")
    assert [file.name for file in files if fixed in file.read_text(encoding="utf-8")] == []
