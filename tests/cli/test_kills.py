"""Runs whose processes are killed for real, at random moments and in the midst of saving, and go on to the same bits."""

import os
import random
import signal
import time
from collections import Counter

import chex
import pytest

from jaxseg.cli.main import main
from jaxseg.runs.build import build
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows

TIMES = ("seconds", "images_per_second", "loader_wait_seconds")
KILLS = int(os.environ.get("JAXSEG_KILLS", "30"))  # in a row


def whole_state(run):
    """Everything that `last` holds: parameters, statistics, optimizer, averages, and what the run has reached."""
    folder = RunFolder(run)
    run = build(folder.recipe, folder.info)
    return folder.last.restore(run.state_like()), folder.best.restore(run.variables_like)


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run)]


def same_run(run, other):
    chex.assert_trees_all_equal(whole_state(run), whole_state(other))
    assert rows(run) == rows(other)
    assert max(Counter((row["kind"], row["step"]) for row in rows(run)).values()) == 1
    assert not list(run.rglob("*.unfinished"))
    assert (run / "report.html").exists()


def wait_for(process, moment):
    """Waits until the moment has come or the process has ended."""
    deadline = time.monotonic() + 300
    while process.poll() is None and not moment():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_line(process, text):
    wait_for(process, lambda: text in process.stdout.readline())


def kill_in_turn(launch, run, fields, kills, rng):
    """Starts a run, kills it, goes on, and so forth; then lets it end.

    In turn: amid a save, at any moment of training, at any moment of a start.
    """
    survived = 0
    for kill in range(kills + 1):
        begun = (run / "recipe.json").exists()
        process = launch("train", *(["--resume", run] if begun else ["--run", run]), *fields)
        if kill == kills:
            break
        kind = kill % 5
        if kind == 4:
            time.sleep(rng.uniform(0, 8))
        else:
            wait_for_line(process, "run folder")
            for _ in range(rng.randint(0, 4)):
                wait_for_line(process, "step")
            if kind % 2:
                time.sleep(rng.uniform(0, 0.5))
            else:
                wait_for(process, lambda: list(run.glob("checkpoints/*/*.unfinished")))
                time.sleep(rng.uniform(0, 0.15))
        survived += process.poll() is None
        process.kill()
        process.communicate()
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    return survived


@pytest.mark.slow
def test_a_run_that_is_killed_amid_a_save_goes_on_to_the_same_bits(
    launch, fields, finished, tmp_path
):
    assert kill_in_turn(launch, tmp_path / "run", fields, 1, random.Random(0)) == 1
    same_run(tmp_path / "run", finished)


@pytest.mark.slow
def test_a_run_that_is_killed_at_thirty_moments_goes_on_to_the_same_bits(launch, fields, tmp_path):
    """With an average of the parameters; `JAXSEG_KILLS=100` kills it a hundred times in a row."""
    fields = [*fields, f"--train.epochs={2 * KILLS}", "--train.ema-decay=0.9"]
    assert main(["train", "--run", str(tmp_path / "whole"), *fields]) == 0
    survived = kill_in_turn(launch, tmp_path / "killed", fields, KILLS, random.Random(KILLS))
    assert survived >= 0.8 * KILLS  # the others found the run at its end
    same_run(tmp_path / "killed", tmp_path / "whole")
    (state, _), (evaluated, _) = whole_state(tmp_path / "whole")
    chex.assert_trees_all_equal_shapes(state.ema, evaluated["params"])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(state.ema, state.params)


@pytest.mark.slow
def test_a_run_on_photographs_that_is_killed_with_its_workers(
    launch, tiny_encoder, photographs, tmp_path
):
    fields = [
        f"--model.encoder={tiny_encoder}",
        "--train.devices=1",
        "--train.log-every=2",
        "--data.source=camvid",
        f"--data.root={photographs}",
        "--data.workers=1",
        "--augment.crop-size",
        *("64", "96"),
        *("--augment.scale", "0.5", "2.0"),
        "--augment.photometric",
        "--train.batch-size=8",
        "--eval.batch-size=4",
        "--train.epochs=2",
    ]
    assert main(["train", "--run", str(tmp_path / "whole"), *fields]) == 0
    assert kill_in_turn(launch, tmp_path / "killed", fields, 4, random.Random(0)) >= 3
    same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_saves_within_its_grace(launch, fields, tmp_path):
    """SIGTERM at a moment of its own choosing, then the rest: the run folder is that of a whole run."""
    fields = [*fields, "--train.epochs=200"]
    process = launch("train", "--run", tmp_path / "run", *fields)
    wait_for_line(process, "validation")
    time.sleep(0.3)
    sent = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0, printed
    assert time.monotonic() - sent < 10
    step = RunFolder(tmp_path / "run").last.step
    assert f"stopped at step {step}, saved; go on with: jaxseg train --resume" in printed
