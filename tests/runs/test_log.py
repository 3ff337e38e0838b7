"""The log appends, contains no step twice, and survives incomplete lines."""

import json
import math

import pytest

from jaxseg.errors import InputError
from jaxseg.runs.log import RunLog, read_rows


def test_log_of_a_resumed_run_has_each_row_once(tmp_path):
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


def test_incomplete_line_is_skipped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    complete = json.dumps({"kind": "train", "step": 1, "loss": 1.0})
    file.write_text(f"{complete}\n" + '{"kind": "train", "st')
    with RunLog(tmp_path) as log:
        log.write({"kind": "train", "step": 2, "loss": 0.5})
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2]
    assert file.read_text().startswith(complete)


def test_log_writes_tensorboard_files(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"kind": "train", "step": 1, "loss": 1.0})
    events = list(tmp_path.glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()


def test_full_disk_ends_the_events_alone(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with RunLog(tmp_path) as log:
        monkeypatch.setattr("jaxseg.runs.log.EventsWriter.write_event", full)
        for step in range(50):
            log.write({"kind": "train", "step": step, "loss": 1.0})
    assert len(read_rows(tmp_path)) == 50
    assert len([r for r in caplog.records if "No space left" in r.getMessage()]) == 1


def test_log_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*metrics.jsonl"), RunLog(tmp_path) as log:
        log.write({"kind": "train", "step": 1, "loss": 1.0})
