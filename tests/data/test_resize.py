"""A folder of smaller images: the same names, classes and splits, whole files or none, and nothing silently lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data import resize
from tutelage.data.check import check_folder
from tutelage.data.images import Preparation, decode, read_image
from tutelage.data.load import load_data
from tutelage.data.resize import pre_resize
from tutelage.data.settings import DataSettings
from tutelage.errors import BusyError, DataError, SecurityError, UsageError
from tutelage.system.files import locked


def photograph(path: Path, size: tuple[int, int], mode: str = "RGB", *, shift: float = 0.0, **options) -> Path:
    """A smooth picture, as photographs are: waves of three colours, `shift` along."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[: size[1], : size[0]] / min(size)
    waves = [127 + 120 * np.sin(9 * x + phase + shift) * np.cos(7 * y - phase) for phase in (0.0, 1.0, 2.0)]
    Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode).save(path, **options)
    return path


@pytest.fixture
def large(tmp_path) -> Path:
    root = tmp_path / "large"
    for split, count in {"train": 4, "val": 1, "test": 1}.items():
        for label in ("cat", "dog"):
            for number in range(count):
                shift = 0.3 * (number + 5 * ("train", "val", "test").index(split) + 15 * (label == "dog"))
                photograph(root / split / label / f"{number}.jpg", (120 + number, 80), shift=shift)
    return root


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".webp"))


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in names(root)}


def test_names_and_classes_stay_and_the_shorter_side_has_the_size(large, tmp_path):
    done = pre_resize(large, tmp_path / "small", 32)
    assert names(tmp_path / "small") == names(large)
    for name in names(large):
        width, height = opened(large / name).size
        assert opened(tmp_path / "small" / name).size == (round(width * 32 / height), 32)
    assert (done.smaller, done.as_they_are, done.there) == (12, 0, 0)
    assert done.bytes_before == sum(map(len, contents(large).values()))
    assert done.bytes_after == sum(map(len, contents(tmp_path / "small").values()))
    assert not check_folder(tmp_path / "small").errors


def test_what_training_sees_is_the_same_picture(large, tmp_path):
    pre_resize(large, tmp_path / "small", 32)
    how = Preparation(3, 32, 28)
    for name in names(large):
        one, other = (read_image(root / name, how).float() for root in (large, tmp_path / "small"))
        assert (one - other).abs().mean() < 3, "of 255: JPEG of harsh colours, and rounding"


def test_the_splits_hold_the_same_names(large, tmp_path):
    whole = tmp_path / "whole"
    for number in range(40):  # not split: shares are held out by the hash of a row's place
        photograph(whole / ("cat", "dog")[number % 2] / f"{number:02d}.png", (50, 40 + number))
    pre_resize(whole, tmp_path / "small", 32)
    found = []
    for root in (whole, tmp_path / "small"):
        data = load_data(DataSettings("folder", str(root), image_size=16))
        splits = (data.train, data.validation, data.test)
        found.append([(split.ids.tolist(), split.labels.tolist()) for split in splits])
    assert found[0] == found[1]


def test_small_images_are_copied_byte_by_byte_and_never_enlarged(tmp_path):
    photograph(tmp_path / "all" / "a" / "small.jpg", (40, 31))
    photograph(tmp_path / "all" / "b" / "exact.png", (32, 60))
    done = pre_resize(tmp_path / "all", tmp_path / "to", 32)
    assert (done.smaller, done.as_they_are) == (0, 2)
    assert contents(tmp_path / "to") == contents(tmp_path / "all")


@pytest.mark.parametrize(("name", "mode", "options"), [
    ("x.png", "RGB", {}), ("x.png", "L", {}), ("x.webp", "RGB", {"quality": 80}), ("x.bmp", "RGB", {}),
    ("x.jpg", "L", {}), ("x.jpg", "CMYK", {}), ("x.png", "P", {}), ("x.png", "RGBA", {})])
def test_formats_stay_and_only_jpeg_loses(tmp_path, name, mode, options):
    for label in "ab":
        photograph(tmp_path / "all" / label / name, (90, 60), mode, **options)
    pre_resize(tmp_path / "all", tmp_path / "to", 30)
    large, small = (opened(root / "a" / name) for root in (tmp_path / "all", tmp_path / "to"))
    assert large.format == small.format
    right = large.convert("L" if mode == "L" else "RGB").resize((45, 30), Image.Resampling.BILINEAR)
    apart = np.abs(np.asarray(small.convert(right.mode), dtype=float) - np.asarray(right, dtype=float))
    assert apart.max() == 0 if small.format != "JPEG" else apart.mean() < 3
    assert small.mode == ("L" if mode == "L" else "RGB")


def test_a_second_call_does_nothing_and_a_changed_file_is_made_again(large, tmp_path):
    pre_resize(large, tmp_path / "small", 32)
    before = {name: (tmp_path / "small" / name).stat().st_ino for name in names(large)}
    assert pre_resize(large, tmp_path / "small", 32).there == 12
    photograph(large / "train/cat/0.jpg", (200, 80))
    done = pre_resize(large, tmp_path / "small", 32)
    assert (done.there, done.smaller) == (11, 1)
    assert opened(tmp_path / "small/train/cat/0.jpg").size == (80, 32)
    after = {name: (tmp_path / "small" / name).stat().st_ino for name in names(large)}
    assert [name for name in before if before[name] != after[name]] == ["train/cat/0.jpg"]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_kill_in_the_middle_leaves_whole_files_alone_and_the_next_call_goes_on(large, tmp_path, after, monkeypatch):
    child = os.fork()
    if not child:
        written: list[Path] = []
        plain = resize.write

        def dies(path: Path, data: bytes) -> None:
            if len(written) == after:
                (path.parent / f".{path.name}.00000000.part").write_bytes(data[:50])
                os.kill(os.getpid(), signal.SIGKILL)
            plain(path, data)
            written.append(path)

        resize.write = dies
        resize.folder.in_threads = lambda function, values: [function(value) for value in values]
        pre_resize(large, tmp_path / "small", 32)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(names(tmp_path / "small")) == after
    done = pre_resize(large, tmp_path / "small", 32)
    assert done.there == after
    assert not list((tmp_path / "small").rglob("*.part"))
    pre_resize(large, tmp_path / "straight", 32)
    assert contents(tmp_path / "small") == contents(tmp_path / "straight")


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_images_are_named_and_all_others_written(large, tmp_path, damage):
    bad = large / "train/dog/2.jpg"
    whole = bad.read_bytes()
    bad.write_bytes({"cut": whole[:400], "empty": b"", "text": b"not an image at all"}[damage])
    with pytest.raises(DataError, match="1 of 12 images were left out") as caught:
        pre_resize(large, tmp_path / "small", 32)
    assert "train/dog/2.jpg" in str(caught.value.where)
    assert names(tmp_path / "small") == [name for name in names(large) if name != "train/dog/2.jpg"]
    bad.write_bytes(whole)
    assert pre_resize(large, tmp_path / "small", 32).there == 11


def test_an_image_with_too_many_pixels_is_named_and_not_decoded(large, tmp_path):
    photograph(large / "train/cat/huge.jpg", (200, 200))
    with pytest.raises(SecurityError, match="left out"):
        pre_resize(large, tmp_path / "small", 32, max_pixels=20_000)


def test_an_image_that_the_folder_lost_is_refused_since_it_would_move_the_splits(large, tmp_path):
    pre_resize(large, tmp_path / "small", 32)
    (large / "train/cat/1.jpg").unlink()
    with pytest.raises(DataError, match="does not have") as caught:
        pre_resize(large, tmp_path / "small", 32)
    assert str(caught.value.where).endswith("train/cat/1.jpg")


def test_another_size_another_content_and_the_folder_itself_are_refused(large, tmp_path):
    pre_resize(large, tmp_path / "small", 32)
    with pytest.raises(UsageError, match="holds something else"):
        pre_resize(large, tmp_path / "small", 33)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"found\s+thesis.txt"):
        pre_resize(large, tmp_path / "mine", 32)
    for inside in (large, large / "small", tmp_path):
        with pytest.raises(UsageError, match="cannot lie"):
            pre_resize(large, inside, 32)
    with pytest.raises(UsageError, match="size out of range"):
        pre_resize(large, tmp_path / "other", 0)
    with locked(tmp_path / "small"), pytest.raises(BusyError):
        pre_resize(large, tmp_path / "small", 32)


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_no_half(large, tmp_path, monkeypatch):
    pre_resize(large, tmp_path / "small", 32)
    (tmp_path / "small/train/cat/0.jpg").unlink()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left") as caught:
        pre_resize(large, tmp_path / "small", 32)
    assert caught.value.exit_code == 6
    assert not (tmp_path / "small/train/cat/0.jpg").exists()
    assert not list((tmp_path / "small").rglob("*.part"))


def test_the_command_says_what_it_did(large, tmp_path):
    out = subprocess.run([sys.executable, "-m", "tutelage", "pre-resize", str(large), "--to", str(tmp_path / "small"),
                          "--size", "32", "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(out)["smaller"] == 12


def class_of(root: Path, name: str, image: Image.Image, kind: str, **options) -> Path:
    """A folder of two classes with this one image each."""
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        image.save(root / label / name, kind, **options)
    return root


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {}), ("TIFF", {})])
def test_a_copy_is_upright_whether_it_was_scaled_or_not(tmp_path, kind, options):
    photograph(tmp_path / "x.png", (90, 60))
    class_of(tmp_path / "all", "x.jpg", opened(tmp_path / "x.png"), kind, exif=turned(6), **options)
    right = decode(tmp_path / "all/a/x.jpg")
    assert right.size == (60, 90)
    for size, wanted in ((30, (30, 45)), (200, (60, 90))):
        done = pre_resize(tmp_path / "all", tmp_path / str(size), size)
        copy = tmp_path / str(size) / "a" / "x.jpg"
        assert decode(copy).size == wanted
        apart = np.abs(np.asarray(decode(copy), float) - np.asarray(right.resize(wanted, Image.Resampling.BILINEAR)))
        assert apart.mean() < 3
        assert (0x0112 in opened(copy).getexif()) == (size == 200 and kind != "TIFF"), "a copy as it is keeps its EXIF"
        assert done.smaller == (2 if size == 30 else 0)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, kind):
    values = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
    class_of(tmp_path / "all", "x.jpg", Image.fromarray(values), kind)
    pre_resize(tmp_path / "all", tmp_path / "to", 20)
    small = opened(tmp_path / "to/a/x.jpg")
    assert (small.format, small.mode, small.size) == (kind, "I;16", (30, 20))
    right = Image.fromarray(values.astype(np.float32)).resize((30, 20), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(small, float) - np.asarray(right)).max() <= 1


def test_floats_keep_their_numbers_for_the_range_that_is_stated_later(tmp_path):
    values = np.linspace(-1, 3, 40 * 60, dtype=np.float32).reshape(40, 60)
    class_of(tmp_path / "all", "x.tif", Image.fromarray(values), "TIFF")
    pre_resize(tmp_path / "all", tmp_path / "to", 20)
    small = np.asarray(opened(tmp_path / "to/a/x.tif"))
    assert small.dtype == np.float32
    assert np.abs(small - np.asarray(Image.fromarray(values).resize((30, 20), Image.Resampling.BILINEAR))).max() == 0
    values[3, 3] = np.nan
    class_of(tmp_path / "all", "x.tif", Image.fromarray(values), "TIFF")
    with pytest.raises(DataError, match="cannot be scaled"):
        pre_resize(tmp_path / "all", tmp_path / "other", 20)


@pytest.mark.parametrize(("kind", "written"), [("GIF", "PNG"), ("AVIF", "AVIF")])
def test_what_other_formats_become(tmp_path, kind, written):
    photograph(tmp_path / "x.png", (90, 60))
    class_of(tmp_path / "all", f"x.{kind.lower()}", opened(tmp_path / "x.png"), kind)
    pre_resize(tmp_path / "all", tmp_path / "to", 30)
    copy = tmp_path / "to" / "a" / f"x.{kind.lower()}"
    assert opened(copy).format == written
    right = decode(tmp_path / "all" / "a" / copy.name).resize((45, 30), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(decode(copy), float) - np.asarray(right, float)).mean() < (0.001 if kind == "GIF" else 4)


def test_a_copy_of_an_earlier_version_is_not_gone_on_with_and_is_told_of(large, tmp_path):
    pre_resize(large, tmp_path / "small", 32)
    assert load_data(DataSettings("folder", str(tmp_path / "small"), image_size=16)).notes == ()
    (tmp_path / "small" / ".pre-resize.json").write_text('{\n "pre-resize": 1,\n "size": 32\n}')
    with pytest.raises(UsageError, match=r"an upright copy"):
        pre_resize(large, tmp_path / "small", 32)
    (note,) = load_data(DataSettings("folder", str(tmp_path / "small"), image_size=16)).notes
    assert "make it again" in note
