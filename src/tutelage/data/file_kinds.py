"""What a file is, by its first bytes and never by its name: the formats that are read, and why others are not."""

from functools import cache
from importlib.util import find_spec

from PIL import features

HEAD_BYTES = 4096
"""So many first bytes tell what a file is."""
SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp", ".dib"),
            "TIFF": (".tif", ".tiff"), "GIF": (".gif",), "AVIF": (".avif", ".avifs"), "HEIC": (".heic", ".heif")}
"""How the files of each format are called; a file of any other name is read as well."""
KINDS = tuple(SUFFIXES)
"""The formats that are read; AVIF where Pillow has it, HEIC with tutelage[heic]."""
_IMAGES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP", b"GIF87a": "GIF", b"GIF89a": "GIF",
           b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"}
_OTHERS = {b"8BPS": "Photoshop (PSD)", b"%!PS": "PostScript (EPS)", b"\xc5\xd0\xd3\xc6": "PostScript (EPS)",
           b"%PDF": "PDF", b"\xff\x4f\xff\x51": "JPEG 2000", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x0a": "JPEG XL",
           b"\0\0\0\x0cJXL ": "JPEG XL", b"\0\0\1\0": "an icon (ICO)", b"\0\0\2\0": "a cursor (CUR)",
           b"v/1\x01": "OpenEXR", b"#?RADIANCE": "Radiance (HDR)", b"DDS ": "DirectDraw (DDS)", b"SIMPLE  =": "FITS",
           b"gimp xcf": "GIMP (XCF)", b"FUJIFILMCCD-RAW": "a raw photograph (RAF)",
           b"IIRO": "a raw photograph (ORF)", b"IIRS": "a raw photograph (ORF)", b"IIU\0": "a raw photograph (RW2)",
           b"\x93NUMPY": "NumPy (NPY)", b"\x89HDF\r\n\x1a\n": "HDF5", b"PK\3\4": "an archive (ZIP)",
           b"\x1f\x8b": "an archive (gzip)", b"Rar!": "an archive (RAR)", b"7z\xbc\xaf\x27\x1c": "an archive (7z)",
           b"\x1aE\xdf\xa3": "a video (Matroska, WebM)", b"\0\5\x16\7": "notes of macOS about a file (AppleDouble)",
           b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`"}
_RIFF = {b"WEBP": "WEBP", b"AVI ": "a video (AVI)", b"WAVE": "sound (WAV)"}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"})


def kind_of(head: bytes) -> str | None:
    r"""The format, one of `KINDS`, of a file that begins so and can be read here; `None` if it cannot.

    >>> kind_of(b"\xff\xd8\xff\xe0"), kind_of(b"%PDF-1.7")
    ('JPEG', None)
    """
    kind = _named(head)
    return kind if kind in KINDS and (kind not in _NEEDS or _NEEDS[kind][0]()) else None


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is of one of `KINDS`, if it can be read here or not."""
    return _named(head) in KINDS


def why_not(head: bytes) -> str:
    r"""Why a file that begins so is not read: what it is, or what would have to be installed.

    >>> why_not(b"%PDF-1.7"), why_not(b"")
    ('PDF', 'an empty file')
    """
    kind = _named(head)
    return f"{kind}: {_NEEDS[kind][1]}" if kind in _NEEDS else kind or "not an image"


def heic_is_read() -> bool:
    """Whether the extra is installed with which HEIC can be read."""
    return _installed("pillow_heif")


@cache
def _installed(module: str) -> bool:
    return find_spec(module) is not None


@cache
def _avif_is_read() -> bool:
    return bool(features.check("avif"))


_NEEDS = {"HEIC": (heic_is_read, "install tutelage[heic]"),
          "AVIF": (_avif_is_read, "install a Pillow that was built with AVIF")}


def _named(head: bytes) -> str | None:
    """What a file is in a word or two, whether it can be read or not."""
    if not head:
        return "an empty file"
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "RIFF")
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "a raw photograph (CR2)"
    for start, kind in (_IMAGES | _OTHERS).items():
        if head.startswith(start):
            return kind if kind != "BMP" else _of_text(head) or kind  # a text may begin with these two letters
    return "DICOM" if head[128:132] == b"DICM" else _of_text(head)


def _of_brands(head: bytes) -> str:
    """Files of the ISO base media format, which begin with a list of brands: AVIF, HEIC, videos."""
    brands = {head[place:place + 4] for place in (8, *range(16, min(int.from_bytes(head[:4], "big"), len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIC_BRANDS or head[8:12] in (b"mif1", b"msf1"):
        return "HEIC"
    return "a raw photograph (CR3)" if b"crx " in brands else "a video (MP4, MOV)"


def _of_text(head: bytes) -> str | None:
    text = head[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text[:1] == b"<":
        web = b"<html" in text or b"<!doctype html" in text
        return "SVG" if b"<svg" in text and not web else "a web page (HTML)" if web else "XML"
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return "Netpbm (PBM, PGM, PPM)"
    return "text" if all(byte in _PRINTED for byte in head[:1024]) else None


_PRINTED = frozenset(b"\t\n\r\f") | frozenset(range(32, 127))
