"""Decoding of image files: images of any mode become uint8 RGB, masks keep their ids, errors name the file."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from jaxseg.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
"""Decoders of PIL that are asked: others may start programs, such as Ghostscript for EPS, whatever the file's name is."""
MAX_PIXELS = 2**27
"""Images of more pixels (11,585 x 11,585) are refused after reading the header, before decoding."""
_MAX_PAGES = 64
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101  # a tag of TIFF, and two of its bits
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Factors by which PIL scales grey of 2 and 4 bits to 0..255; ids are the values in the file."""


def decode_image(file: str | Path | bytes, name: str = "") -> np.ndarray:
    """Decodes an image as 8-bit RGB, with the EXIF orientation applied.

    Grey images get three equal channels, transparency is dropped, CMYK and other colour spaces are converted, and 16-bit grey
    is divided by 257 (65535 becomes 255), 32-bit grey only if it exceeds 255.

    Args:
        file: A path, or the encoded bytes.
        name: The name in messages; the path by default.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        InputError: The file does not decode; the message names it.
    """
    name = name or _name(file)
    with _open(file, name) as image:
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            if image.mode == "I" and values.min() >= 0 and values.max() <= 255:
                return np.repeat(values[..., None].astype(np.uint8), 3, axis=-1)
            if values.min() < 0 or values.max() > 65535:
                raise InputError(
                    f"{name} has pixels from {values.min()} to {values.max()}: save it with 8 or"
                    " 16 bits per channel"
                )
            grey = ((values + 128) // 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        if image.mode == "F":
            raise InputError(f"{name} holds floating-point pixels; save it with 8 bits per channel")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # PIL warns about direct conversion
        return np.array(image.convert("RGB"))


def decode_mask(file: str | Path | bytes, name: str = "") -> np.ndarray:
    """Decodes a mask of class ids, with the EXIF orientation applied.

    Palette images yield their indices, black-and-white images 0 and 1.

    Args:
        file: A path, or the encoded bytes.
        name: The name in messages; the path by default.

    Returns:
        Integers `[H, W]`, in their stored dtype.

    Raises:
        InputError: The file does not decode, or holds colours or fractions instead of ids.
    """
    name = name or _name(file)
    with _open(file, name) as mask:
        if mask.mode in ("RGB", "RGBA") and mask.format == "WEBP":
            mask = (
                _grey_channel(mask) or mask
            )  # WebP has no grey mode: grey images have equal channels
        if mask.mode not in ("L", "P", "1", "F") and not mask.mode.startswith("I"):
            raise InputError(_colour_message(mask, name))
        values = np.array(mask)
        if mask.mode == "L":
            values //= _GREY_STEPS.get(mask.info.get("rawmode", ""), 1)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        is_integer = np.isfinite(values).all() and np.array_equal(values, np.round(values))
        if not is_integer or np.abs(values).max() >= 2**31:
            raise InputError(f"the mask {name} holds fractions; store class ids as integers")
        return values.astype(np.int32)
    return values


@contextlib.contextmanager
def _open(file: str | Path | bytes, name: str) -> Iterator[Image.Image]:
    """Opens, loads and orients an image; errors of PIL become InputErrors that name the file."""
    try:
        size = len(file) if isinstance(file, bytes) else os.stat(file).st_size
        if size == 0:
            raise InputError(f"{name} is empty (0 bytes)")
        stream = io.BytesIO(file) if isinstance(file, bytes) else file
        image = Image.open(stream, formats=_FORMATS)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image ({size} bytes); save it as one of them, or "
            "remove it"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} is too large to be safe: {error} Cut it into tiles") from None
    except Exception as error:  # of PIL alone, of any type
        raise InputError(f"{name} cannot be opened: {error or type(error).__name__}") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{name} claims {image.width} x {image.height} pixels, more than {MAX_PIXELS}: too large to be safe. Cut"
                " it into tiles"
            )
        image.info["rawmode"] = _raw_mode(image)
        try:
            pages = _pages(image)
            image.load()
        except (
            Exception
        ) as error:  # OSError, SyntaxError, struct.error, ... depending on the format
            raise InputError(
                f"{name} does not decode: {error or type(error).__name__} ({size} bytes);"
                " replace or remove it"
            ) from None
        if pages > 1:
            raise InputError(f"{name} has {pages} pages: save each as an image of its own")
        # A broken EXIF block has no orientation; the pixels are valid.
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        yield image


def _pages(image: Image.Image) -> int:
    """Returns the number of images in a file, without smaller copies of them; a photograph with a preview is one."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format not in ("TIFF", "PNG", "WEBP"):
        return 1
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return frames
    copies = 0
    for frame in range(min(frames, _MAX_PAGES)):
        image.seek(frame)
        copies += int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK != 0
    image.seek(0)
    return frames - copies


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else ""
    first = raw[0] if isinstance(raw, tuple) and raw else raw
    return first[:3] if isinstance(first, str) else ""


def _grey_channel(mask: Image.Image) -> Image.Image | None:
    """Returns one channel of an opaque image whose channels are equal, or None."""
    red, green, blue, *alpha = (np.asarray(band) for band in mask.split())
    opaque = not alpha or (alpha[0] == 255).all()
    equal = np.array_equal(red, green) and np.array_equal(red, blue)
    return Image.fromarray(red) if opaque and equal else None


def _colour_message(mask: Image.Image, name: str) -> str:
    pixels = np.asarray(mask.convert("RGB")).reshape(-1, 3)
    codes, number = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]), return_counts=True)
    colours = (
        codes[:, None] >> np.array([16, 8, 0]) & 255
    )  # sorting integers is far faster than sorting rows
    order = np.argsort(-number, kind="stable")[:8]
    shown = ", ".join(f"{tuple(int(c) for c in colours[i])}: {number[i]}" for i in order)
    more = f", ... {len(colours)} colours" if len(colours) > 8 else ""
    if (pixels[:, :1] == pixels).all():
        way_out = (
            "its three channels are equal, so Image.open(mask).convert('L').save(...) keeps the ids"
        )
    else:
        way_out = (
            "ids = jaxseg.data.ids_from_colors(np.asarray(Image.open(mask).convert('RGB')),"
            " {(r, g, b): id, ...}), then Image.fromarray(ids).save(...) as a PNG"
        )
    return (
        f"the mask {name} is a colour image (mode {mask.mode}), but a mask must hold one class id"
        f" per pixel; colours found (RGB: pixels): {shown}{more}. To convert: {way_out}"
    )


def _name(file: str | Path | bytes) -> str:
    return "an encoded image" if isinstance(file, bytes) else str(file)
