import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxseg.data.decode import SUFFIXES, decode_image, decode_mask
from jaxseg.errors import InputError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
IDS = RNG.integers(0, 12, (6, 8), dtype=np.uint8)
LOSSLESS = sorted(SUFFIXES - {".jpg", ".jpeg"})


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_decode_lossless_formats_returns_exact_pixels(write, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    assert np.array_equal(decode_image(write(f"a{suffix}", COLOUR, **options)), COLOUR)
    assert np.array_equal(decode_mask(write(f"b{suffix}", IDS, **options)), IDS)


def test_decode_image_jpeg_is_close(write):
    smooth = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8), 32).reshape(32, 32)
    image = decode_image(write("a.jpg", np.stack([smooth] * 3, -1), quality=95))
    assert image.shape == (32, 32, 3)
    assert np.abs(image.astype(int) - smooth[..., None]).max() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_decode_image_any_mode_returns_rgb(mode, kind):
    image = decode_image(encoded(Image.fromarray(GREY).convert(mode), kind))
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_decode_image_other_colour_spaces_are_converted(mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    assert np.array_equal(
        decode_image(encoded(picture, "TIFF")), np.asarray(picture.convert("RGB"))
    )


def test_decode_image_drops_alpha_and_repeats_grey():
    alpha = np.zeros((6, 8, 1), np.uint8)
    rgba = Image.fromarray(np.concatenate([COLOUR, alpha], -1))
    assert np.array_equal(decode_image(encoded(rgba)), COLOUR)
    assert np.array_equal(decode_image(encoded(Image.fromarray(GREY))), np.stack([GREY] * 3, -1))
    palette = Image.fromarray(COLOUR).convert("P")
    clear = encoded(palette, transparency=bytes(range(256)))
    assert np.array_equal(decode_image(clear), np.asarray(palette.convert("RGB")))


def test_decode_image_16_bit_is_rescaled():
    values = np.array([[0, 257, 65535, 32768]], np.uint16)
    image = decode_image(encoded(Image.fromarray(values)))
    assert image[0, :, 0].tolist() == [0, 1, 255, 128]
    with pytest.raises(InputError, match="8 or 16 bits"):
        decode_image(encoded(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"), "deep")
    with pytest.raises(InputError, match="floating-point"):
        decode_image(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_decode_mask_grey_of_few_bits_keeps_ids(bits):
    """The files are encoded here: PIL does not write grey PNGs of 2 or 4 bits, but optimizers do."""
    ids = np.arange(16).reshape(2, 8) % 2**bits
    rows = [
        np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)) for row in ids
    ]
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert decode_mask(b"\x89PNG\r\n\x1a\n" + parts).tolist() == ids.tolist()


def test_decode_image_32_bit_of_8_bit_values_is_unchanged():
    small = IDS.astype(np.int32) * 20
    assert np.array_equal(decode_image(encoded(Image.fromarray(small), "TIFF"))[..., 1], small)


def test_decode_mask_palette_returns_indices():
    mask = Image.fromarray(IDS)
    mask.putpalette(list(RNG.integers(0, 256, 768)))
    assert mask.mode == "P"
    assert np.array_equal(decode_mask(encoded(mask)), IDS)
    assert np.array_equal(decode_mask(encoded(mask, bits=4)), IDS)
    assert np.array_equal(decode_mask(encoded(mask, "TIFF")), IDS)


def test_decode_mask_other_depths_keep_ids():
    assert decode_mask(encoded(Image.fromarray(IDS > 5))).tolist() == (IDS > 5).astype(int).tolist()
    wide = IDS.astype(np.uint16) * 1000
    assert np.array_equal(decode_mask(encoded(Image.fromarray(wide))), wide)
    assert np.array_equal(
        decode_mask(encoded(Image.fromarray(wide.astype(np.int32)), "TIFF")), wide
    )
    whole = Image.fromarray(IDS.astype(np.float32))
    assert np.array_equal(decode_mask(encoded(whole, "TIFF")), IDS)
    with pytest.raises(InputError, match="fractions"):
        decode_mask(encoded(Image.fromarray(IDS + np.float32(0.5)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_decode_applies_exif_orientation_to_both(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(COLOUR)
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    assert (expected.shape == COLOUR.shape) == (orientation < 5)
    data = encoded(Image.fromarray(COLOUR), kind, exif=exif, **options)
    assert np.array_equal(decode_image(data), expected)
    stored = Image.fromarray(IDS)
    stored.getexif()[0x0112] = orientation
    data = encoded(Image.fromarray(IDS), kind, exif=exif, **options)
    assert np.array_equal(decode_mask(data), np.asarray(ImageOps.exif_transpose(stored)))


def test_decode_image_ignores_broken_exif():
    data = encoded(Image.fromarray(COLOUR), exif=b"Exif\0\0nonsense")
    assert np.array_equal(decode_image(data), COLOUR)


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_decode_truncated_file_is_named(write, decode, suffix):
    pixels = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    file = write(f"cut{suffix}", pixels)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\{suffix}"):
        decode(file)


def test_decode_other_file_is_named(tmp_path):
    for name, content, message in [
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello", "is no PNG"),
        ("html.jpg", b"<!DOCTYPE html><html>", "is no PNG"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} {message}"):
            decode_image(tmp_path / name)
    with pytest.raises(InputError, match=r"gone\.png cannot be opened"):
        decode_image(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png"):
        decode_image(tmp_path / "folder.png")
    with pytest.raises(InputError, match=r"the image of pets\[3\] is empty"):
        decode_image(b"", "the image of pets[3]")


def test_decode_image_bomb_is_refused(monkeypatch, write):
    file = write("bomb.png", COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"bomb\.png is too large"):
        decode_image(file)


def test_decode_mask_colours_raise_with_conversion(write):
    mask = np.zeros((4, 4, 3), np.uint8)
    mask[0] = (128, 64, 128)
    with pytest.raises(InputError) as error:
        decode_mask(write("colour.png", mask))
    message = str(error.value)
    assert "colour.png is a colour image" in message
    assert "(0, 0, 0): 12, (128, 64, 128): 4" in message
    assert "ids_from_colors" in message
    with pytest.raises(InputError, match=r"convert\('L'\)"):
        decode_mask(write("grey.png", np.full((4, 4, 3), 1, np.uint8)))
    with pytest.raises(InputError, match="colour image"):
        decode_mask(write("colour.webp", mask, lossless=True))


@pytest.mark.parametrize("kind", ["GIF", "EPS"])
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_other_formats_are_named_whatever_the_file_is_called(tmp_path, kind, decode):
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path, kind)
    with pytest.raises(InputError, match=r"picture.png is no PNG, JPEG, TIFF, WEBP or BMP image"):
        decode(path)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_a_file_of_several_images_is_refused(tmp_path, kind, decode):
    frames = [Image.fromarray(np.full((8, 8), 60 * i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "stack", kind, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="stack has 3 pages"):
        decode(tmp_path / "stack")


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path):
    image, copy = Image.new("L", (8, 8), 7), Image.new("L", (4, 4), 9)
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(tmp_path / "a.tif", save_all=True, append_images=[copy])
    with Image.open(tmp_path / "a.tif") as written:
        assert written.n_frames == 2
    np.testing.assert_array_equal(decode_mask(tmp_path / "a.tif"), np.full((8, 8), 7))
