"""Progress of a step, on the screen and in the log."""

import io

from rich.console import Console

from jaxseg.runs.log import RunLog, read_rows
from jaxseg.runs.observer import Observer, combine
from jaxseg.runs.progress import log_observer, progress_observer, with_speed


def shown(tmp_path, *, terminal):
    """The output after ten steps that waited for the loader."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=200)
    options = {"start": 0, "steps_per_epoch": 10}
    with (
        RunLog(tmp_path) as log,
        progress_observer(console, steps=20, summary=str, **options) as progress,
    ):
        both = combine([log_observer(log), progress])
        observer = with_speed(both, batch_size=4, learning_rate=lambda step: 0.1, **options)
        observer.on_step(10)
        observer.on_train(10, {"loss": 0.5, "skipped": 0.0, "loader_wait_seconds": 1.23456})
        observer.on_validation(10, {"loss": 0.4, "counts": [[1, 2]], "iou": [0.5]}, True)
    return output.getvalue()


def test_loader_wait_is_in_line_row_and_events(tmp_path):
    line = shown(tmp_path, terminal=False)
    assert line.startswith("epoch 1  step 10/20  loss 0.5000  ")
    assert " images/s  loader wait 1.2 s  " in line
    train, validation = read_rows(tmp_path)
    assert train["loader_wait_seconds"] == 1.235
    assert train["learning_rate"] == 0.1
    assert validation["iou"] == [0.5]
    assert "counts" not in validation
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"train/loader_wait_seconds" in events.read_bytes()


def test_the_bar_shows_the_loader_wait(tmp_path):
    assert "1.2 s" in shown(tmp_path, terminal=True)


def test_an_observer_calls_what_it_was_given_and_ignores_the_rest():
    seen = []
    first = Observer(on_step=lambda step: seen.append(("first", step)))
    second = Observer(on_step=lambda step: seen.append(("second", step)))
    both = combine([first, second])
    both.on_step(3)
    both.on_test(3, {})
    assert seen == [("first", 3), ("second", 3)]
