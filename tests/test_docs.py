"""Tests the documentation: examples print what the pages say, links lead somewhere, and names exist."""

import argparse
import contextlib
import dataclasses
import doctest
import io
import re
import shlex
from pathlib import Path

import pytest

from jaxseg import Recipe, metrics
from jaxseg.cli import arguments

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text()]
GUIDES = [DOCS / "quickstart.md", *sorted((DOCS / "guides").glob("*.md"))]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def code_blocks(page):
    """Blocks of Python code, except those marked `no-run` or `file=NAME`."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def scripts(page):
    return [block for block in code_blocks(page) if ">>> " not in block]


def files(page):
    """The files that a page shows in one or more blocks."""
    shown: dict = {}
    blocks = re.findall(
        r"^```python file=(\S+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    for name, block in blocks:
        shown[name] = shown.get(name, "") + block
    return shown


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
@pytest.mark.sample(1)
def test_examples_of_a_page_print_what_it_says(page):
    names: dict = {}
    runner, parser = doctest.DocTestRunner(), doctest.DocTestParser()
    for number, block in enumerate(code_blocks(page)):
        if ">>> " not in block:
            continue
        test = parser.get_doctest(block, names, f"{page.name}, block {number}", str(page), 0)
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0


def test_pages_with_examples_are_found():
    assert DOCS / "metrics.md" in WITH_EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in GUIDES if scripts(page)], ids=name_of)
def test_code_of_a_guide_runs_and_prints_its_comments(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    code = "".join(scripts(page))
    few = "{'train_length': 64, 'validation_length': 16}"  # minutes less
    data = f"data=__import__('jaxseg').recipe.DataRecipe(options={few})"
    code = code.replace("Recipe(train=TrainRecipe(", f"Recipe({data}, train=TrainRecipe(")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), {"__name__": "guide"})
    expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert [line for line in expected if line not in printed.getvalue().splitlines()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if re.match(r"[a-z]+://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(page):
    """The lines with `jaxseg train` or `jaxseg datasets`, and their arguments."""
    pattern = r"^(?:srun .*)?jaxseg (?:train|datasets \w+)\b(.*)$"
    for match in re.finditer(pattern, page.read_text(), re.MULTILINE):
        yield match.group(), shlex.split(match.group(1).rstrip("&"), comments=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_a_page_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line, words in commands(page):
        parser = argparse.ArgumentParser()
        for option in ("run", "resume", "topology", "out", "coordinator"):
            parser.add_argument(f"--{option}")
        for option in ("num-processes", "process-id"):
            parser.add_argument(f"--{option}", type=int)
        for option in ("dry-run", "distributed"):
            parser.add_argument(f"--{option}", action="store_true")
        _, rest = parser.parse_known_args(words)
        recipe, fields = arguments.recipe_and_fields(rest)
        try:
            arguments.override(recipe or Recipe(), fields, prog="jaxseg", description="")
        except SystemExit:
            pytest.fail(f"{page}: {line}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_that_a_page_names_exist(page):
    sections = {field.name: field.default_factory for field in dataclasses.fields(Recipe)}
    old = "| before | now |"
    text = page.read_text().partition(old)[0]
    for section, name in re.findall(r"--([a-z]+)\.([a-z-]+)", text):
        known = [field.name for field in dataclasses.fields(sections[section])]
        assert name.replace("-", "_") in known, f"--{section}.{name}"


def test_design_has_at_most_150_lines():
    assert len((DOCS / "design.md").read_text().splitlines()) <= 150


def test_every_metric_is_on_its_page():
    text = (DOCS / "metrics.md").read_text()
    kinds = {"BestThreshold", "Curve", "Reliability"}  # results of functions
    missing = [name for name in metrics.__all__ if name not in text and name not in kinds]
    assert not missing


def test_reliability_names_tests_that_exist():
    text = (DOCS / "reliability.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in named if not has_test(ROOT / file, name)]
    assert not missing
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| test" not in line]
    assert all("::test_" in row for row in rows)


def has_test(file, name):
    return file.exists() and f"def {name}(" in file.read_text()
