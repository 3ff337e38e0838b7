"""Tests the prose: rules for all docstrings and pages, and what losses and metrics document."""

import ast
import doctest
import inspect
import re
from pathlib import Path

import pytest

from jaxseg import losses, metrics

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("jaxseg", "experiments") for path in (ROOT / folder).rglob("*.py")]
PAGES = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
AVOIDED = {
    r"\bas of `": "returned by `f`, or those of `f`",
    r"\b(rooms?|doors?|houses?)\b": "package, module, function",
    r"\btwins?\b": "peer, reference, counterpart",
    r"\b(take|takes|taking|took|in) turns\b": "alternately",
    r"\bso many\b": "the number or the noun that is meant",
    r"\b(anew|amid|thereof|whereof)\b": "again, during, of it",
    r"\bnot-a-number\b": "NaN",
    r"\bnought\b": "zero",
}
"""Words and phrases that public text must not use, and what to write instead."""

PUBLIC = {
    f"{package.__name__.split('.')[-1]}.{name}": getattr(package, name)
    for package in (losses, metrics)
    for name in package.__all__
}
WITHOUT_DOCSTRING: set[str] = set()
WITHOUT_RULES = {"losses.names"}
RESULTS = {
    "metrics.BestThreshold",
    "metrics.Curve",
    "metrics.ConfusionCounts",
    "metrics.Reliability",
}
CONVERSIONS = {
    "metrics.foreground",
    "metrics.labels_from_logits",
    "metrics.map_labels",
    "metrics.multilabel_from_logits",
    "metrics.confusion_counts",
}
DOCUMENTED = sorted(PUBLIC.keys() - WITHOUT_DOCSTRING)
RULED = sorted(set(DOCUMENTED) - WITHOUT_RULES)
COMPUTED = sorted(set(RULED) - RESULTS - CONVERSIONS)
SCORED = sorted(set(RULED) - {name for name in CONVERSIONS if "label" in name})


def relative(path):
    return path.relative_to(ROOT).as_posix()


def docstrings(path):
    """All docstrings of a file with their lines, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, inspect.cleandoc(text)


def avoided(text):
    """Returns the mistakes in a text, each with what to write instead."""
    without_code = re.sub(
        r"^```.*?^```|`[^`\n]*`(?<!of `)", "`", text, flags=re.DOTALL | re.MULTILINE
    )
    for pattern, better in AVOIDED.items():
        for match in re.finditer(pattern, without_code, re.IGNORECASE):
            yield f"{match.group()!r}: {better}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_docstrings_of_a_file_are_plain_english(path):
    wrong = [
        f"{path}:{line}: {problem}" for line, text in docstrings(path) for problem in avoided(text)
    ]
    wrong += [
        f"{path}:{line}: a summary starts with a verb or names the thing: {text.splitlines()[0]}"
        for line, text in docstrings(path)
        if re.match(r"(What|How|There is|There are)\b", text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_are_plain_english(page):
    wrong = list(avoided(page.read_text()))
    assert not wrong, "\n".join(wrong)


def docstring(name):
    return inspect.getdoc(PUBLIC[name]) or ""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring_has_an_example_with_a_result(name):
    """That it prints this result is tested with the doctests of all modules."""
    examples = doctest.DocTestParser().get_examples(docstring(name))
    assert any(example.want for example in examples)


@pytest.mark.parametrize("name", COMPUTED)
def test_docstring_has_a_formula(name):
    assert re.search(r"\$[^$]+\$", docstring(name))


@pytest.mark.parametrize("name", COMPUTED)
def test_docstring_has_a_reference_with_a_link(name):
    _, found, source = docstring(name).partition("References:\n")
    assert found
    assert re.search(r"https://\S+\.\S+", source)


@pytest.mark.parametrize("name", RULED)
def test_docstring_says_how_ignored_pixels_count(name):
    assert re.search(r"\bignored?\b|\bignore_index\b", docstring(name), re.IGNORECASE)


@pytest.mark.parametrize("name", SCORED)
def test_docstring_says_how_absent_classes_count(name):
    rule = r"\babsent\b|(NaN|not-a-number) (where|for|without|if)"
    assert re.search(rule, docstring(name), re.IGNORECASE)


@pytest.mark.parametrize("name", sorted(n for n in DOCUMENTED if inspect.isfunction(PUBLIC[n])))
def test_docstring_describes_every_argument(name):
    text = docstring(name)
    arguments = list(inspect.signature(PUBLIC[name]).parameters)
    missing = [argument for argument in arguments if not re.search(rf"^ +{argument}: ", text, re.M)]
    assert not missing
