"""Fixtures that write small data sets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"


@pytest.fixture(scope="session")
def camvid_root():
    """The folder of the real data set; skips the test without it."""
    if not CAMVID.is_dir():
        pytest.skip(f"{CAMVID} is missing")
    return CAMVID


@pytest.fixture
def write(tmp_path):
    """Writes one image or mask below the test's folder and returns its path."""

    def write(name: str, pixels: np.ndarray, **options) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, **options)
        return file

    return write


@pytest.fixture
def pairs(tmp_path, write):
    """Writes images/0.png, masks/0.png, ... of random pixels and given labels; returns the root."""

    def pairs(count: int = 4, labels: int = 3, size=(6, 8), root: str = ".") -> Path:
        rng = np.random.default_rng(0)
        for i in range(count):
            write(f"{root}/images/{i}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            write(f"{root}/masks/{i}.png", rng.integers(0, labels, size, dtype=np.uint8))
        return tmp_path / root

    return pairs
