"""Every reader of outside bytes stands its seeds, and what a few blind changes make of them: `fuzz/` looks for more."""

import importlib.util
import random
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"


@pytest.fixture(scope="module")
def targets():
    spec = importlib.util.spec_from_file_location("jaxseg_fuzz_targets", FUZZ / "targets.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(data, rng):
    """The bytes with one change: a flip, a cut, an insertion, a number made large."""
    data = bytearray(data)
    at = rng.randrange(min(len(data), 4096)) if data else 0
    kind = rng.randrange(4)
    if kind == 0 and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    else:
        data[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # PIL's and TFDS's, of what they mend themselves
@pytest.mark.parametrize("name", ["mask", "listing", "weights", "recipe", "builder"])
def test_a_reader_stands_its_seeds_and_changes_of_them(targets, name):
    assert set(targets.TARGETS) == {path.name for path in targets.CORPUS.iterdir()}
    read, rng = targets.TARGETS[name], random.Random(0)
    seeds = sorted((targets.CORPUS / name).iterdir())
    assert len(seeds) >= 2
    for seed in seeds:
        data = seed.read_bytes()
        read(data)
        for _ in range(4 if name == "builder" else 60):
            read(changed(data, rng))


def test_a_defect_is_found(targets, monkeypatch):
    """The targets raise what is not an InputError."""
    monkeypatch.setattr(targets.hub, "read", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        targets.weights(b"")
