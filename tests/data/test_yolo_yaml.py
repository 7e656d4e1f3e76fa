"""The YAML of YOLO: the ways in which it is written, equal to another reader of it, and nothing that names code."""

import time
from pathlib import Path

import pytest
import yaml

from tutelage.data.yolo_yaml import read_yolo_yaml
from tutelage.errors import DataError, SecurityError

ULTRALYTICS = """# COCO8, for tries
path: ../datasets/coco8 # where it lies
train: images/train # seen from path
val: images/val
test: # there is none

# Classes
names:
  0: person
  1: traffic light   # two words
  2: "donut"

download: |
  from ultralytics.utils.downloads import download
  download(!!python/object "https://example.com")
"""
ROBOFLOW = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 3
names: ['RBC', "it's", 'Platelets']

roboflow:
  workspace: team-roboflow
  license: Public Domain
"""
LINES = "---\nnames:\n- cat\n- 'it''s'\n- a b\ntrain:\n  - images/a\n  - images/b\nval: [images/c, 'images/d e']\n"
MANY = "names: ['cat',\n        'dog',  # a comment\n        owl]\ntrain: images\n"
MAPPED = 'names: {0: cat, 1: "a, b", 2: dog}\ntrain: images\nnc: 3\n'


@pytest.mark.parametrize("text", [ULTRALYTICS, ROBOFLOW, LINES, MANY, MAPPED],
                         ids=["ultralytics", "roboflow", "lines", "many lines", "mapped"])
def test_it_says_what_another_reader_says(text, tmp_path: Path):
    (tmp_path / "data.yaml").write_text(text)
    found, wanted = read_yolo_yaml(tmp_path / "data.yaml"), yaml.safe_load(text)
    names = wanted["names"]
    names = [names[number] for number in sorted(names)] if isinstance(names, dict) else names
    assert list(found.names or ()) == names
    for split in ("train", "val", "test"):
        place = wanted.get(split)
        assert found.splits.get(split) == ((place,) if isinstance(place, str) else place and tuple(place))
    assert found.path == wanted.get("path")


def test_without_names_there_are_none(tmp_path: Path):
    (tmp_path / "data.yaml").write_text("train: images\n")
    assert read_yolo_yaml(tmp_path / "data.yaml").names is None


@pytest.mark.parametrize("text", [
    "names: !!python/object/apply:os.system ['true']\n", "names:\n  0: !!python/name:os.system\n",
    "names: [!!str cat, dog]\n", "names: &all [cat]\nval: *all\n", "names: [cat, *all]\n",
    "extra: !!python/object/apply:os.system ['true']\nnames: [cat]\n", "!!python/object:a.b\nnames: [cat]\n",
    "names:\n- !tag cat\n", "extra:\n  more: !!python/name:os.system ''\nnames: [cat]\n"])
def test_yaml_that_names_code_is_refused(text, tmp_path: Path):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(SecurityError, match="a tag, an anchor or an alias"):
        read_yolo_yaml(tmp_path / "data.yaml")


def test_marks_within_names_are_no_tags(tmp_path: Path):
    (tmp_path / "data.yaml").write_text("names: [R & B, 'stop!', \"*\", hello!, c#]\n")
    assert read_yolo_yaml(tmp_path / "data.yaml").names == ("R & B", "stop!", "*", "hello!", "c#")


@pytest.mark.parametrize(("text", "problem"), [
    ("names: [cat, [dog]]\n", "not understood"), ("names: [cat, dog\n", "not understood"), ("names: cat\n", "are none"),
    ("names:\n  0: cat\n  2: dog\n", "leave one out"), ("names:\n  0: cat\n  0: dog\n", "twice"),
    ("names: {0: cat, 0: dog}\n", "twice"), ("names: {a: cat}\n", "not understood"),
    ("names: [cat, cat]\n", "one name"),
    ("names: []\n", "are none"), ("names: ['']\n", "are none"), ("names: [cat]\nnames: [dog]\n", "a key twice"),
    ("names: [cat]\nnc: 2\n", "another number of classes"), ("names:\n  cat\n", "not understood"),
    ("%YAML 1.2\nnames: [cat]\n", "not understood"), ("[names, cat]\n", "not understood"), ("\xff\n", "no UTF-8"),
    ("names: [cat] dog\n", "not understood"), ('names: ["a\\q"]\n', "not understood"),
    ("names: >\n  cat\n", "not understood"),
    ("names: [cat]\n? odd\n", "not understood"), ("names: {0: cat, 99999999999999: dog}\n", "not understood"),
    ("names:\n  0: cat\n  sub:\n    1: dog\n", "not understood")])
def test_what_is_not_understood_is_named_by_its_line(text, problem, tmp_path: Path):
    (tmp_path / "data.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=problem) as error:
        read_yolo_yaml(tmp_path / "data.yaml")
    assert "data.yaml" in str(error.value)


@pytest.mark.parametrize("text", ["names: [" + "a, " * 50_000 + "b]", "names: [" * 20_000, "names: {" + "'" * 125_000,
                                  "a" * 225_000, "names: " + "- " * 80_000, "names: '\"" + "'\"" * 80_000],
                         ids=["long", "deep", "quotes", "word", "dashes", "mixed"])
def test_odd_files_take_no_time(text, tmp_path: Path):
    (tmp_path / "data.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises((DataError, SecurityError)):
        read_yolo_yaml(tmp_path / "data.yaml")
    assert time.process_time() - started < 5


def test_a_larger_file_is_not_read(tmp_path: Path):
    (tmp_path / "data.yaml").write_text("#" * (2**18 + 1))
    with pytest.raises(SecurityError, match="too large"):
        read_yolo_yaml(tmp_path / "data.yaml")
