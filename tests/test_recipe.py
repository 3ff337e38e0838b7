"""Recipes survive JSON, name what is wrong, and say how two of them differ."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from harness.runs import make_run

from jaxseg import losses
from jaxseg import recipe as recipes
from jaxseg.errors import InputError, unknown
from jaxseg.recipe import DataRecipe, LossRecipe, ModelRecipe, OptimizerRecipe, Recipe, TrainRecipe
from jaxseg.runs.folder import forbidden_changes
from jaxseg.typing import Output

FULL = Recipe(
    model=ModelRecipe(options={"depth": 3, "wide": True}, mean=(0.5,), std=(0.5,)),
    data=DataRecipe(
        source="folder",
        options={"images": "{split}", "sizes": (3, 4)},
        label_map={0: 0, 255: 1},
        classes=("a", "b"),
    ),
    train=TrainRecipe(patience=3),
)


@pytest.mark.parametrize("recipe", [Recipe(), FULL])
def test_json_and_back(recipe, tmp_path):
    recipes.save(recipe, tmp_path / "recipe.json")
    assert recipes.load(tmp_path / "recipe.json") == recipe


def test_a_python_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from jaxseg.recipe import *\nrecipe = Recipe(train=TrainRecipe(epochs=9))\n")
    assert recipes.load(file).train.epochs == 9
    file.write_text("recipe = 3\n")
    with pytest.raises(InputError, match="defines no"):
        recipes.load(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"epoch": 3}}, "did you mean 'recipe.train.epochs'"),
        ({"train": {"epochs": "three"}}, "recipe.train.epochs cannot be 'three'"),
        ({"train": {"epochs": True}}, "recipe.train.epochs cannot be True"),
        ({"optimizer": {"name": 3}}, "recipe.optimizer.name cannot be 3"),
        ({"data": 3}, "recipe.data must be an object"),
    ],
)
def test_wrong_fields_are_named(change, message):
    with pytest.raises(InputError, match=message):
        recipes.from_dict(change)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match="no recipe file"):
        recipes.load(tmp_path / "none.py")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        recipes.load(tmp_path / "broken.json")


def test_differences_name_each_field():
    other = dataclasses.replace(FULL, data=dataclasses.replace(FULL.data, label_map=None))
    assert recipes.differences(FULL, FULL) == []
    assert recipes.differences(FULL, other) == ["data.label_map: {0: 0, 255: 1} -> None"]


def test_every_field_is_a_plain_value():
    json.dumps(recipes.to_dict(FULL))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(train=TrainRecipe(epochs="3")), "train.epochs cannot be '3'"),
        (Recipe(train=TrainRecipe(batch_size=0)), "train.batch_size is 0, it is at least 1"),
        (Recipe(train=TrainRecipe(patience=0)), "train.patience is 0"),
        (
            Recipe(optimizer=OptimizerRecipe(schedule="cosin")),
            "optimizer.schedule cannot be 'cosin'",
        ),
        (Recipe(model=ModelRecipe(options={"upsample": print})), "plain values only"),
    ],
)
def test_a_recipe_that_could_not_be_read_again_is_refused(recipe, message):
    with pytest.raises(InputError, match=message):
        recipes.checked(recipe)


def test_a_recipe_in_pythons_own_types_is_read_as_a_run_folder_gives_it_back(tmp_path):
    data = DataRecipe(root=tmp_path, num_classes=np.int64(2), label_map={0: 0, 7: None})
    recipe = recipes.checked(
        Recipe(data=data, model=ModelRecipe(options={"a": None, "b": (0.5, 1.0)}))
    )
    assert recipe.data.root == str(tmp_path)
    assert recipe.data.label_map == {0: 0, 7: None}
    recipes.save(recipe, tmp_path / "recipe.json")
    assert recipes.load(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize(
    "code", ["recipe = (", "import nowhere_at_all", "recipe = Recipe(trian=1)"]
)
def test_a_file_that_fails_is_named(tmp_path, code):
    path = tmp_path / "own.py"
    path.write_text(code)
    with pytest.raises(InputError, match=r"own\.py cannot be run: \w+Error"):
        recipes.load(path)


def test_names_match_whatever_their_case():
    assert "did you mean 'unet'" in str(unknown("model", "UNet", ["unet", "fpn"]))


def test_data_may_move_between_a_stop_and_going_on():
    moved = dataclasses.replace(FULL, data=dataclasses.replace(FULL.data, root="there", workers=3))
    assert forbidden_changes(FULL, moved) == []
    other = dataclasses.replace(moved, train=TrainRecipe(epochs=9))
    assert len(forbidden_changes(FULL, other)) == 2  # epochs, patience


def test_losses_and_their_options_reach_the_loss():
    weights = {"cross_entropy": 0.0, "tversky": 2.0, "ohem": 1.0}
    options = {"tversky.alpha": 1.0, "tversky.beta": 1.0, "ohem.min_kept": 2}
    loss_fn = make_run(Recipe(loss=LossRecipe(weights, options))).loss_fn
    logits = jnp.array([[[[3.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]]])
    labels = jnp.array([[[0, 0, 0, 1]]])
    value, logs = loss_fn(Output(logits), {"label": labels})
    assert set(logs) == {"tversky", "ohem"}
    hard = losses.ohem_cross_entropy(logits, labels, min_kept=2)
    np.testing.assert_allclose(value, 2 * losses.jaccard_loss(logits, labels) + hard, rtol=1e-6)
    with pytest.raises(InputError, match="options for focal, which is none of the losses"):
        make_run(Recipe(loss=LossRecipe({"dice": 1.0}, options={"focal.gamma": 1.0})))


@pytest.mark.parametrize(
    ("model", "title", "layer"),
    [
        (ModelRecipe(), "unet with resnet18", "encoder"),
        (ModelRecipe(options={"upsample": "sub_pixel"}), "unet with resnet18", "encoder"),
        (ModelRecipe(name="segnet", encoder="vgg11_bn"), "segnet with vgg11_bn", "encoder"),
        (ModelRecipe(name="original_unet"), "original_unet", "body"),
    ],
)
def test_a_recipe_builds_models_with_and_without_an_encoder(model, title, layer):
    """The encoder that is left out is ResNet-18 where there is one to choose; channels are the data set's."""
    run = make_run(Recipe(model=model), num_classes=3, channels=5)
    assert layer in run.variables_like["params"]
    assert run.title == title
    assert recipes.from_dict(recipes.to_dict(run.recipe)) == run.recipe
