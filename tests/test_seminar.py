"""Tests that the figures and tables of the tutorial are those of the committed command."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "seminar.md"
PICTURES = ROOT / "docs" / "images" / "seminar"


def figures_on_page():
    return re.findall(r"!\[[^\]]+\]\(images/seminar/([^)]+)\)", PAGE.read_text())


@pytest.fixture
def experiment(monkeypatch):
    """Imports a module of the experiment and removes its name and matplotlib style afterwards."""
    folder = ROOT / "experiments" / "seminar"
    monkeypatch.syspath_prepend(str(folder))
    names = [path.stem for path in folder.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with matplotlib.rc_context():
        yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_every_figure_is_on_the_page_and_small():
    files = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert sorted(figures_on_page()) == sorted(files)
    assert len(files) > 10
    assert max(files.values()) < 200_000
    assert sum(files.values()) < 1_500_000


def test_tables_on_the_page_show_the_results(experiment):
    result = json.loads((ROOT / "docs" / "benchmarks" / "seminar.json").read_text())
    page = PAGE.read_text()
    rare, borders = experiment("rare"), experiment("borders")
    assert rare.table(result["losses"]) in page
    assert borders.table(result["borders"]) in page
    longer, wider = (result["losses"][name] for name in ("longer", "wider"))
    scores = f"IoU is {longer['iou']:.2f}, at the chosen threshold {longer['iou_at_threshold']:.2f}"
    assert scores in " ".join(page.split())
    assert f"one training of 300 steps reaches {wider['iou']:.2f} at one half" in page
    # Claims of the text: under 1 % of the pixels, and the order of the losses.
    assert 0 < max(result["losses"]["share"]) < 0.01
    runs = result["losses"]["runs"]
    assert len({run["seed"] for run in runs}) == 3
    by_loss = {loss: [r["iou"] for r in runs if r["loss"] == loss] for loss in rare.LOSSES}
    assert max(by_loss["cross_entropy"]) < 0.01
    assert min(by_loss["jaccard"] + by_loss["dice"]) > 0.6
    fcn = [result["borders"][f"FCN-{stride}s"]["boundary_iou"] for stride in (32, 16, 8)]
    assert fcn == sorted(fcn)


def test_sizes_of_the_unet_diagram_are_the_papers(experiment):
    sizes = experiment("unet").sizes(572)
    assert [sizes[f"contract{level}"] for level in range(5)] == [
        (568, 64),
        (280, 128),
        (136, 256),
        (64, 512),
        (28, 1024),
    ]
    assert [sizes[f"expand{level}"][0] for level in range(4)] == [388, 196, 100, 52]


@pytest.mark.slow
def test_command_makes_all_figures(tmp_path):
    command = [sys.executable, "experiments/seminar", "--out", tmp_path / "pictures"]
    command += ["--results", tmp_path / "result.json", "--rare-steps", 2, "--seeds", 1]
    command += ["--rare-images", 40, 30, 30, "--border-steps", 1, "--border-images", 8, 4]
    command += ["--rows", 1]
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(
        figures_on_page()
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["losses"]["runs"]) == 3
    assert "| FCN-32s | 0." in done.stdout
