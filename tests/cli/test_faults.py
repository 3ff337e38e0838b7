"""Faults in the midst of a run: broken images, numbers that overflow, a loader's process that is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxseg.cli.main import main
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows


def spoil(root, split, index):
    file = root / "images" / split / f"{index}.png"
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.slow
def test_an_image_that_stops_decoding_ends_the_run_where_the_recipe_says_stop(
    fields, folder, tmp_path, at_step, capsys
):
    root, options = folder
    run = tmp_path / "run"
    at_step(1, lambda: [spoil(root, "train", index) for index in range(16)])
    assert main(["train", "--run", str(run), *fields, *options, "--train.epochs=9"]) == 2
    error = capsys.readouterr().err
    assert ".png does not decode" in error
    assert f"The state of step {RunFolder(run).last.step} is saved" in error


@pytest.mark.slow
def test_an_image_that_stops_decoding_is_skipped_and_listed_where_the_recipe_says_skip(
    fields, folder, tmp_path, at_step, capsys
):
    root, options = folder
    run = tmp_path / "run"
    at_step(2, lambda: (spoil(root, "train", 5), spoil(root, "val", 2)))
    options = [*options, "--data.unreadable=skip", "--train.epochs=9"]
    assert main(["train", "--run", str(run), *fields, *options]) == 0
    listed = [row for row in read_rows(run) if row["kind"] == "unreadable"]
    assert len(listed) >= 2  # once an epoch, but for what was read ahead
    assert all("5.png does not decode" in row["problems"][0] for row in listed)
    printed = capsys.readouterr()
    assert printed.out.count("5.png does not decode") == 1
    assert main(["evaluate", str(run)]) == 0  # of four images
    last = [row for row in read_rows(run) if row["kind"] == "validation"][-1]
    assert np.isfinite(last["loss"])


def test_a_disk_that_has_gone_is_not_skipped(fields, folder, tmp_path, at_step, capsys):
    root, options = folder
    at_step(2, lambda: (root / "images").rename(root / "unmounted"))
    options = [*options, "--data.unreadable=skip", "--train.epochs=9"]
    assert main(["train", "--run", str(tmp_path / "run"), *fields, *options]) == 2
    assert "records in a row cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_numbers_that_overflow_end_the_run_and_name_the_images(fields, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--optimizer.learning-rate=1e38", "--optimizer.warmup=0", "--train.max-skipped=3"]
    assert main(["train", "--run", str(run), *fields, *options, "--train.epochs=9"]) == 2
    error = capsys.readouterr().err
    assert "was not finite 3 times in a row" in error
    skipped = [row for row in read_rows(run) if row["kind"] == "skipped"]
    assert len(skipped) >= 3
    assert all(len(row["names"]) == 8 for row in skipped)
    assert all(name in error for name in skipped[-1]["names"])


KILLED = """
import multiprocessing, os, signal, sys
from jaxseg.data import train_batches
from jaxseg.data.sources.shapes import Shapes

class Broken(Shapes):
    def __getitem__(self, index):
        if index == 63:
            raise ZeroDivisionError("a defect of the source")
        return super().__getitem__(index)

if __name__ == "__main__":
    source = (Broken if sys.argv[1] == "raise" else Shapes)(64, (16, 16), seed=0)
    with train_batches(source, None, batch_size=2, seed=0, num_workers=2) as batches:
        next(batches)
        if sys.argv[1] == "kill":
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        while True:
            next(batches)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [("kill", "terminated unexpectedly with exit code -9"), ("raise", "a defect of the source")],
)
def test_a_loaders_process_that_dies_ends_the_loading_with_its_traceback(tmp_path, fault, message):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, script, fault], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert fault == "kill" or "in __getitem__" in done.stderr


@pytest.mark.slow
def test_a_run_whose_loaders_process_is_killed_saves_and_goes_on(
    fields, finished, tmp_path, at_step, capsys
):
    run = tmp_path / "run"

    def kill():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    began = time.monotonic()
    at_step(2, kill)
    options = [*fields, "--data.workers=1", "--train.epochs=99"]
    assert main(["train", "--run", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert "exit code -9" in error
    assert "is saved; the run can be resumed" in error
    assert time.monotonic() - began < 60
