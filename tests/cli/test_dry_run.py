"""`jaxseg train --dry-run`: what each device needs, and nothing on disk."""

import os
import subprocess
import sys

import pytest

from jaxseg.cli.main import main


def test_a_dry_run_says_what_the_devices_need_and_writes_nothing(
    fields, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    devices = [field for field in fields if not field.startswith("--train.devices")]
    assert main(["train", "--dry-run", *devices, "--train.devices=2", "--data.on-device"]) == 0
    printed = capsys.readouterr().out
    assert "8 images of 24 x 32 on 2 devices (cpu)" in printed
    assert "memory of each: 0." in printed
    assert "all-reduce" in printed
    assert "each holds the data set of 0.000 GB" in printed
    assert not list(tmp_path.iterdir())


def test_bad_input_is_named(fields, capsys):
    cases = {
        "v5e": "a topology is a chip and a shape, such as v5e:2x4",
        "v9:2x4": "unknown chip 'v9'",
    }
    for topology, message in cases.items():
        assert main(["train", "--dry-run", "--topology", topology, *fields]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "--topology", "v5e:2x4", *fields]) == 2
    assert "--topology needs --dry-run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pod_that_is_not_there():
    """The TPU's own compiler; in a process of its own, for it looks for TPUs."""
    pytest.importorskip("libtpu")
    script = "import sys; from jaxseg.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "train", "--dry-run", "--topology", "v5e:2x4"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    small = ["--train.batch-size", "8"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "unet with resnet18, 8 images of 64 x 64 on 8 devices (v5e:2x4)" in done.stdout
    assert "of 16.000 GB" in done.stdout
    assert "a step takes" in done.stdout
