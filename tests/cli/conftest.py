"""A tiny encoder of the user's own and one finished run on it, shared by the tests of the command line."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg.cli.main import main
from jaxseg.runs import trainer
from jaxseg.runs.observer import Observer, combine

ENCODER = textwrap.dedent(
    """
    import flax.linen as nn

    class Tiny(nn.Module):
        in_channels: int = 3
        width: int = 8

        @property
        def strides(self):
            return (2, 4)

        @property
        def channels(self):
            return (self.width, 2 * self.width)

        @nn.compact
        def __call__(self, images, *, train=False):
            features = []
            for channels in self.channels:
                images = nn.relu(nn.Conv(channels, (3, 3), (2, 2))(images))
                features.append(images)
            return tuple(features)
    """
)

FIELDS = [
    "--model.encoder=jaxseg_tests_tiny:Tiny",
    *("--data.options", "size", "24", "32", "train_length", "24", "validation_length", "7"),
    "--train.batch-size=8",
    "--train.epochs=2",
    "--train.devices=1",
    "--train.log-every=2",
]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """The module `jaxseg_tests_tiny` on the import path."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "jaxseg_tests_tiny.py").write_text(ENCODER)
    sys.path.insert(0, str(folder))
    yield "jaxseg_tests_tiny:Tiny"
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def fields(tiny_encoder):
    """The options of a run that takes a few seconds."""
    return FIELDS


@pytest.fixture(scope="session")
def launch(tiny_encoder, tmp_path_factory):
    """Starts `jaxseg` as a process of its own; what is left of it at the end is killed.

    Such processes share no compiled programs with the tests': a kill leaves torn ones.
    """
    import jaxseg_tests_tiny

    modules = [os.path.dirname(jaxseg_tests_tiny.__file__), os.getcwd()]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(modules),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
    }
    program = "import sys; from jaxseg.cli.main import main; sys.exit(main())"
    started = []

    def start(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | variables,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, fields):
    """A run folder after two epochs, without an interruption."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", "--run", str(run), *fields]) == 0
    return run


@pytest.fixture
def at_step(monkeypatch):
    """Calls a function once a step of a run in this process has been dispatched."""

    def hook(step, action):
        log_observer = trainer.log_observer

        def on_step(at):
            if at == step:
                action()

        def observed(log):
            return combine([log_observer(log), Observer(on_step=on_step)])

        monkeypatch.setattr(trainer, "log_observer", observed)

    return hook


@pytest.fixture
def stop_at(at_step):
    """Sends SIGTERM once a step has been dispatched."""
    return lambda step: at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))


@pytest.fixture
def folder(tmp_path):
    """Sixteen images with masks and five more to validate, and the options that train on them."""
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for kind in ("images", "masks"):
        for split, count in (("train", 16), ("val", 5)):
            (root / kind / split).mkdir(parents=True)
            for index in range(count):
                shape = (24, 32, 3) if kind == "images" else (24, 32)
                pixels = rng.integers(0, 255 if kind == "images" else 3, shape, np.uint8)
                Image.fromarray(pixels).save(root / kind / split / f"{index}.png")
    return root, [
        "--data.source=folder",
        "--data.options",  # none: those of the embedded set do not apply
        f"--data.root={root}",
        "--data.num-classes=3",
    ]


@pytest.fixture
def photographs(tmp_path):
    """Forty-eight of CamVid's images to train on and eight to validate, in its folders."""
    camvid, some = Path("../shared/data/camvid"), tmp_path / "photographs"
    if not camvid.is_dir():
        pytest.skip("CamVid is not here")
    for split, count in (("train", 48), ("val", 8)):
        for kind in (split, f"{split}annot"):
            (some / kind).mkdir(parents=True)
            for file in sorted((camvid / kind).iterdir())[:count]:
                (some / kind / file.name).symlink_to(file.resolve())
    return some
