"""What a person and the log are told of a step."""

import io

from rich.console import Console

from jaxseg.cli.progress import RunObserver
from jaxseg.train.log import RunLog, read_rows


def told(tmp_path, *, terminal):
    """What is printed of ten steps that have waited for their images."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=200)
    with (
        RunLog(tmp_path) as log,
        RunObserver(
            log,
            console,
            start=0,
            steps=20,
            steps_per_epoch=10,
            batch_size=4,
            learning_rate=lambda step: 0.1,
        ) as observer,
    ):
        observer.on_step(10)
        observer.on_train(10, {"loss": 0.5, "skipped": 0.0, "stall_seconds": 1.23456})
    return shown.getvalue()


def test_the_stall_is_in_the_line_the_row_and_the_events(tmp_path):
    line = told(tmp_path, terminal=False)
    assert line.startswith("epoch 1  step 10/20  loss 0.5000  ")
    assert " images/s  stall 1.2 s  " in line
    (row,) = read_rows(tmp_path)
    assert row["stall_seconds"] == 1.235
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"train/stall_seconds" in events.read_bytes()


def test_the_bar_shows_it_too(tmp_path):
    assert "stall 1.2 s" in told(tmp_path, terminal=True)
