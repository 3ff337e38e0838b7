"""The log appends, holds no step twice, and survives a line that was cut short."""

import json
import math

import pytest

from jaxseg.errors import InputError
from jaxseg.train.log import RunLog, read_rows


def test_rows_are_written_once_and_never_truncated(tmp_path):
    with RunLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write({"kind": "train", "step": step, "loss": 1 / step})
        log.write({"kind": "validation", "step": 3, "mean_iou": 0.5, "iou": [0.5, math.nan]})
    with RunLog(tmp_path) as log:  # resumed from step 1
        for step in (2, 3, 4):
            log.write({"kind": "train", "step": step, "loss": 1 / step})
    rows = read_rows(tmp_path)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("validation", 3),
        ("train", 4),
    ]
    assert rows[3]["iou"] == [0.5, None]
    assert rows[1]["loss"] == 1 / 2


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path):
    file = tmp_path / "metrics.jsonl"
    whole = json.dumps({"kind": "train", "step": 1, "loss": 1.0})
    file.write_text(f"{whole}\n" + '{"kind": "train", "st')
    with RunLog(tmp_path) as log:
        log.write({"kind": "train", "step": 2, "loss": 0.5})
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2]
    assert file.read_text().startswith(whole)


def test_tensorboard_files_are_written(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"kind": "train", "step": 1, "loss": 1.0})
    events = list(tmp_path.glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()


def test_a_full_disk_ends_the_events_and_not_the_run(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with RunLog(tmp_path) as log:
        monkeypatch.setattr("jaxseg.train.log.EventsWriter.write_event", full)
        for step in range(50):
            log.write({"kind": "train", "step": step, "loss": 1.0})
    assert len(read_rows(tmp_path)) == 50
    assert len([r for r in caplog.records if "No space left" in r.getMessage()]) == 1


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*metrics.jsonl"), RunLog(tmp_path) as log:
        log.write({"kind": "train", "step": 1, "loss": 1.0})
