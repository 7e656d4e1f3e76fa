"""What a person is told of a set of sentences."""

import json
from pathlib import Path

import pytest

from tutelage.data.check_text import check_text, holds_text
from tutelage.recipes.folder_check import task_of_folder
from tutelage.recipes.init_text import start_of_text


@pytest.fixture
def root(tmp_path) -> Path:
    lines = [f"{word} {number},{label}" for label, word in (("go", "run"), ("halt", "stop")) for number in range(10)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines, ""]))
    (tmp_path / "test.csv").write_text("text,label\nrun 3,go\nstop 77,stay\nRUN 4,halt\n")
    return tmp_path


def test_shared_sentences_and_strange_labels_are_told_with_their_lines(root):
    report = check_text(root)
    assert report.counts["train"] == {"go": 10, "halt": 10}
    told = {finding.kind: finding for finding in report.findings}
    assert told["absent"].error
    assert told["absent"].example.endswith("test.csv, line 3")
    assert told["leakage"].count == 2
    assert told["two labels"].count == 1
    assert "2 labels: 10 of go" in report.text()
    assert len(json.loads(report.as_json())["errors"]) == 1


def test_a_file_that_cannot_be_read_is_an_error_of_the_report(root):
    (root / "train.csv").write_text("text,label\n,go\n")
    (error, *_) = check_text(root).errors
    assert "a label without text" in error.what
    assert error.example.endswith("train.csv, line 2")


def test_a_folder_of_sentences_is_known_by_its_files(root, tmp_path):
    assert holds_text(root)
    assert task_of_folder(root) == "sentences"
    tagged = tmp_path / "mine.conll"
    tagged.write_text("\n\n".join(["play O\nanna B-artist"] * 9))
    assert task_of_folder(tagged) == "slots"
    (tmp_path / "series.csv").write_text("series,label,x\n")
    assert not holds_text(tmp_path / "series.csv")


def test_init_writes_what_fits_the_sentences(root):
    (root / "test.csv").write_text("text,label\nrun 3,go\nstop 77,halt\n")
    start = start_of_text(root)
    assert (start.task, start.teacher.arch) == ("sentences", "sentence_encoder")
    assert 'name = "text"' in start.data
    assert "2 labels" in start.told
