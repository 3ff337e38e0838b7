"""docs/scaling.md says what its rows say, and no more."""

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


def test_the_page_is_made_from_the_rows(scaling):
    assert scaling.PAGE.read_text() == scaling.page(scaling.read())


def test_a_row_is_kept_when_the_next_one_fails(scaling, tmp_path, monkeypatch):
    first, second = (dict(scaling.read()[0], topology=name) for name in ("v5e:2x4", "v5e:16x16"))
    monkeypatch.setattr(scaling, "ROWS", tmp_path / "new.json")
    scaling.add(second)
    scaling.add(first)
    assert scaling.read() == sorted([first, second], key=lambda row: row["topology"])
    assert json.loads((tmp_path / "new.json").read_text()) == scaling.read()


def test_rows_with_enough_images_keep_95_percent(scaling):
    """What the last column says: with as many images as it asks for 95 % of the step is work."""
    rows = [row for row in scaling.read() if row["way"] != "bands"]
    assert rows
    for row in rows:
        times = scaling.forecast(scaling.need_of(row), row["topology"])
        assert (scaling.enough(row) <= scaling.IMAGES[row["dtype"]]) == (times.efficiency >= 0.95)
