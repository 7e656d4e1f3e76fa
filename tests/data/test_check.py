"""The report on a folder finds what was put wrong into it, each with its path."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from every import every
from tutelage.data.check import check_folder
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError


def told(findings) -> dict[str, str]:
    """Path -> what is said of it; each path is in one finding."""
    return {path: finding.what for finding in findings for path in finding.paths}


def test_a_sound_folder_has_no_findings(photos):
    report = check_folder(photos)
    assert report.errors == report.warnings == ()
    assert report.counts == {"train": {"cat": 10, "dog": 10}, "val": {"cat": 3, "dog": 3}, "test": {"cat": 2, "dog": 2}}
    assert report.sizes == {"12 x 10": 30}
    assert report.modes == {"RGB": 30}
    assert "nothing wrong" in str(report)


def test_every_error_is_found_and_none_hides_another(photos):
    train = photos / "train" / "cat"
    (train / "0.png").write_bytes((train / "0.png").read_bytes()[:150])
    (train / "1.png").write_bytes(b"<html>")
    (train / "2.png").write_bytes(b"")
    os.mkfifo(train / "pipe.png")
    (train / "out.png").symlink_to("/etc/hostname")
    (photos / "train" / "bird").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(train / "deep.tif")
    errors = check_folder(photos).errors
    found = told(errors)
    assert "cannot be decoded" in found["train/cat/0.png"]
    assert found["train/cat/1.png"] == found["train/cat/2.png"] == "2 x not an image that can be read"
    assert "not a regular file" in found["train/cat/pipe.png"]
    assert "leads out" in found["train/cat/out.png"]
    assert "without images" in found["train/bird"]
    assert "range of values" in found["train/cat/deep.tif"]
    assert len(found) == 7
    assert len(errors) == 6
    assert next(one for one in errors if "leads out" in one.what).kind == "security"


def test_findings_are_grouped_by_kind_with_count_example_and_fix(photos):
    for label, number in itertools.product(("cat", "dog"), range(5)):
        (photos / "train" / label / f"{number}.png").write_bytes(b"<html>")
    report = check_folder(photos)
    finding, = report.errors
    assert (finding.kind, finding.count, finding.error) == ("data", 10, True)
    assert finding.example.startswith("train/cat/0.png (")
    assert "replace" in finding.fix
    text, whole = report.text(), report.text(every=True)
    assert "10 x not an image" in text
    assert "train/cat/0.png" in text
    assert finding.fix in text
    assert "train/dog/4.png" not in text
    assert "--list" in text
    assert "train/dog/4.png" in whole


def test_warnings_tell_of_copies_leftovers_and_odd_files(photos):
    train = photos / "train"
    shutil.copy(train / "cat" / "0.png", train / "dog" / "copy.png")
    shutil.copy(train / "cat" / "1.png", photos / "val" / "cat" / "leak.png")
    shutil.copy(train / "cat" / "2.png", train / "cat" / "harmless.png")
    shutil.copy(train / "cat" / "3.png", train / "cat" / "named.jpg")
    (train / "cat" / "notes.txt").write_text("x")
    (train / "cat" / "more").mkdir()
    Image.new("I;16", (8, 8), 1234).save(train / "cat" / "more" / "deep.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(train / "cat" / "moving.webp", save_all=True, append_images=frames[1:])
    shutil.rmtree(photos / "val" / "dog")
    report = check_folder(photos)
    assert report.errors == ()
    warnings = {finding.kind: finding for finding in report.warnings if finding.kind != "leakage"}
    leaks = [(one.what, one.count, one.example) for one in report.warnings if one.kind == "leakage"]
    assert leaks == [("1 of 4 validation images is a training image too", 1, "val/cat/leak.png is train/cat/1.png"),
                     ("2 of 25 training images lie under more than one class", 2,
                      "train/cat/0.png is train/dog/copy.png")]
    assert warnings["name"].paths == ("train/cat/named.jpg",)
    assert warnings["left out"].paths == ("train/cat/notes.txt",)
    assert warnings["frames"].paths == ("train/cat/moving.webp",)
    assert warnings["depth"].paths == warnings["deep"].paths == ("train/cat/more/deep.png",)
    assert (warnings["absent"].what, warnings["absent"].example) == ("1 class has no image in val", "dog")
    assert len(report.warnings) == 8


def test_an_image_for_training_and_for_testing_stops_a_run_and_is_an_error_here(photos):
    shutil.copy(photos / "train" / "cat" / "1.png", photos / "test" / "cat" / "leak.png")
    finding, = check_folder(photos).errors
    assert (finding.kind, finding.count, finding.paths) == ("leakage", 1, ("test/cat/leak.png",))
    with pytest.raises(DataError, match="the same image"):
        load_data(DataSettings("folder", root=str(photos), image_size=8))


def test_a_folder_that_is_cut_by_rule_is_judged_by_the_cut_that_a_run_makes(tmp_path, image_file):
    for label, number in itertools.product(("a", "b"), range(20)):
        image_file(tmp_path / "flat" / label / f"{number}.png", seed=100 * ord(label) + number)
    assert check_folder(tmp_path / "flat").findings == ()
    few = tmp_path / "few"
    for label in ("a", "b"):
        image_file(few / label / "1.png", seed=ord(label))
    with pytest.raises(DataError) as caught:
        load_data(DataSettings("folder", root=str(few), image_size=8))
    assert [finding.what for finding in check_folder(few).errors] == [caught.value.what]


def test_only_what_stops_a_run_is_an_error(photos, image_file):
    image_file(photos / "unlabelled" / "1.png", seed=77)
    whole = image_file(photos / "unlabelled" / "2.png", seed=78)
    whole.write_bytes(whole.read_bytes()[:150])
    load_data(DataSettings("folder", root=str(photos), image_size=8))
    report = check_folder(photos)
    assert report.errors == ()
    assert told(report.warnings) == {"unlabelled/2.png": "an image cannot be decoded"}


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_class_names_that_look_alike_are_told(photos, image_file, one, other):
    for name in (one, other):
        image_file(photos / "train" / name / "1.png", seed=len(name) + 50)
    assert any("differ only in" in finding.what for finding in check_folder(photos).warnings)


def test_the_largest_and_the_smallest_class_are_told(photos, image_file):
    for number in range(5):
        image_file(photos / "train" / "dog" / f"more{number}.png", seed=number + 300)
    report = check_folder(photos)
    assert report.balance()["train"] == [("dog", 15), ("cat", 10)]
    assert "largest class dog (15), smallest cat (10)" in report.text()
    assert json.loads(report.as_json())["largest_and_smallest"]["train"] == [["dog", 15], ["cat", 10]]


def test_the_report_for_a_program_says_what_the_one_for_a_person_says(photos, image_file):
    image_file(photos / "train" / os.fsdecode(b"caf\xe9") / os.fsdecode(b"b\xe9.png"), seed=5)
    (photos / "train" / os.fsdecode(b"caf\xe9") / os.fsdecode(b"c\xe9.png")).write_bytes(b"no")
    (photos / "train" / "cat" / "notes.txt").write_text("x")
    report = check_folder(photos)
    fields = json.loads(report.as_json())
    assert fields["counts"]["train"]["caf\\xe9"] == 2
    assert fields["errors"][0]["paths"] == ["train/caf\\xe9/c\\xe9.png"]
    text = report.text()
    text.encode()
    for finding in (*fields["errors"], *fields["warnings"]):
        assert finding["what"] in text
        assert finding["example"] in text
        assert finding["fix"] in text
    assert [finding["error"] for finding in fields["errors"]] == [True]
    assert every(not finding["error"] for finding in fields["warnings"])


def test_a_layout_that_is_not_understood_is_the_one_error(photos, image_file):
    for label, split in itertools.product(("cat", "dog"), ("train", "test")):
        image_file(photos / "other" / label / split / "1.png", seed=3)
    finding, = check_folder(photos / "other").findings
    assert "not understood" in finding.what
    assert finding.error


def test_an_image_over_the_cap_is_a_security_finding(photos):
    assert {finding.kind for finding in check_folder(photos, max_pixels=100).errors} == {"security"}


def test_a_stated_range_is_that_of_the_run(tmp_path):
    for label in ("cat", "dog"):
        for number in range(4):
            (tmp_path / label).mkdir(exist_ok=True)
            values = np.random.default_rng([number, ord(label[0])]).random((6, 6), np.float32)
            Image.fromarray(values).save(tmp_path / label / f"{number}.tif")
    assert [one.count for one in check_folder(tmp_path).errors] == [8]
    assert check_folder(tmp_path, value_range=(0.0, 1.0)).errors == ()


def test_an_animation_is_counted_for_its_first_frame(photos):
    frames = [Image.new("RGB", (8, 8), (number, 90, 9)) for number in range(3)]
    frames[0].save(photos / "train" / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(photos / "train" / "cat" / "b.tif", save_all=True, append_images=frames[1:])
    report = check_folder(photos)
    assert report.errors == ()
    assert any("frame" in one.what and one.count == 2 for one in report.warnings), report.text()


def test_classes_of_one_size_are_not_called_large_and_small(photos):
    assert "largest" not in check_folder(photos).text()


def test_classes_that_are_too_small_to_hold_an_image_out_are_named(tmp_path, image_file):
    for label, count in (("cat", 40), ("dog", 40), ("rare", 1)):
        for number in range(count):
            image_file(tmp_path / label / f"{number}.png", seed=1000 * len(label) + ord(label[0]) * 50 + number)
    report = check_folder(tmp_path)
    assert report.errors == ()
    assert {one.what: one.example for one in report.warnings if one.kind == "absent"} == {
        "1 class has too few images for validation": "rare (1)", "1 class has too few images for test": "rare (1)"}
