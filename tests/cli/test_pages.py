"""Huge pages: refused while programs are made, allowed from the second step on."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.cli import pages, training
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


def test_the_first_call_is_followed_by_keeping_and_the_second_preceded_by_huge_pages(monkeypatch):
    class Programs:
        def keep(self):
            done.append("keep")

    done = []
    monkeypatch.setattr(pages, "allow_huge", lambda allowed: done.append(allowed))
    step = training._starting(lambda x: done.append(x) or -x, Programs())
    assert [step(value) for value in (1, 2, 3)] == [-1, -2, -3]
    assert done == [1, "keep", True, 2, 3]


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
