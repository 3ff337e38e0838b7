"""Tests that the code of the README runs, that its tables are up to date, and that it is short."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxseg
from jaxseg.pretrained import hub

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments" / "readme")
    return importlib.import_module("tables")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """Replaces downloads by a file with the names and shapes of timm's ResNet-18."""
    encoder = jaxseg.encoders.resnet18()
    variables = encoder.init(jax.random.key(1), np.zeros((1, 32, 32, 3), np.float32))
    file = tmp_path / "model.safetensors"
    state_dict = jaxseg.pretrained.to_torch(encoder, variables, source="timm")
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in state_dict.items()}, file)
    monkeypatch.setattr(hub, "locate", lambda name: file)


def section(heading):
    code = re.search(rf"^## {heading}\n.*?```python\n(.*?)```", README.read_text(), re.M | re.S)
    assert code is not None
    return code.group(1)


def run(code):
    """Runs code and returns its variables and what it printed."""
    names, printed = {"__name__": "readme"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), names)
    return names, printed.getvalue()


@pytest.mark.usefixtures("weights")
def test_inference_example_returns_class_ids():
    names, _ = run(section("Inference"))
    assert names["class_ids"].shape == (120, 160)
    assert names["class_ids"].dtype == np.int32


@pytest.mark.slow
def test_training_example_prints_a_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = "data=DataRecipe(options={'train_length': 64, 'validation_length': 16})"  # a minute less
    text = section("Training").replace("import LossRecipe", "import DataRecipe, LossRecipe")
    _, printed = run(text.replace("recipe = Recipe(", f"recipe = Recipe({data},"))
    assert 0 < float(printed.split()[-1]) < 1
    assert (tmp_path / "runs" / "fpn" / "report.html").exists()


def test_readme_is_short_and_so_are_its_examples():
    assert len(README.read_text().splitlines()) <= 130
    for heading, limit in (("Inference", 5), ("Training", 10)):
        lines = [line for line in section(heading).splitlines() if line and "import" not in line]
        assert len(lines) <= limit


def test_readme_holds_the_two_commands():
    text = README.read_text()
    assert "```\npip install . && jaxseg train\n```" in text
    assert "```\npip install '.[test]' && pytest\n```" in text


@pytest.mark.slow
def test_tables_of_the_readme_are_up_to_date(tables):
    text = README.read_text()
    assert tables.readme(text) == text, "run experiments/readme/tables.py"


@pytest.mark.slow
@pytest.mark.full
def test_page_of_models_is_up_to_date(tables):
    assert tables.page() == tables.PAGE.read_text(), "run experiments/readme/tables.py"


def test_page_of_models_names_every_part(tables):
    page = tables.PAGE.read_text()
    rows = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert rows == {*jaxseg.models.names(), *jaxseg.encoders.names()}


def test_comparison_counts_the_registered_architectures():
    (number,) = re.findall(r"^\| semantic architectures \| (\d+) \|", README.read_text(), re.M)
    assert int(number) == len(jaxseg.models.names())
