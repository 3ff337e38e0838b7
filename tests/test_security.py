"""Hostile files: nothing is unpickled, nothing decodes that claims to be huge."""

import pickle
import re
import resource
import struct
import zlib
from pathlib import Path

import pytest

import jaxseg
from jaxseg import pretrained
from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.errors import InputError

PACKAGE = Path(jaxseg.__file__).parent


class Touch:
    """Once it is unpickled, a file exists."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".pt", ".pkl", ""])
def test_no_pickle_is_loaded_as_weights(tmp_path, suffix):
    marker, file = tmp_path / "marker", tmp_path / f"weights{suffix}"
    file.write_bytes(pickle.dumps(Touch(marker)))
    with pytest.raises(InputError, match=r"pickle|not a readable .safetensors file"):
        pretrained.hub.read(pretrained.hub.locate(file))
    assert not marker.exists()


def test_the_package_has_no_way_to_load_a_pickle():
    forbidden = re.compile(
        r"\b(import (pickle|dill|cloudpickle|joblib|shelve|marshal)|from (pickle|dill|cloudpickle|joblib|shelve|marshal)"
        r"|pickle\.loads?\(|allow_pickle|(np|numpy)\.load\(|torch\.load\(\w+\)|yaml\.load|eval\(|exec\()"
    )
    for file in PACKAGE.rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            found = forbidden.search(re.sub(r"[\w.]eval\(|_eval\(", "", line))
            assert found is None or '"' in line, f"{file}: {line}"


def png(width, height, *chunks):
    """A PNG of one grey that claims a size; its pixels are a few bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 1), (12_000, 12_000)])
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_image_bombs_are_refused_before_they_are_decoded(tmp_path, size, decode):
    file = tmp_path / "bomb.png"
    file.write_bytes(png(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for given in (file, file.read_bytes()):
        with pytest.raises(InputError, match="too large to be safe"):
            decode(given)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_small_image_is_read():
    assert decode_image(png(30, 20)).shape == (20, 30, 3)
