"""Training whose images live on the devices, from the command line."""

import chex
import numpy as np
import pytest
from PIL import Image

from jaxseg import data
from jaxseg.cli.main import main
from jaxseg.runs import batches
from jaxseg.runs.build import build
from jaxseg.runs.evaluation import load_variables
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows
from jaxseg.train import multi_step

AUGMENT = [
    "--data.on-device",
    "--data.rare-class-temperature=0.05",
    "--augment.scale=0.5",
    "2.0",
    "--augment.rotate=10",
    "--augment.cutmix=0.5",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, fields):
    run = tmp_path_factory.mktemp("on_device") / "whole"
    assert main(["train", "--run", str(run), *fields, *AUGMENT]) == 0
    return run


def interrupted(stop_at, at, arguments):
    """Runs until a signal comes with this step."""
    stop_at(at)
    assert main(arguments) == 0


def plain_rows(run):
    times = ("seconds", "images_per_second", "loader_wait_seconds")
    return [{k: v for k, v in row.items() if k not in times} for row in read_rows(run)]


def arrays(run):
    folder = RunFolder(run)
    built = build(folder.recipe, folder.info)
    return [load_variables(folder, built, checkpoint) for checkpoint in ("best", "last")]


def losses(run):
    return [row["loss"] for row in read_rows(run) if row["kind"] == "train"]


def test_a_run_says_what_it_samples_and_learns(whole):
    rows = read_rows(whole)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 3, 4, 6]
    (counted,) = [row for row in rows if row["kind"] == "classes"]
    source = data.Shapes(24, (24, 32))
    assert counted["pixels"] == data.class_pixels(source).sum(0).tolist()
    assert losses(whole)[-1] < losses(whole)[0]


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits_and_counts_once(
    whole, fields, tmp_path, monkeypatch, stop_at, at
):
    run = str(tmp_path / "stopped")
    interrupted(stop_at, at, ["train", "--run", run, *fields, *AUGMENT])
    assert read_rows(run)[-1]["step"] < 6
    monkeypatch.setattr(data.host.sampling, "class_pixels", None)  # it would fail if it were called
    assert main(["train", "--resume", run]) == 0
    assert plain_rows(run) == plain_rows(whole)
    chex.assert_trees_all_equal(arrays(run), arrays(whole))


@pytest.mark.slow
def test_steps_that_are_one_program_give_the_same_run(
    whole, fields, tmp_path, monkeypatch, stop_at
):
    """As on a GPU, where all steps up to a line of the log are one; stopped in between and resumed."""
    monkeypatch.setattr(multi_step, "loops_on_host", lambda parallel: False)
    monkeypatch.setattr(batches, "loops_on_host", lambda parallel: False)
    run = str(tmp_path / "chunks")
    interrupted(stop_at, 3, ["train", "--run", run, *fields, *AUGMENT])
    assert main(["train", "--resume", run]) == 0
    rows = [plain_rows(run), plain_rows(whole)]
    assert len(rows[0]) == len(rows[1])
    for got, expected in zip(*rows, strict=True):
        assert got.keys() == expected.keys()
        np.testing.assert_allclose(got.get("loss", 0), expected.get("loss", 0), rtol=1e-4)


@pytest.mark.slow
def test_skipped_updates_are_named_within_a_program(fields, tmp_path, monkeypatch):
    """An update takes the parameters so far that the squares of all of them are infinite."""
    monkeypatch.setattr(multi_step, "loops_on_host", lambda parallel: False)
    monkeypatch.setattr(batches, "loops_on_host", lambda parallel: False)
    run = tmp_path / "skipping"
    wild = ["--optimizer.learning-rate=1e38", "--optimizer.clip-norm=None", "--optimizer.warmup=0"]
    code = main(
        ["train", "--run", str(run), *fields, "--data.on-device", *wild, "--train.max-skipped=2"]
    )
    assert code == 2
    skipped = [row for row in read_rows(run) if row["kind"] == "skipped"]
    assert [row["step"] for row in skipped] == [1, 2]
    assert all(len(row["names"]) == 8 for row in skipped)


def test_samples_are_shown_as_the_network_will_see_them(fields, tmp_path):
    out = tmp_path / "samples.png"
    code = main(
        ["datasets", "show", "--out", str(out), "--count", "3", *fields, "--data.on-device"]
    )
    assert code == 0
    with Image.open(out) as picture:
        assert picture.size == (3 * 32, 3 * 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augment.copy-paste=0.5"], "--augment.copy-paste exists on the device only"),
        (["--data.on-device", "--train.spatial-shards=2"], "leave out --train.spatial-shards"),
        (["--data.on-device", "--augment.cutmix=2"], "a probability lies in 0..1, got 2.0"),
        (["--data.rare-class-temperature=0"], "temperature of rare class sampling is 0.0"),
    ],
)
@pytest.mark.sample(2)
def test_fields_that_do_not_fit_are_refused(fields, tmp_path, capsys, arguments, message):
    run = tmp_path / "refused"
    assert main(["train", "--run", str(run), *fields, "--train.devices=2", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "recipe.json").exists()


def test_images_of_two_sizes_are_refused_by_name(tiny_encoder, tmp_path, capsys):
    for index in range(4):
        for kind, value in (("images", (9, 9, 9)), ("masks", index % 2)):
            folder = tmp_path / "set" / kind / "train"
            (folder.parent / "val").mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
            size = (32, 24 + 8 * (index == 2))
            mode = "RGB" if kind == "images" else "L"
            for place in (folder, folder.parent / "val"):
                Image.new(mode, size, value).save(place / f"{index}.png")
    fields = [f"--model.encoder={tiny_encoder}", "--data.source=folder", "--data.num-classes=2"]
    fields += ["--data.root", str(tmp_path / "set"), "--data.on-device", "--train.batch-size=8"]
    assert main(["train", "--run", str(tmp_path / "run"), *fields]) == 2
    said = capsys.readouterr().err
    assert "of 0 is 24 x 32 x 3 uint8 and that of 2 is 32 x 32 x 3 uint8" in said


@pytest.mark.slow
def test_street_scenes_are_trained_on_the_device(tiny_encoder, photographs, tmp_path):
    run = tmp_path / "camvid"
    fields = [f"--model.encoder={tiny_encoder}", "--data.source=camvid"]
    fields += [f"--data.root={photographs}", "--train.epochs=4"]
    fields += ["--augment.crop-size", "96", "128", "--augment.photometric"]
    fields += ["--train.batch-size=8", "--augment.mosaic=0.3", "--augment.copy-paste=0.3"]
    assert main(["train", "--run", str(run), *fields, *AUGMENT]) == 0
    assert losses(run)[-1] < losses(run)[0]
