"""Files of sentences: each format, and each thing that is wrong, with file and line."""

import json

import pytest

from tutelage.data.text_files import (
    find_text_files,
    lines_of_text,
    plain_lines,
    read_sentences,
    repaired,
    split_of_file,
)
from tutelage.errors import DataError, UsageError

TAGGED = {"tokens": ["play", "anna", "berg"], "tags": ["O", "B-artist", "I-artist"], "intent": "play"}


@pytest.fixture
def write(tmp_path):
    def written(name: str, text: str):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path
    return written


def test_csv_json_lines_and_json_say_the_same(write):
    wanted = [(("play", "run,"), "music"), (("stop",), "halt")]
    csv = read_sentences(write("a.csv", 'text,label\n"play run,",music\nstop,halt\n'))["all"]
    lines = read_sentences(write("a.jsonl", '{"text": "play run,", "intent": "music"}\n'
                                            '{"text": "stop", "label": "halt"}\n'))["all"]
    split = read_sentences(write("a.json", json.dumps({"train": [["play run,", "music"], ["stop", "halt"]]})))["train"]
    for found in (csv, lines, split):
        assert [(one.words, one.label) for one in found] == wanted
    assert [one.where.rpartition("line ")[2] for one in csv] == ["2", "3"]


def test_columns_may_be_called_otherwise(write):
    path = write("a.csv", "what,why\nplay,music\n")
    assert read_sentences(path, {"text": "what", "label": "why"})["all"][0].label == "music"
    with pytest.raises(DataError, match="there is no text") as caught:
        read_sentences(path)
    assert "line of names" in caught.value.where


def test_conll_and_json_lines_have_tags(write):
    conll = read_sentences(write("a.conll", "play O\nanna NNP B-artist\nberg I-artist\n\nstop O\n"), tagged=True)["all"]
    assert [one.words for one in conll] == [("play", "anna", "berg"), ("stop",)]
    assert conll[0].tags == ("O", "B-artist", "I-artist")
    lines = read_sentences(write("a.jsonl", json.dumps(TAGGED)), tagged=True)["all"]
    assert (lines[0].tags, lines[0].label) == (conll[0].tags, "play")
    assert conll[1].where.endswith("line 5")


@pytest.mark.parametrize(("name", "text", "line", "what"), [
    ("a.txt", "one\n\ntwo\n", 2, "an empty line"),
    ("a.csv", "text,label\nplay,music\n\nstop,halt\n", 3, "an empty line"),
    ("a.csv", "text,label\nplay,music\n ,halt\n", 3, "a label without text"),
    ("a.csv", "text,label\nplay,music\nstop\n", 3, "another length"),
    ("a.csv", 'text,label\n"play\nmore",music\n,halt\n', 4, "a label without text"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"label": "b"}\n', 2, "there is no text"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "", "label": "b"}\n', 2, "a label without text"),
    ("a.jsonl", '{"text": "a"}\nnot json\n', 2, "not JSON"),
    ("a.jsonl", '{"text": "a"}\n{"text": 7}\n', 2, "no text"),
    ("a.jsonl", '{"text": "a"}\n[1]\n', 2, "not an object")])
def test_what_is_wrong_is_told_with_file_and_line(write, name, text, line, what):
    with pytest.raises(DataError, match=what) as caught:
        read_sentences(write(name, text))
    assert caught.value.where.endswith(f"{name}, line {line}")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("name", "text", "line", "what"), [
    ("a.jsonl", json.dumps({**TAGGED, "tags": ["O", "O"]}), 1, "as many as the words"),
    ("a.jsonl", json.dumps(TAGGED) + "\n" + json.dumps({**TAGGED, "tags": ["O", "O", "I-a"]}), 2, "without the B-"),
    ("a.jsonl", json.dumps({**TAGGED, "tags": ["O", "B-x", "I-artist"]}), 1, "without the B-"),
    ("a.jsonl", json.dumps({**TAGGED, "tags": ["O", "X-artist", "O"]}), 1, "a tag that is none"),
    ("a.jsonl", json.dumps({**TAGGED, "tokens": ["play", "anna berg", "x"]}), 1, "no list of words"),
    ("a.jsonl", '{"text": "a", "label": "b"}', 1, "without tags"),
    ("a.conll", "play O\nanna\n", 2, "a word without a tag"),
    ("a.conll", "play O\n\n\nstop O\n", 3, "an empty line"),
    ("a.bio", "play O\n\nanna I-artist\n", 3, "without the B-")])
def test_tags_that_are_wrong_are_told_with_file_and_line(write, name, text, line, what):
    with pytest.raises(DataError, match=what) as caught:
        read_sentences(write(name, text), tagged=True)
    assert caught.value.where.endswith(f"{name}, line {line}")


def test_an_i_that_continues_nothing_becomes_a_b_if_that_is_asked(write):
    path = write("a.conll", "play O\nanna I-artist\nberg I-artist\n")
    assert read_sentences(path, tagged=True, repair=True)["all"][0].tags == ("O", "B-artist", "I-artist")
    assert repaired(("B-a", "I-b", "O", "I-a")) == ("B-a", "B-b", "O", "B-a")


def test_bytes_that_are_no_utf_8_are_told_with_their_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\xff\n")
    with pytest.raises(DataError, match="not UTF-8") as caught:
        read_sentences(path)
    assert caught.value.where.endswith("line 2")


def test_files_without_a_sentence_and_of_other_kinds_are_refused(write):
    for name, what in (("a.txt", "without a sentence"), ("a.xml", "not a file of sentences"), ("a.json", "not JSON")):
        with pytest.raises(DataError, match=what):
            read_sentences(write(name, ""))
    with pytest.raises(DataError, match="not a split"):
        read_sentences(write("a.json", json.dumps({"mine": []})))
    with pytest.raises(DataError, match="text and its label"):
        read_sentences(write("a.json", json.dumps({"train": [["a"]]})))


def test_a_part_that_is_out_of_scope_belongs_to_its_split(write):
    path = write("a.json", json.dumps({"oos_val": [["x", "oos"]], "val": [["a", "b"]], "train": [["a", "b"]]}))
    assert [one.label for one in read_sentences(path)["val"]] == ["b", "oos"]


def test_files_of_a_folder_are_found_by_their_names(write, tmp_path):
    for name in ("train.csv", "validate.csv", "train_slots.jsonl", "validate_slots.jsonl", "SOURCE.md", ".train.csv"):
        write(name, "")
    assert {split: path.name for split, path in find_text_files(tmp_path).items()} == {
        "train": "train.csv", "val": "validate.csv"}
    assert find_text_files(tmp_path, tagged=True)["val"].name == "validate_slots.jsonl"
    write("train.jsonl", "")
    with pytest.raises(UsageError, match="two files of one split"):
        find_text_files(tmp_path)
    assert split_of_file(tmp_path / "my-Test.txt") == "test"


def test_lines_keep_their_numbers_also_where_one_is_empty(write):
    assert list(lines_of_text(write("a.txt", "one two\n\nthree\n"))) == [(1, ("one", "two")), (2, ()), (3, ("three",))]
    assert [number for number, _ in lines_of_text(write("a.csv", "text\none\ntwo\n"))] == [1, 2]
    assert plain_lines(write("b.csv", "text,label\none,x\n"))[0].label is None
