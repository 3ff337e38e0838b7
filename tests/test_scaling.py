"""docs/scaling.md is generated from its rows."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location(
        "scaling", ROOT / "experiments" / "scaling" / "__main__.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_generated_from_the_rows(scaling):
    assert scaling.PAGE.read_text() == scaling.page(scaling.read())


def test_add_stores_and_sorts_each_row(scaling, tmp_path, monkeypatch):
    first, second = (dict(scaling.read()[0], topology=name) for name in ("v5e:2x4", "v5e:16x16"))
    monkeypatch.setattr(scaling, "ROWS", tmp_path / "new.json")
    scaling.add(second)
    scaling.add(first)
    assert scaling.read() == sorted([first, second], key=lambda row: row["topology"])
    assert json.loads((tmp_path / "new.json").read_text()) == scaling.read()


def test_images_for_95_percent_agree_with_the_efficiency(scaling):
    rows = [row for row in scaling.read() if row["parallelism"] != "spatial shards"]
    assert rows
    for row in rows:
        time = scaling.estimate_step_time(scaling.cost(row), row["topology"])
        few = scaling.images_for_95_percent(row) <= scaling.IMAGES[row["dtype"]]
        assert few == (time.efficiency >= 0.95)
