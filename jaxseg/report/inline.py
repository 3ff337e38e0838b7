"""Images as data URIs, small enough to live inside a page."""

import base64
import io

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> str:
    """A lossless data URI of colours `[H, W, 3]` or `[H, W, 4]`, uint8; few colours make it small."""
    image = Image.fromarray(pixels)
    if pixels.shape[2] == 3 and len(np.unique(pixels.reshape(-1, 3), axis=0)) <= 256:
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    return _uri(image, "png", optimize=True)


def photograph(pixels: np.ndarray) -> str:
    """A data URI of a photograph `[H, W, 3]`, uint8: WebP, without loss where the image is small."""
    small = max(pixels.shape[:2]) <= 128
    return _uri(Image.fromarray(pixels), "webp", quality=85, lossless=small, method=4)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
