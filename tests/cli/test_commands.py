"""The other commands, and what each kind of bad input gets: a message, exit code 2, nothing lost."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxseg import encoders, models, pretrained
from jaxseg.cli.main import main
from jaxseg.parallel.compiled_step import CompiledStep
from jaxseg.runs.log import read_rows


def test_evaluate_gives_the_numbers_of_training_again(finished, capsys):
    validations = [row for row in read_rows(finished) if row["kind"] == "validation"]
    best = max(validations, key=lambda row: row["mean_iou"])
    assert main(["evaluate", str(finished)]) == 0
    printed = capsys.readouterr().out
    assert f"mIoU {best['mean_iou']!r}" in printed
    assert f"loss {best['loss']!r}" in printed
    scores = json.loads((finished / "evaluation-val.json").read_text())
    assert scores["mean_iou"] == best["mean_iou"]
    assert sum(map(sum, scores["counts"])) == 7 * 24 * 32
    assert main(["evaluate", str(finished), "--checkpoint=last", "--split=val"]) == 0
    assert f"mIoU {validations[-1]['mean_iou']!r}" in capsys.readouterr().out


def test_predict_writes_three_pictures_at_the_images_own_size(finished, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    sizes = {"in/a.png": (17, 31), "in/deep/b.jpg": (40, 23), "single.webp": (5, 5)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / name)
    Image.fromarray(rng.integers(0, 255, (9, 8), np.uint8)).save(tmp_path / "in" / "grey.tif")
    out = tmp_path / "out"
    places = [str(tmp_path / "in"), str(tmp_path / "single.webp")]
    assert main(["predict", str(finished), *places, "--out", str(out)]) == 0
    expected = {"a": (17, 31), "deep/b": (40, 23), "single": (5, 5), "grey": (9, 8)}
    for name, size in expected.items():
        index = np.asarray(Image.open(out / f"{name}.index.png"))
        assert index.shape == size
        assert index.max() < 7
        for kind in ("colour", "overlay"):
            assert np.asarray(Image.open(out / f"{name}.{kind}.png")).shape == (*size, 3)
    assert len(list(out.rglob("*.png"))) == 12


def test_predict_names_what_it_cannot_read_and_does_the_rest(finished, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    assert main(["predict", str(finished), str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "broken.png" in capsys.readouterr().err
    assert (tmp_path / "out" / "good.index.png").exists()
    assert main(["predict", str(finished), str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(finished), str(tmp_path / "empty"), "--out", str(tmp_path)]) == 2
    assert "holds no image" in capsys.readouterr().err


def test_predict_passes_over_what_is_hidden_and_what_it_wrote(finished, tmp_path):
    picture = Image.new("RGB", (8, 8))
    for name in ("a.png", "a.jpg", "b.png", ".hidden.png"):
        picture.save(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    out = tmp_path / "out"
    for _ in range(2):
        places = [str(tmp_path), str(tmp_path / "loop" / "b.png")]
        assert main(["predict", str(finished), *places, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.glob("*.index.png")) == [
        "a.jpg.index.png",
        "a.png.index.png",
        "b.index.png",
    ]


def test_options_that_cannot_be_used_leave_no_run_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(
        CompiledStep, "compile_in_background"
    )  # what is wrong is told before anything is traced
    for option in ("--augment.crop-size=0,0", "--train.seed=-1", "--augment.scale=0,1"):
        run = tmp_path / "run"
        name, _, values = option.partition("=")
        assert main(["train", "--run", str(run), name, *values.split(",")]) == 2
        assert not run.exists()
    assert main(["train", "--dry-run", "--augment.crop-size", "0", "0"]) == 2
    assert main(["train", "--dry-run", "--data.on-device", "--augment.crop-size", "0", "0"]) == 2


def test_check_goes_on_to_the_next_split(tmp_path, capsys):
    for name in ("images/train/a.png", "images/val/b.png", "images/val/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "masks" / "val").mkdir(parents=True)
    (tmp_path / "masks" / "train").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "val" / "b.png")
    Image.new("L", (8, 9)).save(tmp_path / "masks" / "val" / "c.png")
    fields = ["--data.source=folder", f"--data.root={tmp_path}", "--data.num-classes=2"]
    assert main(["datasets", "check", *fields]) == 2
    error = capsys.readouterr().err
    assert "train: no mask" in error
    assert "c.png" in error


def test_report_is_written_again(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert "Worst" in (run / "report.html").read_text()


@pytest.mark.slow
def test_models_lists_what_a_recipe_can_name(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    names = [*models.names(), *encoders.names(), *pretrained.HUB]
    assert [name for name in names if name not in printed] == []
    assert {"31.0", "11.2"} <= set(printed.split())  # millions of original_unet and resnet18


def test_datasets_show_and_check(fields, tmp_path, capsys):
    out = tmp_path / "samples.png"
    assert main(["datasets", "show", "--out", str(out), "--count", "3", *fields]) == 0
    assert np.asarray(Image.open(out)).shape == (3 * 24, 3 * 32, 3)
    assert main(["datasets", "check", *fields]) == 0
    assert "no problem found" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert main(["datasets"]) == 0
    assert "jaxseg 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "none.py"], "no recipe file"),
        (["train", "--model.name=unte"], "did you mean 'unet'"),
        (["train", "--model.encoder=resnet81"], "did you mean 'resnet18'"),
        (
            ["train", "--model.name=original_unet", "--model.encoder=resnet18"],
            "no encoder to choose",
        ),
        (["train", "--model.options", "upsample", "transpose"], "did you mean 'transposed'"),
        (["train", "--model.encoder=nowhere.at.all:build"], "nowhere"),
        (["train", "--model.options", "depht", "3"], "depht"),
        (["train", "--model.dtype=float31"], "did you mean 'float32'"),
        (["train", "--model.pretrained=none.safetensors"], "none.safetensors"),
        (["train", "--data.source=camvit"], "did you mean 'camvid'"),
        (["train", "--data.source=camvid"], "needs a root folder (--data.root)"),
        (["train", "--data.source=camvid", "--data.root=nowhere"], "nowhere"),
        (
            ["train", "--data.source=folder", "--data.root=."],
            "needs a number of classes (--data.num-classes)",
        ),
        (["train", "--data.source=tfds"], "data.options.name is missing"),
        (["train", "--data.train-split=trian"], "did you mean 'train'"),
        (["train", "--data.options", "train_length", "0"], "empty"),
        (["train", "--train.devices=99"], "train.devices is 99"),
        (["train", "--train.batch-size=9"], "a batch of 9 cannot be divided over 8 devices"),
        (
            ["train", "--train.batch-size=9", "--train.spatial-shards=4"],
            "divided over 2 groups of devices",
        ),
        (["train", "--train.micro-batches=4"], "2 images on a device cannot be split into 4"),
        (["train", "--train.ema-decay=1"], "ema_decay is 1.0"),
        (["train", "--model.freeze", "backbone"], "no parameter lies under 'backbone'"),
        (["train", "--train.spatial-shards=3"], "8 devices cannot form groups of 3"),
        (["train", "--train.spatial-shards=0"], "train.spatial_shards is 0, it is at least 1"),
        (["train", "--train.spatial-shards=2", "--train.parallel=pmap"], "need the strategy 'jit'"),
        (["train", "--loss.weights", "dice", "0"], "no loss"),
        (["train", "--loss.class-weights", "1", "2"], "2 class weights for 7 classes"),
        (["train", "--resume=nowhere"], "not a run folder"),
        (["train", "--resume=a", "--run=b"], "give one of them"),
        (["train", "--data.root="], "is a variable of the shell unset?"),
        (["evaluate", "nowhere"], "not a run folder"),
        (["predict", "nowhere", "x.png", "--out=y"], "not a run folder"),
        (["datasets", "chekc"], "did you mean 'check'"),
    ],
)
def test_bad_input(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())  # nothing half-made is left behind


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--run="],
        ["train", "--resume", ""],
        ["evaluate", ""],
        ["evaluate", "run", "--data.root="],
        ["predict", "run", "", "--out=out"],
        ["predict", "run", "x.png", "--out="],
        ["report", ""],
    ],
)
def test_empty_paths_are_refused(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "is a variable of the shell unset?" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_unknown_options_say_what_would_work(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--train.epoch=3"])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "--train.epochs" in printed.out + printed.err


def test_a_checkpoint_of_another_architecture(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["model"]["encoder_options"] = {"width": 4}
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert main(["evaluate", str(run)]) == 2
    message = capsys.readouterr().err
    assert "another architecture" in message
    assert (
        "encoder/Conv_0/kernel: (3, 3, 3, 8) in the checkpoint, (3, 3, 3, 4) in the model"
        in message
    )
