"""Images as people see them: turned as their EXIF says in every format, of a file's first picture, by its content."""

import io
import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from every import every
from tutelage.data import file_kinds
from tutelage.data.decoding import Preparation, central_part, decode, header, pixels, preparation
from tutelage.data.images import read_image
from tutelage.data.pixel_modes import turn_upright
from tutelage.errors import DataError

ORIENTATION = 0x0112
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}}
TURNS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
         6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}
"""EXIF orientation -> how an array [height, width, 3] is turned, as the standard draws it."""


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Four corners of other colours, in blocks that JPEG keeps."""
    array = np.full((height, width, 3), 128, np.uint8)
    array[:16, :16], array[:16, -16:], array[-16:, :16] = (250, 10, 10), (10, 240, 10), (10, 10, 250)
    return Image.fromarray(array)


def tagged(path: Path, orientation: object, kind: str = "JPEG", image: Image.Image | None = None, **options) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (image or picture()).save(path, kind, exif=exif, **LOSSLESS.get(kind, {}), **options)
    return path


def close(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray, most: int = 3) -> bool:
    one, other = np.asarray(one).astype(int), np.asarray(other).astype(int)
    return one.shape == other.shape and int(np.abs(one - other).max()) <= most


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_is_read_as_people_see_it(tmp_path, kind, orientation):
    path = tagged(tmp_path / "a", orientation, kind)
    seen = decode(path)
    assert close(seen, TURNS[orientation](np.asarray(picture())))
    with Image.open(path) as file:
        assert close(seen, ImageOps.exif_transpose(file).convert("RGB"), 0)


@pytest.mark.parametrize("orientation", TURNS)
def test_avif_is_turned_too(tmp_path, orientation):
    seen = decode(tagged(tmp_path / "a.avif", orientation, "AVIF", quality=100, subsampling="4:4:4"))
    assert close(seen, TURNS[orientation](np.asarray(picture())), 6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_as_stored_turns_nothing_and_not_a_tiff_either(tmp_path, kind, orientation):
    seen = decode(tagged(tmp_path / "a", orientation, kind), orientation="as stored")
    assert close(seen, picture())


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_a_compressed_tiff_is_turned_once(tmp_path, compression):
    path = tagged(tmp_path / "a.tif", 6, "TIFF", compression=compression)
    assert close(decode(path), TURNS[6](np.asarray(picture())), 12)
    assert close(decode(path, orientation="as stored"), picture(), 12)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA"])
def test_every_mode_is_turned(tmp_path, mode):
    image = picture().convert(mode)
    path = tagged(tmp_path / "a", 8, "TIFF", image)
    assert close(decode(path), np.rot90(np.asarray(image.convert("RGB"))), 0)


def test_sixteen_bits_are_turned_too(tmp_path):
    values = (np.arange(6, dtype=np.uint16).reshape(2, 3) * 257 * 50)
    for kind in ("PNG", "TIFF"):
        path = tagged(tmp_path / "a", 6, kind, Image.fromarray(values))
        assert np.array_equal(np.asarray(decode(path, 1)), np.rot90(np.arange(6).reshape(2, 3) * 50, -1))


@pytest.mark.parametrize("orientation", [0, 9, 42])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    assert close(decode(tagged(tmp_path / "a.jpg", orientation)), picture())


def with_exif(path: Path, block: bytes) -> Path:
    picture().save(path, "JPEG", exif=block, **LOSSLESS["JPEG"])
    return path


def one_tag(kind: int, count: int, value: bytes) -> bytes:
    """EXIF with an orientation of this type, number of values, and (four) bytes."""
    return b"Exif\0\0" + struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, ORIENTATION, kind, count, value, 0)


@pytest.mark.parametrize(("block", "meant"), [
    (one_tag(3, 1, b"\6\0\0\0"), 6), (one_tag(2, 4, b"abc\0"), 1), (one_tag(2, 2, b"6\0\0\0"), 1),
    (one_tag(3, 2, b"\6\0\1\0"), 6), (one_tag(4, 1, b"\6\0\0\0"), 6), (one_tag(1, 1, b"\6\0\0\0"), 1),
    (one_tag(3, 0, b"\6\0\0\0"), 1)], ids=["short", "text", "a digit", "two", "long", "byte", "none"])
def test_an_orientation_of_an_odd_type_turns_as_pillow_says_or_not_at_all(tmp_path, block, meant):
    assert close(decode(with_exif(tmp_path / "a.jpg", block)), TURNS[meant](np.asarray(picture())))


def block_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


DAMAGED = {"cut": block_of(6)[:-9], "cut early": block_of(6)[:16], "no TIFF inside": b"Exif\0\0nonsense",
           "another offset": block_of(6)[:10] + b"\xff\xff\xff\x7f" + block_of(6)[14:], "only its name": b"Exif\0\0",
           "an endless list": block_of(6)[:14] + b"\xff\xff" + block_of(6)[16:]}


@pytest.mark.parametrize("block", DAMAGED.values(), ids=list(DAMAGED))
@pytest.mark.parametrize("action", ["error", "always"])
def test_damaged_exif_is_no_reason_to_refuse_an_image(tmp_path, block, action):
    path = with_exif(tmp_path / "a.jpg", block)
    with warnings.catch_warnings():
        warnings.simplefilter(action if action == "error" else "ignore")
        before = list(warnings.filters)
        assert decode(path).size in ((48, 32), (32, 48))
        assert header(path).size == (48, 32)
        assert warnings.filters == before


def test_the_turn_comes_before_the_cut(tmp_path):
    path = tagged(tmp_path / "a.png", 6, "PNG")
    how = Preparation(3, 20, 16)
    upright = Image.fromarray(np.ascontiguousarray(TURNS[6](np.asarray(picture()))))
    assert np.array_equal(read_image(path, how).numpy(), pixels(upright, how))
    stored = Preparation(3, 20, 16, orientation="as stored")
    assert np.array_equal(read_image(path, stored).numpy(), pixels(picture(), how))


def test_what_was_turned_says_so_no_longer(tmp_path):
    seen = decode(tagged(tmp_path / "a.png", 6, "PNG"))
    assert ORIENTATION not in seen.getexif()
    assert ImageOps.exif_transpose(seen).size == seen.size


def test_the_first_picture_of_several_counts(tmp_path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        frames[0].save(tmp_path / kind, kind, save_all=True, append_images=frames[1:],
                       **({"lossless": True} if kind == "WEBP" else {}))
        assert decode(tmp_path / kind).getpixel((3, 2)) == (255, 0, 0), kind


def test_a_transparent_gif_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "a.gif", transparency=0)
    seen = decode(tmp_path / "a.gif")
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert seen.getpixel((1, 1)) == (0, 0, 200)


def test_a_preview_in_a_raw_photograph_is_not_taken_for_the_photograph(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1  # what NEF, ARW and DNG say of their first picture
    picture().save(tmp_path / "a.tif", "TIFF", tiffinfo=tags)
    with pytest.raises(DataError, match="raw photograph"):
        decode(tmp_path / "a.tif")
    versions = TiffImagePlugin.ImageFileDirectory_v2()
    versions.tagtype[50706] = 1
    versions[50706] = b"\1\4\0\0"
    picture().save(tmp_path / "b.tif", "TIFF", tiffinfo=versions)
    with pytest.raises(DataError, match="raw photograph"):
        header(tmp_path / "b.tif")


def test_heic_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(file_kinds, "_installed", lambda module: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(DataError) as caught:
        decode(tmp_path / "a.jpg")
    assert "HEIC: install tutelage[heic]" in caught.value.found


def test_heic_is_read_and_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    heif.from_pillow(picture(96, 64)).save(tmp_path / "a.heic", exif=exif.tobytes(), quality=-1)
    seen = decode(tmp_path / "a.heic")
    assert seen.size == (64, 96)
    assert close(seen, TURNS[6](np.asarray(picture(96, 64))), 8)


def test_the_preparation_reads_what_was_written_before_and_refuses_unknown_words():
    old = {"channels": 3, "resize": 256, "crop": 224, "pad": 0, "interpolation": "bilinear, antialiased",
           "alpha": "on white", "orientation": "as stored", "range": [0.0, 1.0]}
    assert preparation(old) == Preparation(3, 256, 224, orientation="as stored")
    assert preparation(old).as_json() == old
    assert preparation({"channels": 1, "resize": 8, "crop": 8, "pad": 0}).orientation == "as stored"
    for how in (Preparation(3, 256, 224), Preparation(1, (8, 16), (4, 8), 1, "as stored", (0.0, 4095.0))):
        assert preparation(how.as_json()) == how
    for wrong in ({"orientation": "sideways"}, {"orientation": ["upright"]}, {"value_range": [1, 0]},
                  {"value_range": "16 bits"}, {"value_range": [0, float("nan")]}, {"crop": [224]},
                  {"crop": [224, "8"]}, {"resize": [True, 1]}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            preparation({**old, **wrong})


def naive_cut(height: int, width: int, resize: tuple[int, int], crop: tuple[int, int]) -> tuple[float, float]:
    """Scale by as much as covers `resize`, and see how much of the image the crop is."""
    factor = max(resize[0] / height, resize[1] / width)
    return crop[0] / factor, crop[1] / factor


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (100, 100), (30, 3000), (7, 5)])
@pytest.mark.parametrize(("resize", "crop"), [((64, 128), (32, 64)), ((60, 20), (60, 20)), ((256, 256), (224, 224))])
def test_the_part_that_is_cut_out_covers_what_is_wanted(height, width, resize, crop):
    tall, wide = central_part(height, width, Preparation(3, resize, crop))
    np.testing.assert_allclose((tall, wide), naive_cut(height, width, resize, crop), rtol=1e-12)
    assert tall <= height + 1e-9
    assert wide <= width + 1e-9


def test_an_image_of_two_to_one_is_cut_and_scaled_alike(tmp_path):
    image = picture(96, 48)
    seen = pixels(image, Preparation(3, (24, 48), (24, 48)))
    assert seen.shape == (3, 24, 48)
    right = image.resize((48, 24), Image.Resampling.BILINEAR)
    assert close(seen.transpose(1, 2, 0), right, 0)


def test_reading_an_image_without_orientation_copies_nothing_more(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    image = Image.open(tmp_path / "a.png")
    with image:
        image.load()
        held = image.im
        turn_upright(image)
        assert image.im is held


def test_all_kinds_have_suffixes_and_no_suffix_two_kinds():
    suffixes = [suffix for kind in file_kinds.KINDS for suffix in file_kinds.SUFFIXES[kind]]
    assert len(set(suffixes)) == len(suffixes)
    assert every(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)


@pytest.mark.parametrize(("size", "inside"), [((40, 30), (40, 30)), ((80, 60), (40, 30)), ((20, 60), (10, 30)),
                                              ((64, 21), (48, 16)), ((3000, 1), (48, 1)), ((1, 3000), (1, 30))])
def test_a_fitted_image_is_whole_in_the_upper_left_and_the_rest_is_grey(size, inside):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, how = Image.fromarray(noise), Preparation(3, (30, 48), (30, 48), fitted=True)
    found = pixels(image, how)
    assert found.shape == how.shape == (3, 30, 48)
    width, height = inside
    wanted = np.asarray(image.resize(inside, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (found[:, :height, :width] == wanted).all()
    assert (found[:, height:] == 114).all()
    assert (found[:, :, width:] == 114).all()
    assert pixels(image.convert("L"), Preparation(1, 32, 32, fitted=True)).shape == (1, 32, 32)


def test_a_fitted_preparation_travels_as_json_and_others_are_not_taken_for_one():
    for how in (Preparation(3, (30, 48), (30, 48), fitted=True),
                Preparation(1, 64, 64, orientation="as stored", value_range=(0.0, 5.0), fitted=True)):
        again = preparation(json.loads(json.dumps(how.as_json())))
        assert (again.size, again.channels, again.fitted) == (how.size, how.channels, True)
        assert (again.orientation, again.value_range) == (how.orientation, how.value_range)
        assert again.as_json() == how.as_json()
    assert "kind" not in Preparation(3, 32, 28).as_json()
    with pytest.raises(DataError, match="preprocessing cannot be read"):
        preparation({**Preparation(3, 32, 32, fitted=True).as_json(), "fill": 0})
    with pytest.raises(DataError, match="preprocessing cannot be read"):
        preparation({**Preparation(3, 32, 32, fitted=True).as_json(), "size": "32"})
