"""The examples of the documentation run, block after block of a page, and print what the page says."""

import doctest
import re
from pathlib import Path

import pytest

from jaxseg import metrics

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if ">>> " in page.read_text()]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_print_what_the_page_says(page):
    names: dict = {}
    runner, parser = doctest.DocTestRunner(), doctest.DocTestParser()
    for number, block in enumerate(blocks(page)):
        if ">>> " not in block:
            continue
        test = parser.get_doctest(block, names, f"{page.name}, block {number}", str(page), 0)
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0


def test_the_examples_of_the_page_of_metrics_are_found():
    assert DOCS / "metrics.md" in PAGES


def test_every_metric_is_on_its_page():
    text = (DOCS / "metrics.md").read_text()
    kinds = {"BestThreshold", "Curve", "Reliability"}  # what functions return
    missing = [name for name in metrics.__all__ if f"{name}" not in text and name not in kinds]
    assert not missing


def test_every_test_that_the_page_of_reliability_names_exists():
    text = (DOCS / "reliability.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (DOCS.parent / file).read_text(), f"{file}::{name}"
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| what" not in line]
    assert all("::test_" in row for row in rows)
