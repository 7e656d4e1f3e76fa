"""Files are images by their content; those that are left out are counted by suffix and true reason."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tutelage.data.check import check_folder
from tutelage.data.folder import list_folder
from tutelage.data.left_out import LeftOut, kinds_left_out
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.recipes.init import look_into

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def save(path: Path, kind: str, colour: int) -> None:
    Image.new("RGB", (12, 10), (colour, 0, 0)).save(path, kind)


@pytest.mark.parametrize(("name", "kind"), [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a", "JPEG"), ("a.tif", "TIFF"),
                                            ("a.gif", "GIF"), ("a.txt", "PNG")])
def test_an_image_is_known_by_its_content(photos, name, kind):
    save(photos / "train" / "cat" / name, kind, 3)
    data = load_data(DataSettings("folder", root=str(photos), image_size=8))
    assert len(data.train.ids) == 21
    assert data.notes == ()


@pytest.mark.parametrize("name", ["a.jfif", "a"])
def test_runs_made_before_know_an_image_by_its_suffix_and_say_what_they_pass_over(photos, name):
    before = load_data(DataSettings("folder", root=str(photos), image_size=8, images_by="suffix"))
    save(photos / "train" / "cat" / name, "JPEG", 3)
    now = load_data(DataSettings("folder", root=str(photos), image_size=8, images_by="suffix"))
    assert now.digest == before.digest
    assert "the name alone decided" in now.notes[0]


@pytest.fixture
def leftovers(photos: Path) -> Path:
    for number in range(12):
        (photos / "train" / "cat" / f"{number}.heic").write_bytes(HEIC)
    (photos / "train" / "dog" / "notes.txt").write_text("hello")
    (photos / "train" / "dog" / "empty").write_bytes(b"")
    shutil.copy(photos / "train" / "cat" / "0.png", photos / "train" / "0.png")
    shutil.copy(photos / "train" / "cat" / "0.png", photos / "1.png")
    (photos / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    return photos


TOLD = ("12 .heic left out: HEIC: install tutelage[heic] (such as train/cat/0.heic)",
        "1 .png left out: beside the class folders, in none of them (train/0.png)",
        "1 .png left out: beside the folders of the splits, in none of them (1.png)",
        "1 .txt left out: not an image: text (train/dog/notes.txt)",
        "1 file without a suffix left out: an empty file (train/dog/empty)",
        "1 file or folder left out: hidden, or the operating system's (train/cat/.DS_Store)")


def test_train_init_and_check_data_tell_what_is_left_out_in_the_same_words(leftovers, monkeypatch):
    monkeypatch.setattr("tutelage.data.file_kinds._installed", lambda module: False)
    assert set(load_data(DataSettings("folder", root=str(leftovers), image_size=8)).notes) == set(TOLD)
    said = str(look_into(leftovers))
    report = check_folder(leftovers)
    fields = json.loads(report.as_json())["warnings"]
    for line in TOLD:
        what, _, example = line.removesuffix(")").partition(" (")
        assert line in said
        assert what in report.text()
        assert (what, int(line.split()[0])) in {(one["what"], one["count"]) for one in fields}
        assert example.removeprefix("such as ") in {one["example"] for one in fields}
    assert next(one["fix"] for one in fields if "HEIC" in one["what"]) == "install tutelage[heic]"


def test_reading_the_names_of_images_opens_none_of_them(photos, monkeypatch):
    monkeypatch.setattr("tutelage.data.layout.open_regular", lambda path: pytest.fail(f"opened {path}"))
    assert len(list_folder(photos).images) == 30


def test_kinds_are_counted_the_most_frequent_first():
    told = [LeftOut(Path("a/.x"), "hidden", "hidden")] * 3 + [LeftOut(Path("b.txt"), "file", "text")]
    told += [LeftOut(Path(f"{number}.pdf"), "file", "PDF") for number in range(2)]
    assert [kind.what for kind in kinds_left_out(told)] == [
        "2 .pdf left out: PDF", "1 .txt left out: text", "3 files or folders left out: hidden"]
