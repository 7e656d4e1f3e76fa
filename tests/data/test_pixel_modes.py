"""Every way to hold pixels becomes the 8 bits that it means, or is refused: nothing is clipped in silence."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from tutelage.data.decoding import decode
from tutelage.data.pixel_modes import flatten
from tutelage.errors import DataError

RNG = np.random.default_rng(0)


def tiff(path: Path, values: np.ndarray, *, photometric: int = 1, order: str = "<") -> Path:
    """An uncompressed grey TIFF of these numbers, written by hand: Pillow writes neither all types nor big-endian."""
    kinds = {"u": 1, "i": 2, "f": 3}
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, values.dtype.itemsize * 8), (259, 3, 1), (262, 3, photometric),
            (273, 4, 8 + 2 + 12 * 10 + 4), (277, 3, 1), (278, 4, height), (279, 4, len(data)),
            (339, 3, kinds[values.dtype.kind])]
    entries = b"".join(struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + ("HH" if kind == 3 else "I"),
                       *((value, 0) if kind == 3 else (value,))) for tag, kind, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    path.write_bytes(head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + data)
    return path


def grey(path: Path, **options) -> np.ndarray:
    return np.asarray(decode(path, 1, **options)).astype(int)


ALL = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RIGHT = np.rint(ALL / 65535 * 255).astype(int)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_a_tiff_are_scaled_and_not_clipped(tmp_path, order):
    assert np.array_equal(grey(tiff(tmp_path / "a", ALL, order=order)), RIGHT)


def test_sixteen_bits_of_a_png_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(ALL).save(tmp_path / "a.png")
    assert np.array_equal(grey(tmp_path / "a.png"), RIGHT)
    colours = np.asarray(decode(tmp_path / "a.png", 3)).astype(int)
    assert np.array_equal(colours, np.stack([RIGHT] * 3, -1))


def test_where_zero_is_white_it_is_white(tmp_path):
    assert np.array_equal(grey(tiff(tmp_path / "a", ALL, photometric=0)), 255 - RIGHT)
    few = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for order in "<>":
        assert np.array_equal(grey(tiff(tmp_path / "b", few, photometric=0, order=order)), 255 - few.astype(int))


def test_a_stated_range_holds_for_sixteen_bits_too(tmp_path):
    values = np.array([[0, 2048, 4095, 60000]], np.uint16)
    path = tiff(tmp_path / "a", values)
    assert grey(path).tolist() == [[0, 8, 16, 233]], "12 bits in 16 look nearly black"
    assert grey(path, value_range=(0, 4095)).tolist() == [[0, 128, 255, 255]]


@pytest.mark.parametrize("dtype", ["<i4", "<f4", "<u4", "<i2"])
def test_without_a_stated_range_32_bits_and_signed_numbers_are_refused(tmp_path, dtype):
    path = tiff(tmp_path / "a.tif", np.array([[0, 1, 300]], dtype))
    with pytest.raises(DataError, match=r"range of values[\s\S]*a\.tif[\s\S]*0 to 300[\s\S]*value_range") as caught:
        decode(path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("dtype", "low", "high", "order"), [
    ("<i4", -1000, 3000, "<"), ("<i4", -1000, 3000, ">"), ("<i2", -1024, 3071, "<"), ("<i2", -1024, 3071, ">"),
    ("<f4", 0.0, 1.0, "<"), ("<f4", -0.5, 2.5, ">"), ("<u4", 0, 2**32 - 1, "<")])
def test_with_a_stated_range_they_are_scaled_by_it(tmp_path, dtype, low, high, order):
    share = np.linspace(-0.1, 1.1, 60).reshape(6, 10) if dtype != "<u4" else np.linspace(0, 1, 60).reshape(6, 10)
    values = (low + share * (high - low)).astype(dtype)
    right = [[round(min(max((float(v) - low) / (high - low), 0), 1) * 255) for v in row] for row in values]
    assert np.abs(grey(tiff(tmp_path / "a", values, order=order), value_range=(low, high)) - right).max() == 0


def test_zero_may_be_white_in_32_bits_too(tmp_path):
    path = tiff(tmp_path / "a", np.array([[0, 0.5, 1]], np.float32), photometric=0)
    assert grey(path, value_range=(0, 1)).tolist() == [[255, 127, 0]]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_even_in_a_stated_range(tmp_path, odd):
    path = tiff(tmp_path / "a", np.array([[0, odd, 1]], np.float32))
    with pytest.raises(DataError, match="NaN or infinity"):
        decode(path, value_range=(0, 1))


@pytest.mark.parametrize(("dtype", "order"), [("<f8", "<"), ("<f2", "<"), ("<u4", ">")])
def test_numbers_that_pillow_does_not_know_are_told_of(tmp_path, dtype, order):
    with pytest.raises(DataError, match="64-bit floats"):
        decode(tiff(tmp_path / "a", np.zeros((2, 2), dtype), order=order))


def on_white(colour: tuple[int, int, int], alpha: int) -> tuple[int, ...]:
    return tuple(round((value * alpha + 255 * (255 - alpha)) / 255) for value in colour)


@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_colours_with_alpha_lie_on_white(tmp_path, alpha):
    Image.new("RGBA", (2, 2), (10, 200, 30, alpha)).save(tmp_path / "a.png")
    seen = decode(tmp_path / "a.png").getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(seen, on_white((10, 200, 30), alpha), strict=True)) <= 1
    Image.new("LA", (2, 2), (100, alpha)).save(tmp_path / "b.png")
    assert abs(decode(tmp_path / "b.png", 1).getpixel((0, 0)) - on_white((100,) * 3, alpha)[0]) <= 1
    palette = Image.new("PA", (2, 2), (0, alpha))
    palette.putpalette([10, 200, 30])
    seen = flatten(palette, 3, "here").getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(seen, on_white((10, 200, 30), alpha), strict=True)) <= 1


def test_a_colour_that_means_transparent_becomes_white(tmp_path):
    grey_image = Image.fromarray(np.array([[5, 200]], np.uint8))
    grey_image.save(tmp_path / "l.png", transparency=5)
    assert grey(tmp_path / "l.png").tolist() == [[255, 200]]
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert np.asarray(decode(tmp_path / "rgb.png")).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=b"\0\xff")
    assert np.asarray(decode(tmp_path / "p.png")).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    Image.fromarray(np.array([[257 * 5, 257 * 5 + 1]], np.uint16)).save(tmp_path / "i.png", transparency=257 * 5)
    assert grey(tmp_path / "i.png").tolist() == [[255, 5]], "the key is of 16 bits"


def test_one_bit_is_black_or_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert grey(tmp_path / "a.png").tolist() == [[255, 0]]


def test_cmyk_is_read_as_pillow_reads_it(tmp_path):
    Image.new("CMYK", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif").getpixel((0, 0)) == (0, 255, 255)


def test_colours_that_mean_something_else_are_refused(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    Image.new("LAB", (2, 2)).save(tmp_path / "a.tif", tiffinfo=tags)
    with pytest.raises(DataError, match="LAB"):
        decode(tmp_path / "a.tif")
