"""Writes the seed corpora, small files of every kind that the readers accept: `python fuzz/seeds.py`."""

import dataclasses
import io
import json
import shutil

import numpy as np
import safetensors.numpy
from PIL import Image
from targets import CORPUS, prepared

from jaxseg.recipe import Recipe


def encoded(kind: str, mode: str, **options: object) -> bytes:
    """Returns an encoded image of 8 x 6 pixels."""
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
    image = Image.fromarray(pixels).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def main() -> None:
    """Writes every corpus."""
    seeds = {
        "mask": {
            "grey.png": encoded("PNG", "L"),
            "palette.png": encoded("PNG", "P"),
            "bits.png": encoded("PNG", "1"),
            "deep.png": encoded("PNG", "I;16"),
            "colour.png": encoded("PNG", "RGB"),
            "photo.jpg": encoded("JPEG", "RGB"),
            "grey.tif": encoded("TIFF", "L"),
            "grey.webp": encoded("WEBP", "RGB", lossless=True),
            "grey.bmp": encoded("BMP", "L"),
        },
        "listing": {
            "good": b"# all\nimages/a.png b.png\n",
            "tab": b"images/a.png\tb.png\r\n",
            "up": b"../a.png b.png\n",
            "link": b"out/etc/passwd b.png\n",
        },
        "weights": {
            "two": safetensors.numpy.save({"a": np.ones((2, 3), np.float32), "b": np.zeros(1)}),
            "none": safetensors.numpy.save({}),
        },
        "recipe": {
            "full": json.dumps(dataclasses.asdict(Recipe())).encode(),
            "part": b'{"train": {"epochs": 2}, "data": {"label_map": {"0": 1, "255": null}}}',
        },
    }
    shutil.rmtree(CORPUS, ignore_errors=True)
    for target, files in seeds.items():
        (CORPUS / target).mkdir(parents=True)
        for name, content in files.items():
            (CORPUS / target / name).write_bytes(content)
    write_builder_seeds()


def write_builder_seeds() -> None:
    """Writes each file of a prepared data set as a seed."""
    (CORPUS / "builder").mkdir()
    files = sorted(path for path in prepared().rglob("*") if path.is_file())
    for index, file in enumerate(files):
        if "-test." not in file.name and "-val." not in file.name:
            (CORPUS / "builder" / file.name).write_bytes(bytes([index]) + file.read_bytes())


if __name__ == "__main__":
    main()
