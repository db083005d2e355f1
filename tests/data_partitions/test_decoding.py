"""Images of every kind become upright 8-bit RGB, or are refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_partitions.decoding import decode_image, to_square
from federation.errors import DataError


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_16_bit_colour(pixels: np.ndarray) -> bytes:
    """Pillow reads such files and cannot write them."""
    height, width, _ = pixels.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [200, 100, 50], [0, 0, 0]]], dtype=np.uint8)


def test_rgb_png_is_kept_exactly() -> None:
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(COLOURS), "png")), COLOURS)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, COLOURS),
        (2, COLOURS[:, ::-1]),
        (3, COLOURS[::-1, ::-1]),
        (4, COLOURS[::-1]),
        (5, COLOURS.transpose(1, 0, 2)),
        (6, COLOURS[::-1].transpose(1, 0, 2)),
        (7, COLOURS[::-1, ::-1].transpose(1, 0, 2)),
        (8, COLOURS[:, ::-1].transpose(1, 0, 2)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, expected: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(COLOURS), "png", exif=exif)), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as the cache does while it decodes
def test_broken_exif_does_not_cost_the_image() -> None:
    encoded = encode(Image.new("RGB", (8, 8), (10, 20, 30)), "jpeg", quality=100, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.abs(decode_image(encoded).astype(int) - [10, 20, 30]).max() <= 2


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for kind in ("png", "tiff"):
        decoded = decode_image(encode(Image.fromarray(grey), kind))
        np.testing.assert_array_equal(decoded, np.repeat([[[0], [1], [128], [255]]], 3, axis=2))


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    colours = np.array([[[0, 300, 65535], [32896, 257, 514]]], dtype=np.uint16)
    np.testing.assert_array_equal(decode_image(png_of_16_bit_colour(colours)), [[[0, 1, 255], [128, 1, 2]]])


def test_float_grey_in_the_unit_interval_is_scaled() -> None:
    encoded = encode(Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32)), "tiff")
    np.testing.assert_array_equal(decode_image(encoded)[..., 0], [[0, 51, 255]])


def test_cmyk_jpeg() -> None:
    encoded = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", quality=100)
    assert np.abs(decode_image(encoded).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(4), (1, 2, 3)),
        (Image.new("LA", (2, 2), (100, 255)), (100, 100, 100)),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 255)), (200, 100, 50)),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 0)), (0, 0, 0)),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 51)), (40, 20, 10)),
    ],
    ids=["grey", "bilevel", "palette", "grey and alpha", "opaque", "transparent", "one fifth"],
)
def test_other_modes(image: Image.Image, expected: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(decode_image(encode(image, "png")), np.full((2, 2, 3), expected))


def test_the_transparent_colour_of_a_palette_is_black() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    image.putpalette([250, 250, 250, 5, 6, 7])
    np.testing.assert_array_equal(decode_image(encode(image, "png", transparency=0)), [[[0, 0, 0], [5, 6, 7]]])


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "not an image file"),
        (encode(PHOTO, "jpeg")[:1500], "truncated"),
        (encode(PHOTO, "png")[:5000], "truncated"),
        (encode(PHOTO, "jpeg")[:20], "not an image file|truncated"),
        (encode(PHOTO, "tiff")[:3000], "truncated|unrecognized|decoder|not an image|Truncated|buffer"),
        (encode(PHOTO, "webp", lossless=True)[:3000], "decode|WebP|webp|not an image"),
        (encode(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "tiff"), "mode I lie outside 0 … 65535"),
        (encode(Image.fromarray(np.array([[0, 3.5]], dtype=np.float32)), "tiff"), "mode F lie outside 0 … 1"),
        (encode(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), "tiff"), "mode F lie outside 0 … 1"),
    ],
    ids=["empty", "html", "jpeg", "png", "jpeg header", "tiff", "webp", "32 bits", "float", "nan"],
)
def test_what_cannot_be_decoded_is_refused_with_a_reason(encoded: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(encoded)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_garbage_raises_nothing_but_data_errors(tail: bytes, kind: int) -> None:
    head = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0")[kind]
    with pytest.raises(DataError):
        decode_image(head + tail)


def test_the_centre_square_is_kept() -> None:
    image = np.zeros((2, 6, 3), dtype=np.uint8)
    image[:, 2:4] = 50
    np.testing.assert_array_equal(to_square(image, 2), np.full((2, 2, 3), 50))
    np.testing.assert_array_equal(to_square(image.transpose(1, 0, 2), 2), np.full((2, 2, 3), 50))
    np.testing.assert_array_equal(to_square(image, 32), np.full((32, 32, 3), 50))


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(to_square(stripes, 32)[:, 2:-2].astype(int) - 100).max() <= 1


def test_resampling_is_pillows_lanczos_of_the_crop() -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = Image.fromarray(image).crop((15, 0, 105, 90)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(to_square(image, 32), np.asarray(expected))
