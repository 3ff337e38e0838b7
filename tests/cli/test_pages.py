"""Huge pages: refused while programs are made, allowed from the second step on."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.cli import pages
from jaxseg.cli.main import main

STATUS = Path("/proc/self/status")
SCRIPT = f"""
from pathlib import Path
from jaxseg.cli.pages import allow_huge
for allowed in (False, True):
    allow_huge(allowed)
    text = Path({str(STATUS)!r}).read_text()
    print(next(line.split()[1] for line in text.splitlines() if line.startswith("THP_enabled")))
"""


@pytest.mark.skipif(
    not STATUS.exists() or "THP_enabled" not in STATUS.read_text(),
    reason="only Linux since 5.0 tells",
)
def test_the_kernel_is_told():
    out = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["0", "1"]


def test_they_are_allowed_at_the_second_call_and_no_other(monkeypatch):
    told = []
    monkeypatch.setattr(pages, "allow_huge", told.append)
    step, seen = pages.huge_from_second_call(lambda x: -x), []
    for value in (1, 2, 3):
        assert step(value) == -value
        seen.append(list(told))
    assert seen == [[], [True], [True]]


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(pages.ctypes, "CDLL", None)
    pages.allow_huge(False)


@pytest.mark.slow
def test_a_run_begins_without_them(fields, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(pages, "allow_huge", told.append)
    assert main(["train", "--run", str(tmp_path / "run"), *fields]) == 0
    assert told == [False, True]
