"""One rule from a file to pixels, and a named refusal of everything else."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.images import Preparation, decode, header, preparation, prepare_image, printable, read_image
from tutelage.errors import DataError, SecurityError


def png_header(width: int, height: int) -> bytes:
    """A PNG of this size whose pixels are missing."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def decoding_error(path: Path) -> DataError | SecurityError | None:
    try:
        decode(path)
    except (DataError, SecurityError) as error:
        return error
    return None


@pytest.mark.parametrize(("format_", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp"),
                                                 ("TIFF", "tiff"), ("GIF", "gif"), ("AVIF", "avif"),
                                                 ("JPEG", "jfif"), ("JPEG", "png"), ("TIFF", ""), ("PNG", "pdf")])
def test_all_formats_are_read_whatever_the_file_is_called(tmp_path, format_, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (20, 10), (200, 100, 50)).save(path, format_)
    image = decode(path)
    assert image.size == (20, 10)
    np.testing.assert_allclose(np.asarray(image).mean((0, 1)), (200, 100, 50), atol=4)
    assert header(path).size == (20, 10)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
    image.save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png")).min() == 255


def test_half_transparent_red_on_white_is_pink(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").getpixel((1, 1)) == (255, 127, 127)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = decode(tmp_path / "a.jpg").getpixel((4, 4))
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize(("content", "found"), [(b"", "an empty file"), (b"<html><body>", "a web page"),
                                                (b"??<html>", "starts with b'??<html>"), (b"8BPS\0\1", "Photoshop"),
                                                (b"%!PS-Adobe-3.0 EPSF", "PostScript"), (b"%PDF-1.7", "PDF")])
def test_what_is_no_image_is_told_by_its_first_bytes(tmp_path, content, found):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        decode(path)
    assert found in caught.value.found
    assert caught.value.where == str(path)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_a_cut_or_garbled_file_is_a_data_error_with_its_path(tmp_path, format_):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format_)
    whole, generator = buffer.getvalue(), np.random.default_rng(1)
    path = tmp_path / "image"
    refused = 0
    for attempt in range(60):
        content = bytearray(whole[:len(whole) // 2] if attempt < 5 else whole)
        for place in generator.integers(0, len(content), 3 * (attempt % 20)):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content)
        error = decoding_error(path)
        refused += error is not None
        assert error is None or error.where == str(path)
    assert refused >= 1


@pytest.mark.parametrize(("width", "height"), [(10_000, 7_000), (13_000, 13_000), (20_000, 20_000)])
@pytest.mark.parametrize("read", [decode, header])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, width, height, read):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(SecurityError, match=r"more pixels than allowed[\s\S]*bomb\.png") as caught:
        read(path)
    assert caught.value.exit_code == 9


def test_the_cap_can_be_lowered(image_file, tmp_path):
    path = image_file(tmp_path / "a.png", size=(12, 10))
    assert decode(path, max_pixels=120).size == (12, 10)
    with pytest.raises(SecurityError, match="12 x 10"):
        decode(path, max_pixels=119)


def test_a_thin_image_costs_no_more_than_another():
    image = prepare_image(Image.new("RGB", (30_000, 1)), Preparation(3, 256, 224))
    assert image.shape == (3, 224, 224)


def test_an_image_of_the_right_size_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    image = prepare_image(Image.fromarray(pixels), Preparation(1, 28, 28, pad=2))
    assert np.array_equal(image[0, 2:-2, 2:-2].numpy(), pixels)
    assert image.sum() == int(pixels.sum())


def test_scaling_and_cutting_is_close_to_what_torchvision_does():
    from torchvision.transforms import v2

    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0)),
                                             (128, 192), mode="bicubic").clamp(0, 1)
    image = Image.fromarray((smooth[0] * 255).byte().permute(1, 2, 0).numpy())
    steps = v2.Compose([v2.Resize(64), v2.CenterCrop(56), v2.PILToTensor()])
    difference = prepare_image(image, Preparation(3, 64, 56)).int() - steps(image).int()
    assert difference[:, 2:-2, 2:-2].abs().max() <= 1
    assert difference.abs().float().mean() < 0.5


def test_the_preparation_travels_as_json(image_file, tmp_path):
    how = Preparation(3, 9, 8, 1)
    again = preparation(json.loads(json.dumps(how.as_json())))
    assert again == how
    assert read_image(image_file(tmp_path / "a.png"), again).shape == (3, 10, 10)
    with pytest.raises(DataError, match="crop"):
        preparation({"channels": 3, "resize": 256, "crop": "224", "pad": 0})


def test_odd_names_are_shown_escaped():
    assert printable(Path("a\nb\u202e.jpg")) == r"a\nb\u202e.jpg"
    assert printable(b"caf\xe9.jpg".decode("utf-8", "surrogateescape")) == r"caf\xe9.jpg"
    assert printable("Größe 😀.jpg") == "Größe 😀.jpg"
