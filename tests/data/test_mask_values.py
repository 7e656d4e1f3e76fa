"""Which value of a mask is which class, and what kinds of files are masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from every import every
from tutelage.data.images import Preparation, as_array, pixels
from tutelage.data.mask_values import (
    Mask,
    MaskClasses,
    declared,
    guessed,
    prepared_mask,
    read_mask,
    read_mask_names,
)
from tutelage.errors import DataError, SecurityError

NONE = frozenset[int]()
VALUES = np.array([[0, 1, 2, 1], [3, 3, 0, 0], [1, 1, 1, 2]], np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values, "L").copy()
    image.putpalette([7 * k % 256 for k in range(768)])  # the colours say nothing, their numbers do
    return image


@pytest.mark.parametrize(("suffix", "make"), [
    ("png", lambda: Image.fromarray(VALUES)), ("png", lambda: palette(VALUES)), ("bmp", lambda: palette(VALUES)),
    ("png", lambda: Image.fromarray(VALUES.astype(np.uint16))), ("tif", lambda: Image.fromarray(VALUES)),
    ("tif", lambda: Image.fromarray(VALUES.astype(np.int32))), ("gif", lambda: palette(VALUES)),
    ("png", lambda: Image.fromarray(np.repeat(VALUES[..., None], 3, 2))),
    ("png", lambda: Image.fromarray(VALUES).convert("LA"))],
    ids=["grey", "palette", "bmp", "16-bit", "tiff", "32-bit", "gif", "grey as RGB", "opaque"])
def test_the_value_of_a_pixel_is_read_whatever_keeps_it(tmp_path, suffix, make):
    mask = read_mask(saved(tmp_path / f"m.{suffix}", make()), 10**6)
    assert mask.values.tolist() == VALUES.tolist()
    assert not mask.lossy


def test_one_bit_is_zero_and_one(tmp_path):
    mask = read_mask(saved(tmp_path / "m.png", Image.fromarray(VALUES == 1)), 10**6)
    assert mask.values.tolist() == (VALUES == 1).astype(int).tolist()


def test_lossless_webp_keeps_values_and_lossy_kinds_are_known(tmp_path):
    image = Image.fromarray(np.repeat(VALUES[..., None], 3, 2) * 60)
    exif = Image.Exif()
    exif[0x010E] = "with this, a WebP file has another kind of header"
    kinds = {"exact.webp": {"lossless": True}, "exact2.webp": {"lossless": True, "exif": exif}, "a.webp": {},
             "b.webp": {"exif": exif}, "c.jpg": {}, "d.png": {}}
    found = {name: read_mask(saved(tmp_path / name, image, **options), 10**6) if name[0] in "ed" else
             read_mask(saved(tmp_path / name, Image.new("L", (4, 3)), **options), 10**6)
             for name, options in kinds.items()}
    assert [name for name, mask in found.items() if mask.lossy] == ["a.webp", "b.webp", "c.jpg"]
    assert every(found[name].values.tolist() == (VALUES * 60).tolist() for name in ("exact.webp", "exact2.webp"))


@pytest.mark.parametrize(("name", "image", "found"), [
    ("m.png", Image.new("RGB", (4, 3), (1, 2, 1)), "colours"),
    ("m.tif", Image.new("F", (4, 3), 0.5), "mode 'F'"),
    ("m.tif", Image.new("I", (4, 3), 70000), "70000"),
    ("m.tif", Image.new("I", (4, 3), -1), "-1"),
    ("m.tif", Image.new("CMYK", (4, 3)), "mode 'CMYK'"),
    ("m.png", Image.new("LA", (4, 3), (1, 128)), "transparent")],
    ids=["colours", "floats", "too large", "negative", "cmyk", "transparent"])
def test_what_is_no_class_number_is_refused_by_name(tmp_path, name, image, found):
    with pytest.raises(DataError, match="no class numbers") as error:
        read_mask(saved(tmp_path / name, image), 10**6)
    assert name in str(error.value)
    assert found in str(error.value)


def test_a_bomb_is_not_decoded_and_half_a_file_is_refused(tmp_path):
    large = saved(tmp_path / "bomb.png", Image.new("1", (4000, 4000)))
    with pytest.raises(SecurityError, match="more pixels"):
        read_mask(large, 10**6)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    half = saved(tmp_path / "half.png", Image.fromarray(noise))
    half.write_bytes(half.read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_mask(half, 10**6)


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (31, 12), (3, 40), (64, 48)])
@pytest.mark.parametrize("crop", [(8, 8), (16, 8), (5, 9)])
def test_a_mask_is_cut_and_scaled_as_its_image_by_the_nearest_pixel(size, crop):
    height, width = size
    how = Preparation(3, crop, crop)
    values = np.arange(height * width).reshape(size)
    scale = max(crop[0] / height, crop[1] / width)  # the image just covers the crop
    tall, wide = crop[0] / scale, crop[1] / scale
    wanted = [[values[int((height - tall) / 2 + (row + 0.5) * tall / crop[0]),
                      int((width - wide) / 2 + (column + 0.5) * wide / crop[1])] for column in range(crop[1])]
              for row in range(crop[0])]
    assert prepared_mask(values, how).tolist() == wanted


def test_image_and_mask_keep_together_when_they_are_scaled():
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:75] = 1
    image = Image.fromarray(np.repeat(mask[..., None] * 255, 3, 2))
    how = Preparation(3, (20, 24), (20, 24))
    scaled, numbers = pixels(image, how)[0], prepared_mask(mask, how)
    assert np.abs(scaled / 255 - numbers).max() <= 0.5
    assert as_array(image).shape == (3, 60, 90)


@pytest.mark.parametrize(("values", "ignored", "numbers"), [
    ([0, 1], NONE, {0: 0, 1: 1}), ([0, 255], NONE, {0: 0, 255: 1}), ([0, 1, 2], NONE, {0: 0, 1: 1, 2: 2}),
    ([1, 2, 3], frozenset({0}), {1: 0, 2: 1, 3: 2}), ([0, 2], frozenset({1}), {0: 0, 2: 1})])
def test_without_a_word_the_values_there_are_are_the_classes(values, ignored, numbers):
    classes = guessed(values, ignored, Path("scans"))
    assert dict(classes.numbers) == numbers
    assert len(classes.names) == len(numbers)


@pytest.mark.parametrize("values", [[0], [], [0, 2], [0, 128, 255], [1, 2], [0, 1, 255]])
def test_values_that_could_mean_anything_are_asked_about(values):
    with pytest.raises(DataError, match="which class is which value") as error:
        guessed(values, NONE, Path("scans"))
    assert "mask_values" in str(error.value)
    assert "ignore" in str(error.value)


def test_classes_go_by_rising_values_and_values_of_one_name_are_one_class():
    classes = declared({"255": "tumour", "0": "background", "7": "organ", "9": "tumour", "8": "organ"}, None,
                       frozenset({1}), False)
    assert classes is not None
    assert classes.names == ("background", "organ", "tumour")
    mask = np.array([[0, 7, 8], [9, 255, 1]], np.uint8)
    assert classes.of(Mask(mask, False), Path("m.png")).tolist() == [[0, 1, 1], [2, 2, 255]]


@pytest.mark.parametrize(("lines", "ignored", "binary", "numbers"), [
    (["a", "b"], NONE, False, {0: 0, 1: 1}), (["a", "b"], NONE, True, {0: 0, 255: 1}),
    (["a", "b", "c"], frozenset({255}), True, {0: 0, 1: 1, 2: 2}),
    (["a", "b"], frozenset({255}), True, {0: 0, 1: 1}),
    (["a", "b", "c"], frozenset({0, 2}), False, {1: 0, 3: 1, 4: 2})])
def test_lines_name_the_values_that_are_not_ignored(lines, ignored, binary, numbers):
    classes = declared(None, lines, ignored, binary)
    assert classes is not None
    assert (classes.names, dict(classes.numbers)) == (tuple(lines), numbers)


def test_a_value_of_no_class_is_refused_with_file_value_and_what_to_write():
    classes = MaskClasses(("a", "b"), {0: 0, 1: 1}, frozenset({254}))
    with pytest.raises(DataError, match="no class") as error:
        classes.of(Mask(np.array([[0, 1], [254, 255]], np.uint8), False), Path("masks/m.png"))
    told = str(error.value)
    assert "masks/m.png" in told
    assert "found     255" in told
    assert "ignore = 255" in told


def test_in_a_lossy_file_each_pixel_is_of_the_nearer_of_two_values_and_of_more_is_refused():
    mask = Mask(np.array([[0, 3, 127], [128, 250, 255]], np.uint8), True)
    assert MaskClasses(("a", "b"), {0: 0, 255: 1}).of(mask, Path("m.jpg")).tolist() == [[0, 0, 0], [1, 1, 1]]
    for classes in (MaskClasses(("a", "b", "c"), {0: 0, 128: 1, 255: 2}),
                    MaskClasses(("a", "b"), {0: 0, 255: 1}, frozenset({128}))):
        with pytest.raises(DataError, match="does not keep values exactly"):
            classes.of(mask, Path("m.jpg"))


@pytest.mark.parametrize("text", [b"one\n", b"a\n\nb\n", b"a\nb\na\n", b"\xff\xfe\n", b""])
def test_names_that_cannot_be_meant_are_refused(tmp_path, text):
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match="names of"):
        read_mask_names(tmp_path / "classes.txt")


def test_names_are_lines(tmp_path):
    (tmp_path / "classes.txt").write_text("﻿background\r\n  soft tissue \nbone\n\n", encoding="utf-8")
    assert read_mask_names(tmp_path / "classes.txt") == ["background", "soft tissue", "bone"]
