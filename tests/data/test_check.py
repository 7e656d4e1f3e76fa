"""The report on a folder finds what was put wrong into it, each with its path."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tutelage.data.check import check_folder


def told(findings) -> dict[str, tuple[str, ...]]:
    return {finding.paths[0] if finding.paths else finding.what: finding.what for finding in findings}


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
    Image.fromarray(np.zeros((4, 4), np.float32)).save(train / "deep.png", "TIFF")
    errors = told(check_folder(photos).errors)
    assert "cannot be decoded" in errors["train/cat/0.png"]
    assert "a web page" in errors["train/cat/1.png"]
    assert "empty file" in errors["train/cat/2.png"]
    assert "not a regular file" in errors["train/cat/pipe.png"]
    assert "leads out" in errors["train/cat/out.png"]
    assert "without images" in errors["train/bird"]
    assert "range of values" in errors["train/cat/deep.png"]
    assert len(errors) == 7


def test_warnings_tell_of_duplicates_leftovers_and_odd_files(photos):
    train = photos / "train"
    shutil.copy(train / "cat" / "0.png", train / "dog" / "copy.png")
    shutil.copy(train / "cat" / "1.png", photos / "test" / "cat" / "leak.png")
    shutil.copy(train / "cat" / "2.png", train / "cat" / "harmless.png")
    shutil.copy(train / "cat" / "3.png", train / "cat" / "named.jpg")
    (train / "cat" / "notes.txt").write_text("x")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(train / "cat" / "moving.webp", save_all=True, append_images=frames[1:])
    shutil.rmtree(photos / "val" / "dog")
    report = check_folder(photos)
    warnings = told(report.warnings)
    assert report.errors == ()
    assert warnings["train/cat/0.png"] == "the same image under several labels"
    assert warnings["train/cat/1.png"] == "the same image under several splits"
    assert "train/cat/2.png" not in warnings
    assert "ends otherwise" in warnings["train/cat/named.jpg"]
    assert "left out" in warnings["train/cat/notes.txt"]
    assert "one frame" in warnings["train/cat/moving.webp"]
    assert "no image of 'dog' in val" in warnings
    assert len(warnings) == 6


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_class_names_that_look_alike_are_told(photos, image_file, one, other):
    for name in (one, other):
        image_file(photos / "train" / name / "1.png", seed=len(name))
    assert any("differ only in" in finding.what for finding in check_folder(photos).warnings)


def test_the_report_can_be_read_by_a_program_whatever_the_names(photos, image_file):
    image_file(photos / "train" / os.fsdecode(b"caf\xe9") / os.fsdecode(b"b\xe9.png"), seed=5)
    (photos / "train" / os.fsdecode(b"caf\xe9") / os.fsdecode(b"c\xe9.png")).write_bytes(b"no")
    report = check_folder(photos)
    fields = json.loads(report.as_json())
    assert fields["counts"]["train"]["caf\\xe9"] == 2
    assert fields["errors"][0]["paths"] == ["train/caf\\xe9/c\\xe9.png"]
    str(report).encode()


def test_an_image_over_the_cap_is_a_security_finding(photos):
    assert {finding.kind for finding in check_folder(photos, max_pixels=100).errors} == {"security"}
