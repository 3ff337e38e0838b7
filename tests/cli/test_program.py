"""The installed program as a process: what it compiled once, later runs load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.cli import compilation_cache
from jaxseg.runs.log import read_rows

PROGRAM = [sys.executable, "-c", "from jaxseg.cli.main import program; program()"]


def run(arguments, cache):
    """The program in a process, with its compiled programs under `cache`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment |= {
        "XDG_CACHE_HOME": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    result = subprocess.run(
        [*PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result


def test_each_kind_of_processor_has_a_folder_of_its_own(monkeypatch):
    here = compilation_cache.settings({"XDG_CACHE_HOME": "/cache"})
    assert compilation_cache.settings({"XDG_CACHE_HOME": "/cache"}) == here
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "another")
    assert compilation_cache.settings({"XDG_CACHE_HOME": "/cache"}) != here
    at_home = compilation_cache.settings({})["JAX_COMPILATION_CACHE_DIR"]
    assert at_home.startswith(str(Path.home() / ".cache" / "jaxseg"))


def test_without_a_folder_for_it_the_program_runs_all_the_same(tmp_path):
    (tmp_path / "file").write_text("no folder can be made below a file")
    assert "jaxseg" in run(["--version"], tmp_path / "file").stdout


def test_what_a_kill_left_torn_is_dropped(tmp_path):
    for name in ("whole-cache", "whole-atime", "torn-cache"):
        (tmp_path / name).write_bytes(b"program")
    compilation_cache.drop_torn(tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.name != ".lockfile"}
    assert left == {"whole-cache", "whole-atime"}


@pytest.mark.slow
def test_a_second_run_loads_what_the_first_compiled(fields, tmp_path):
    found = []
    for name in ("first", "second"):
        run(["train", "--run", str(tmp_path / name), *fields], tmp_path / "cache")
        found.append({path.name for path in (tmp_path / "cache").rglob("*-cache")})
    first, second = found
    assert any("train_step" in name for name in first)
    assert second == first

    def rows(name):
        return [row["loss"] for row in read_rows(tmp_path / name)]

    assert rows("second") == rows("first")
