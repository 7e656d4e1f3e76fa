"""What a file is, told by its content whatever it is called; and the true reason where it is not read."""

import io

import pytest
from PIL import Image

from tutelage.data import file_kinds
from tutelage.data.decoding import kind_of, why_not


def written(kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_what_pillow_writes_is_told_by_its_first_bytes(kind):
    assert kind_of(written(kind)[:file_kinds.HEAD_BYTES]) == kind


def test_large_tiff_files_and_the_other_order_of_bytes():
    assert kind_of(written("TIFF", big_tiff=True)) == "TIFF"
    assert kind_of(b"MM\0*\0\0\0\x08") == "TIFF"


def brands(*names: str) -> bytes:
    first, *others = names
    words = "".join([first, "\0\0\0\0", *others]).encode()
    return (8 + len(words)).to_bytes(4, "big") + b"ftyp" + words + b"meta"


OTHERS = {
    "PDF": b"%PDF-1.7\n", "Photoshop (PSD)": b"8BPS\0\1", "PostScript (EPS)": b"%!PS-Adobe",
    "SVG": b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'>",
    "a web page (HTML)": b"\n<!DOCTYPE html><html><body><svg></svg>", "DICOM": bytes(128) + b"DICM\2\0",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG XL": b"\xff\x0a\xfa",
    "a raw photograph (CR2)": b"II*\0\x10\0\0\0CR\2\0",
    "a raw photograph (CR3)": brands("crx ", "isom"), "a video (MP4, MOV)": brands("isom", "mp41"),
    "a video (AVI)": b"RIFF\0\0\0\0AVI LIST", "an archive (ZIP)": b"PK\3\4\x14", "NumPy (NPY)": b"\x93NUMPY\1\0",
    "a pointer of Git LFS: run `git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "Netpbm (PBM, PGM, PPM)": b"P6\n2 2\n255\n", "text": b"BMW and other makes of cars", "an empty file": b"",
    "not an image": bytes(range(200, 255)),
}


@pytest.mark.parametrize(("reason", "head"), OTHERS.items(), ids=list(OTHERS))
def test_what_is_not_read_is_called_what_it_is(reason, head):
    assert kind_of(head) is None
    assert why_not(head) == reason


def test_the_brands_of_a_container_tell_avif_from_heic(monkeypatch):
    monkeypatch.setattr(file_kinds, "_installed", lambda module: False)
    assert kind_of(brands("mif1", "avif", "miaf")) == "AVIF", "the first brand is that of the container only"
    for heic in (brands("heic", "mif1"), brands("mif1", "heic"), brands("msf1", "hevc"), brands("heix")):
        assert kind_of(heic) is None
        assert why_not(heic) == "HEIC: install tutelage[heic]"


def test_with_the_extra_heic_is_read(monkeypatch):
    monkeypatch.setattr(file_kinds, "_installed", lambda module: module == "pillow_heif")
    assert kind_of(brands("heic", "mif1")) == "HEIC"
