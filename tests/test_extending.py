"""Parts from outside of the package: each is named in a recipe, trains, resumes, evaluates, predicts and reports."""

import json
import os
import signal

import numpy as np
import pytest
from harness import toy
from PIL import Image

from jaxseg import Recipe, runs
from jaxseg.cli.main import main
from jaxseg.errors import InputError
from jaxseg.recipe import DataRecipe, EvalRecipe, LossRecipe, ModelRecipe, TrainRecipe
from jaxseg.runs.log import read_rows

TRAIN = TrainRecipe(epochs=2, batch_size=8, devices=1, log_every=1)
SEMANTIC = Recipe(
    model=ModelRecipe(
        name="harness.toy:toy_net",
        encoder="harness.toy:ToyEncoder",
        options={"width": 4},
        encoder_options={"width": 4},
    ),
    data=DataRecipe(source="harness.toy:Halves", options={"count": 16}),
    loss=LossRecipe(
        weights={"harness.toy:brier_loss": 1.0, "dice": 0.5},
        options={"harness.toy:brier_loss.power": 1.0},
    ),
    train=TRAIN,
)
DEPTH = Recipe(
    task="harness.toy:Depth",
    model=ModelRecipe(name="harness.toy:toy_net", encoder="harness.toy:ToyEncoder"),
    data=DataRecipe(source="harness.toy:Ramps"),
    train=TRAIN,
)


def stop_at(step):
    def on_step(at):
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return runs.Observer(on_step=on_step)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of each recipe, and the scores that `runs.train` returned."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, recipe in (("semantic", SEMANTIC), ("depth", DEPTH)):
        found[name] = folder / name, runs.train(recipe, folder / name, quiet=True)
    return found


def test_parts_of_a_user_train_from_python(trained):
    folder, scores = trained["semantic"]
    rows = [row for row in read_rows(folder) if row["kind"] == "validation"]
    assert [row["step"] for row in rows] == [2, 4]
    assert scores["mean_iou"] == max(row["mean_iou"] for row in rows)
    train = next(row for row in read_rows(folder) if row["kind"] == "train")
    assert {"harness.toy:brier_loss", "dice"} <= train.keys()


def test_the_best_depth_is_the_lowest_rmse(trained):
    folder, scores = trained["depth"]
    rows = [row for row in read_rows(folder) if row["kind"] == "validation"]
    assert scores["rmse"] == min(row["rmse"] for row in rows)
    assert scores["images"] == 5
    assert [row["best"] for row in rows] == [True, rows[1]["rmse"] < rows[0]["rmse"]]
    assert rows[-1]["rmse"] < rows[0]["rmse"], "it learns"


@pytest.mark.parametrize(("name", "recipe"), [("semantic", SEMANTIC), ("depth", DEPTH)])
def test_a_stopped_run_resumes_to_the_same_numbers(trained, tmp_path, name, recipe):
    folder = tmp_path / name
    assert runs.train(recipe, folder, observers=[stop_at(3)], quiet=True) is None
    scores = runs.train(recipe, folder, resume=True, quiet=True)
    assert scores == trained[name][1]


@pytest.mark.parametrize("name", ["semantic", "depth"])
def test_a_run_is_evaluated_predicted_and_reported(trained, tmp_path, name, capsys):
    folder, scores = trained[name]
    assert runs.evaluate(folder) == scores
    image = tmp_path / "image.png"
    Image.fromarray(toy.RampsSource(1)[0]["image"]).save(image)
    files, problems = runs.predict(folder, image, tmp_path / "out")
    assert not problems
    kinds = {"semantic": ["index", "colour", "overlay"], "depth": ["depth"]}[name]
    assert [path.name for path in files[image]] == [f"image.{kind}.png" for kind in kinds]
    with Image.open(files[image][0]) as picture:
        assert picture.size == (24, 16)
    page = runs.report(folder).read_text()
    heading = {"semantic": "Confusion matrix", "depth": "Depth"}[name]
    assert f"<h2>{heading}</h2>" in page
    assert ("Confusion matrix" in page) == (name == "semantic")
    assert main(["evaluate", str(folder)]) == 0
    assert {"semantic": "mIoU", "depth": "RMSE"}[name] in capsys.readouterr().out


@pytest.mark.parametrize("name", ["semantic", "depth"])
def test_windows_and_flips_evaluate_any_task(trained, tmp_path, name, capsys):
    folder, scores = trained[name]
    one_window = EvalRecipe(window=(16, 24), blend="constant")
    assert runs.evaluate(folder, options=one_window) == scores
    words = ["--eval.window", "8", "16", "--eval.flips", "horizontal", "--eval.scales", "1", "1.5"]
    assert main(["evaluate", str(folder), *words]) == 0
    written = json.loads((folder / "evaluation-val.json").read_text())
    headline = {"semantic": "mean_iou", "depth": "rmse"}[name]
    assert written[headline] != scores[headline]
    assert abs(written[headline] - scores[headline]) < 0.5
    image = tmp_path / "image.png"
    Image.fromarray(toy.RampsSource(1)[0]["image"]).save(image)
    assert main(["predict", str(folder), str(image), "--out", str(tmp_path / "a"), *words]) == 0
    assert len(list((tmp_path / "a").iterdir())) == {"semantic": 3, "depth": 1}[name]
    with pytest.raises(InputError, match="overlap"):
        runs.evaluate(folder, options=EvalRecipe(window=(8, 8), overlap=1.0))
    capsys.readouterr()


def test_the_command_line_trains_a_task_of_a_user(tmp_path, capsys):
    recipe = tmp_path / "depth.py"
    recipe.write_text(
        "from jaxseg.recipe import *\n"
        "recipe = Recipe(task='harness.toy:Depth', data=DataRecipe(source='harness.toy:Ramps'))\n"
    )
    run, train = tmp_path / "run", ["--train.epochs=1", "--train.batch-size=8", "--train.devices=1"]
    model = ["--model.name=harness.toy:toy_net", "--model.encoder=harness.toy:ToyEncoder"]
    options = ["--data.options", "count", "8", "--augment.scale", "0.5", "2.0"]
    assert main(["train", str(recipe), "--run", str(run), *train, *model, *options]) == 0
    assert "best validation RMSE" in capsys.readouterr().out
    assert main(["datasets", "check", str(recipe)]) == 0
    out = tmp_path / "samples.png"
    assert main(["datasets", "show", str(recipe), "--out", str(out), "--count", "2", *model]) == 0
    with Image.open(out) as picture:
        assert np.asarray(picture).shape == (32, 48, 3)
    assert json.loads((run / "run.json").read_text())["task"]["farthest"] > 0


def test_a_task_that_its_source_does_not_fit_is_named(tmp_path, capsys):
    assert main(["train", "--data.source=harness.toy:Ramps", "--run", str(tmp_path / "run")]) == 2
    assert "num_classes" in capsys.readouterr().err
    words = ["train", "--task=harness.toy:depth", "--run", str(tmp_path / "run")]
    assert main(words) == 2
    assert "did you mean 'Depth'" in capsys.readouterr().err
