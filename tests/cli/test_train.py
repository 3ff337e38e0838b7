"""Training from the command line: what a run folder holds, and that a resumed run is the run."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg import recipe as recipes
from jaxseg.cli.main import main
from jaxseg.runs.build import build
from jaxseg.runs.evaluation import load_variables
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows

TIMES = ("seconds", "images_per_second", "loader_wait_seconds")


def arrays(run, checkpoint):
    folder = RunFolder(run)
    return load_variables(folder, build(folder.recipe, folder.info), checkpoint)


def initial(run):
    """The variables that a run began with."""
    folder = RunFolder(run)
    model = build(folder.recipe, folder.info).model
    return jaxseg.init(model, jax.random.key(folder.recipe.train.seed))


def same_run(one, other):
    """Parameters, statistics, best checkpoint and log are equal bit for bit, times aside."""
    import chex

    for checkpoint in ("best", "last"):
        chex.assert_trees_all_equal(arrays(one, checkpoint), arrays(other, checkpoint))
    logs = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run)]
        for run in (one, other)
    ]
    assert logs[0] == logs[1]


def test_a_run_folder_is_complete(finished):
    assert {path.name for path in finished.iterdir()} >= {
        "recipe.json",
        "run.json",
        "metrics.jsonl",
        "report.html",
        "checkpoints",
    }
    rows = read_rows(finished)
    assert [r["step"] for r in rows if r["kind"] == "train"] == [2, 3, 4, 6]
    validations = [r for r in rows if r["kind"] == "validation"]
    assert [r["step"] for r in validations] == [3, 6]
    assert len(validations[0]["iou"]) == 7
    assert {"loss", "learning_rate", "gradient_norm", *TIMES} <= rows[0].keys()
    assert validations[-1]["loss"] < rows[0]["loss"]
    assert recipes.load(finished / "recipe.json").model.encoder == "jaxseg_tests_tiny:Tiny"
    assert json.loads((finished / "run.json").read_text())["environment"]["versions"]["jax"]
    assert list(finished.glob("events.out.tfevents.*"))
    report = (finished / "report.html").read_text()
    assert "<svg" in report
    assert "http" not in report.replace("http://www.w3.org", "")


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.sample(1)
def test_a_stopped_run_goes_on_to_the_same_bits(finished, fields, tmp_path, stop_at, capsys, at):
    """SIGTERM within the first epoch, and within the second: parameters, best, log and order are those of one run."""
    run = tmp_path / "stopped"
    stop_at(at)
    assert main(["train", "--run", str(run), *fields]) == 0
    assert f"stopped at step {at}, saved" in capsys.readouterr().out
    assert RunFolder(run).last.step == at
    assert main(["train", "--resume", str(run)]) == 0
    same_run(finished, run)


@pytest.mark.slow
def test_bands_and_a_cut_state_train_stop_and_go_on_to_the_same_numbers(
    finished, fields, tmp_path, stop_at
):
    """On four devices; the run of one device differs by float32's rounding alone."""
    run = tmp_path / "cut"
    stop_at(4)
    cut = ["--train.devices=4", "--train.spatial-shards=2", "--train.fsdp"]
    assert main(["train", "--run", str(run), *fields, *cut]) == 0
    assert main(["train", "--resume", str(run)]) == 0
    rows, expected = read_rows(run), read_rows(finished)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=2e-3)


@pytest.mark.slow
def test_the_options_of_a_step_reach_it(fields, tmp_path, capsys):
    """What is evaluated is the average, after training and later; frozen parts stay; the rest moves."""
    run = tmp_path / "options"
    options = [
        "--train.ema-decay=0.5",
        "--train.micro-batches=2",
        "--train.rematerialize",
        "--model.freeze",
        "encoder/Conv_0",
        "--optimizer.rate-factors",
        "encoder",
        "0.1",
        "--model.dtype=bfloat16",
    ]
    assert main(["train", "--run", str(run), *fields, *options]) == 0
    rows = [row for row in read_rows(run) if row["kind"] == "validation"]
    best = max(rows, key=lambda row: row["mean_iou"])
    capsys.readouterr()
    for checkpoint, row in (("best", best), ("last", rows[-1])):
        assert main(["evaluate", str(run), f"--checkpoint={checkpoint}"]) == 0
        assert f"mIoU {row['mean_iou']!r}" in capsys.readouterr().out
    trained = arrays(run, "last")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trained)} == {"float32"}
    start = initial(run)
    moved = jax.tree.map(
        lambda new, old: float(np.abs(np.asarray(new) - old).max()), trained, start
    )["params"]
    assert moved["encoder"]["Conv_0"] == {"kernel": 0.0, "bias": 0.0}
    assert moved["encoder"]["Conv_1"]["kernel"] > 0
    assert moved["head"]["conv"]["kernel"] > 5 * moved["encoder"]["Conv_1"]["kernel"]


@pytest.mark.parametrize("strategy", ["jit", "shard_map"])
@pytest.mark.slow
def test_the_step_compiled_in_the_background_is_the_one_that_batches_need(
    strategy, fields, tmp_path, compiled
):
    fields = [*fields, "--train.epochs=1", f"--train.parallel={strategy}", "--train.devices=2"]
    assert main(["train", "--run", str(tmp_path / "run"), *fields]) == 0
    assert compiled("train_step") == 1


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(finished, fields, tmp_path):
    run = tmp_path / "killed"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints")
    (run / "report.html").unlink()
    assert main(["train", "--resume", str(run), *fields]) == 0
    same_run(finished, run)
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    run = tmp_path / "again"
    shutil.copytree(finished, run)
    assert main(["train", "--resume", str(run)]) == 0
    same_run(finished, run)


def test_a_resumed_run_keeps_its_recipe(finished, capsys):
    assert main(["train", "--resume", str(finished), "--train.epochs=9"]) == 2
    assert "train.epochs: 2 -> 9" in capsys.readouterr().err


def test_a_run_folder_is_never_written_into_twice(finished, fields, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert main(["train", "--run", str(finished), *fields]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_early_stopping_and_a_test_split(fields, tmp_path, capsys):
    run = tmp_path / "early"
    extra = [
        "--train.patience=1",
        "--train.epochs=30",
        "--optimizer.learning-rate=1e-30",  # what still moves is the batch statistics
        "--data.test-split=test",
    ]
    assert (
        main(["train", "--run", str(run), *[f for f in fields if "epochs" not in f], *extra]) == 0
    )
    rows = read_rows(run)
    validations = [r for r in rows if r["kind"] == "validation"]
    scores = [r["mean_iou"] for r in validations]
    assert len(scores) < 30
    assert all(later > earlier for earlier, later in itertools.pairwise(scores[:-1]))
    assert scores[-1] <= scores[-2]  # one epoch without improvement, and no other
    assert [r["step"] for r in rows if r["kind"] == "test"] == [validations[-2]["step"]]
    printed = capsys.readouterr().out
    assert main(["evaluate", str(run), "--split", "test"]) == 0
    again = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("test ("))
    assert line.split("  ", 1)[1] in again  # every digit


@pytest.mark.slow
def test_one_logit_and_a_frozen_encoder(tmp_path, fields):
    """Binary masks stored as 0 and 255, with the label map that the error names."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index in range(12):
        image = rng.integers(0, 255, (20, 26, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{index}.png")
        mask = np.where(image[..., 0] > 127, 255, 0).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{index}.png")
    run = tmp_path / "run"
    options = [
        "--data.source=folder",
        f"--data.root={tmp_path / 'data'}",
        *("--data.options", "mask_suffix", ""),  # instead of those of the shapes
        "--data.num-classes=1",
        "--data.label-map",
        "0",
        "0",
        "255",
        "1",
        "--model.freeze-encoder",
        "--optimizer.schedule=poly",
        "--optimizer.name=sgd",
        "--loss.weights",
        "dice",
        "1.0",
    ]
    assert main(["train", "--run", str(run), *fields, *options]) == 0
    start = initial(run)["params"]
    trained = arrays(run, "last")["params"]
    kernels = [tree["encoder"]["Conv_0"]["kernel"] for tree in (start, trained)]
    np.testing.assert_array_equal(*kernels)
    heads = [tree["head"]["conv"]["kernel"] for tree in (start, trained)]
    assert np.abs(np.subtract(*map(np.asarray, heads))).max() > 0
    assert len(read_rows(run)[-1]["iou"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "encoder", "layer"),
    [
        (["--model.name=original_unet_padded"], None, "body"),
        (["--model.options", "upsample", "transposed", "merge", "add"], "tiny", "decoder"),
    ],
)
def test_networks_without_an_encoder_and_options_by_name(
    tmp_path, fields, capsys, model, encoder, layer
):
    """Trained, evaluated and reported; the run folder says which encoder there was."""
    if encoder is None:
        fields = [field for field in fields if not field.startswith("--model.encoder")]
        recipe = tmp_path / "small.py"
        recipe.write_text(
            "from jaxseg.recipe import ModelRecipe, Recipe\n"
            "recipe = Recipe(model=ModelRecipe(options={'channels': (4, 6)}))\n"
        )
        model = [str(recipe), *model]
    run = tmp_path / "run"
    fields = [*fields, "--train.epochs=1"]
    start = [model.pop(0)] if encoder is None else []
    assert main(["train", *start, "--run", str(run), *fields, *model]) == 0
    folder = RunFolder(run)
    assert (folder.recipe.model.encoder is None) == (encoder is None)
    params = arrays(run, "last")["params"]
    assert layer in params
    layers = {"body": "up0", "decoder": "TransposedConv_1"}
    assert layers[layer] in params[layer]
    printed = capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    assert ("original_unet_padded: " in printed) == (encoder is None)
    assert ("unet with jaxseg_tests_tiny:Tiny: " in printed) == (encoder is not None)
