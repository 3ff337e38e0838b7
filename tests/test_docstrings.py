"""Every public name of the losses and metrics says what it computes, of what, after whom, and shows it."""

import doctest
import inspect
import re

import pytest

from jaxseg import losses, metrics

PUBLIC = {
    f"{room.__name__.split('.')[-1]}.{name}": getattr(room, name)
    for room in (losses, metrics)
    for name in room.__all__
}
KINDS_OF_FUNCTIONS = {"losses.LossFn"}  # an alias has no docstring
LISTS_OF_NAMES = {"losses.names"}
WHAT_OTHERS_RETURN = {
    "metrics.BestThreshold",
    "metrics.Curve",
    "metrics.Outcomes",
    "metrics.Reliability",
}
OTHER_FORMS_OF_ARRAYS = {
    "metrics.foreground",
    "metrics.labels_from_logits",
    "metrics.map_labels",
    "metrics.multilabel_from_logits",
    "metrics.outcomes",
}
DOCUMENTED = sorted(PUBLIC.keys() - KINDS_OF_FUNCTIONS)
RULED = sorted(set(DOCUMENTED) - LISTS_OF_NAMES)
COMPUTED = sorted(set(RULED) - WHAT_OTHERS_RETURN - OTHER_FORMS_OF_ARRAYS)
SCORED = sorted(set(RULED) - {name for name in OTHER_FORMS_OF_ARRAYS if "label" in name})


def docstring(name):
    return inspect.getdoc(PUBLIC[name]) or ""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_example_runs(name):
    """That it prints what it says is tested where the examples of all modules are."""
    examples = doctest.DocTestParser().get_examples(docstring(name))
    assert any(example.want for example in examples)


@pytest.mark.parametrize("name", COMPUTED)
def test_there_is_a_formula(name):
    assert re.search(r"\$[^$]+\$", docstring(name))


@pytest.mark.parametrize("name", COMPUTED)
def test_there_is_a_source_with_a_link(name):
    _, found, source = docstring(name).partition("References:\n")
    assert found
    assert re.search(r"https://\S+\.\S+", source)


@pytest.mark.parametrize("name", RULED)
def test_it_says_what_is_ignored(name):
    assert re.search(r"\bignored?\b|\bignore_index\b", docstring(name), re.IGNORECASE)


@pytest.mark.parametrize("name", SCORED)
def test_it_says_what_an_absent_class_does(name):
    rule = r"\babsent\b|not-a-number (where|for|without)"
    assert re.search(rule, docstring(name), re.IGNORECASE)


@pytest.mark.parametrize("name", sorted(n for n in DOCUMENTED if inspect.isfunction(PUBLIC[n])))
def test_every_argument_is_described(name):
    text = docstring(name)
    arguments = list(inspect.signature(PUBLIC[name]).parameters)
    missing = [argument for argument in arguments if not re.search(rf"^ +{argument}: ", text, re.M)]
    assert not missing
