"""docs/scaling.md says what its rows say, and no more."""

import importlib.util
import json
import re
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
    """What the last column says: more images than it asks for go with more than 95 % in the column before."""
    table = scaling.PAGE.read_text().partition("How long a step takes")[2]
    rows = re.findall(r"\| (\w+) (?:\| [\d.]+ ){5}\| \d+ \| ([\d.]+) % \| (\d+) \|", table)
    assert rows
    for dtype, percent, images in rows:
        assert (int(images) <= scaling.IMAGES[dtype]) == (float(percent) >= 94.95), (
            percent,
            images,
        )
