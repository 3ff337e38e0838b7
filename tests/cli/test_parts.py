"""What a run is made of."""

from jaxseg.cli import parts
from jaxseg.recipe import DataRecipe, Recipe


def test_labels_are_checked_but_for_those_that_the_library_draws(monkeypatch):
    checked = []
    monkeypatch.setattr(parts, "check_sample", checked.append)
    parts._check_labels(Recipe(), "shapes", "more shapes")
    assert checked == []
    parts._check_labels(Recipe(data=DataRecipe(source="folder")), "training", "validation")
    assert checked == ["training", "validation"]
