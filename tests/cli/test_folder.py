"""Run folders on full, read-only and vanished disks, half made, locked, and left behind by a kill."""

import gc
import json
import shutil
import subprocess

import pytest

from jaxseg.cli.main import main
from jaxseg.errors import InputError
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows

TIMES = ("seconds", "images_per_second", "loader_wait_seconds")


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run)]


@pytest.fixture
def disk(tmp_path):
    """Mounts a small file system, which takes root: `mount(options)` gives its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs root")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def test_two_runs_never_write_into_one_folder(finished, capsys):
    before = {p: p.read_bytes() for p in finished.rglob("*.json*")}
    with RunFolder(finished).locked():
        assert main(["train", "--resume", str(finished)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in before} == before


def test_a_lock_that_a_kill_left_holds_nobody_up(tmp_path):
    (tmp_path / "lock").write_text("process 1 on another machine\n")
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(InputError, match="being written"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():
        assert "another machine" not in (tmp_path / "lock").read_text()


@pytest.mark.parametrize("left", [["lock"], ["lock", "run.json"], ["run.json", "recipe.json.new"]])
def test_a_folder_that_a_kill_left_half_made_trips_nothing(tmp_path, left, capsys):
    for name in left:
        (tmp_path / name).write_text('{"num_cl')
    RunFolder(tmp_path).check_new()
    for command in (["evaluate"], ["report"], ["train", "--resume"]):
        assert main([*command, str(tmp_path)]) == 2
        assert "start it again with --run" in capsys.readouterr().err


def test_every_start_is_recorded_and_a_change_said_aloud(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    assert set(facts["environment"]) == {"python", "versions", "devices", "command", "git"}
    facts["environment"]["versions"]["jax"] = "0.0.1"
    (run / "run.json").write_text(json.dumps(facts))
    assert main(["train", "--resume", str(run)]) == 0
    assert "results may differ: jax: 0.0.1 -> " in capsys.readouterr().out
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 6]
    assert all(start.keys() > facts["environment"].keys() for start in starts)


@pytest.mark.slow
def test_the_seed_decides_everything(finished, fields, tmp_path):
    for seed, equal in ((0, True), (1, False)):
        run = tmp_path / str(seed)
        assert main(["train", "--run", str(run), *fields, f"--train.seed={seed}"]) == 0
        assert (rows(run) == rows(finished)) is equal


def test_a_torn_run_json_is_named(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    whole = (run / "run.json").read_bytes()
    for torn in (b"", whole[:50], b"3", b"\xff" + whole):
        (run / "run.json").write_bytes(torn)
        assert main(["evaluate", str(run)]) == 2
        assert "run.json" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_named(tmp_path, capsys):
    """jaxseg 0.1 wrote other fields, and no version of the folder."""
    facts = {"palette": [[0, 0, 0]], "environment": {"versions": {"jaxseg": "0.1.0"}}}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "recipe.json").write_text('{"loss": {"cross_entropy": 1.0}}')
    for command in (["evaluate"], ["report"], ["train", "--resume"]):
        assert main([*command, str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert "was written by jaxseg 0.1.0" in error
        assert "train again" in error


def test_a_run_of_a_later_version_is_named(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"format": 99}))
    assert main(["evaluate", str(run)]) == 2
    assert "has the format 99" in capsys.readouterr().err


def test_a_read_only_folder(disk, fields, capsys):
    folder = disk("ro,size=1m")
    assert main(["train", "--run", str(folder / "run"), *fields]) == 2
    assert "Read-only file system" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_that_is_removed_while_its_run_goes_on(fields, tmp_path, at_step, capsys):
    run = tmp_path / "run"
    at_step(4, lambda: shutil.rmtree(run))
    assert main(["train", "--run", str(run), *fields]) == 2
    assert "cannot save the checkpoint of step 6" in capsys.readouterr().err
    assert not run.exists()


# Orbax's event loop is gone when the writes that it gave up end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "room", [60, *(pytest.param(room, marks=pytest.mark.slow) for room in (0, 4, 8, 20, 100, 150))]
)
@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(
    disk, fields, finished, room, capsys
):
    """With room for so many kilobytes: for the log, a part of a checkpoint, a whole one, or nothing at all."""
    folder = disk("size=2m")
    filler = folder / "filler"
    filler.write_bytes(bytes(2**21 - 2**10 * room))
    run = folder / "run"
    assert main(["train", "--run", str(run), *fields]) == 2
    error = capsys.readouterr().err
    assert "cannot" in error
    assert "No space left" in error or "ENOSPC" in error
    filler.unlink()
    gc.collect()  # asyncio prints what Orbax's tasks raised when they go, which amid a parse upsets Python 3.11
    begun = (run / "recipe.json").exists()
    assert main(["train", "--resume" if begun else "--run", str(run), *fields]) == 0
    assert rows(run) == rows(finished)
    assert RunFolder(run).last.step == RunFolder(finished).last.step
