"""Text that the settings name: splits, vocabulary, what is out of scope, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, UsageError, UserError


@pytest.fixture
def root(tmp_path) -> Path:
    lines = [{"text": f"{word} number {number}", "label": label} for label, word in (("go", "run"), ("halt", "stop"))
             for number in ("one", "two", "three", "four", "five")]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"text": "lonely words"}])))
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, [lines[0], lines[-1]])))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, [*lines[:3], lines[-1],
                                                                    {"text": "unheard of", "label": "oos"}])))
    (tmp_path / "generic.txt").write_text("a wholly different sentence\nand one more\n")
    return tmp_path


def loaded(root: Path, **options):
    return load_data(DataSettings("text", root=str(root), out_of_scope="oos", **options))


def test_held_out_sentences_out_of_scope_have_no_class_and_unlabelled_ones_are_left_out_of_train(root):
    data = loaded(root)
    assert data.classes == ("go", "halt")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert data.test.labels.tolist() == [0, 0, 0, 1, -1]
    assert "0 training sentences out of scope and 1 without a label" in data.notes[0]
    assert loaded(root, unlabelled=True).train.labels.tolist() == [0] * 5 + [1] * 5 + [-1]


def test_a_vocabulary_is_made_of_train_alone_and_is_the_same_for_every_task_and_limit(root):
    pieces = loaded(root).preprocessing["tokenizer"]["pieces"]
    assert "unheard" not in pieces
    assert {"run", "stop", "number"} <= {*pieces}
    assert loaded(root, task="words", limit=4).preprocessing["tokenizer"]["pieces"] == pieces


def test_splits_that_are_cut_are_the_same_for_sentences_and_for_words(root):
    for name in ("val", "test"):
        (root / f"{name}.jsonl").unlink()
    (root / "train.jsonl").write_text("\n".join((root / "train.jsonl").read_text().splitlines()[:-1]))
    one, other = loaded(root, validation=0.3), loaded(root, task="words", validation=0.3)
    assert one.test.ids.tolist() == other.test.ids.tolist()
    assert not {*one.test.ids.tolist()} & {*one.train.ids.tolist()}
    assert one.preprocessing["tokenizer"] == other.preprocessing["tokenizer"]


def test_a_label_that_no_training_sentence_has_is_refused_with_its_line(root):
    with pytest.raises(DataError, match="no training sentence has") as caught:
        load_data(DataSettings("text", root=str(root)))
    assert caught.value.where.endswith("test.jsonl, line 5")
    assert "out_of_scope" in caught.value.fix


def test_a_held_out_sentence_without_a_label_is_refused(root):
    (root / "val.jsonl").write_text('{"text": "what is this"}')
    with pytest.raises(DataError, match="without a label in validation"):
        loaded(root)


def test_a_sentence_that_is_too_long_is_refused_with_its_line_or_cut_and_told(root):
    (root / "val.jsonl").write_text(json.dumps({"text": "run " * 9, "label": "go"}))
    with pytest.raises(DataError, match="too long") as caught:
        loaded(root, length=8)
    assert caught.value.where.endswith("val.jsonl, line 1")
    data = loaded(root, length=8, too_long="cut")
    assert data.shape[1] == 8
    assert any("sentences are cut to 8 pieces" in note for note in data.notes)


def test_slots_have_the_tags_of_their_words_at_the_first_pieces(tmp_path):
    path = tmp_path / "mine.conll"
    path.write_text("\n\n".join(["play O\nanna B-artist\nberg, I-artist"] * 12))
    data = load_data(DataSettings("text", root=str(path), task="slots"))
    (batch,) = data.train.batches([torch.arange(2)], draw=0)
    assert data.classes == ("O", "B-artist", "I-artist")
    assert batch.labels["tags"].tolist() == [[0, 1, 2]] * 2
    view = batch.inputs[""]
    pieces = data.preprocessing["tokenizer"]["pieces"]
    shown = [pieces[piece] for piece in view["tokens"][0].gather(0, view["places"][0])]
    assert shown == ["play", "anna", "berg"]


def test_pools_are_read_beside_the_set_and_told_with_their_counts(root):
    data = loaded(root, task="words", texts={"generic": str(root / "generic.txt")}, batch_size=4,
                  mixture={"generic": 0.75, "task": 0.25})
    assert data.train.pools.names == ("task", "generic")
    assert len(data.train.ids) == 11 + 2
    assert "1 of 4 sentences of every batch from 'task' (11), 3 of 4" in data.notes[-1]
    assert data.classes == tuple(data.preprocessing["tokenizer"]["pieces"])


@pytest.mark.parametrize(("options", "what", "key"), [
    ({"mixture": {"task": 1.2}}, "a share that cannot be", "mixture"),
    ({"mixture": {"task": -0.1}}, "a share that cannot be", "mixture"),
    ({"mixture": {"task": 0.5}}, "do not add up", "mixture"),
    ({"mixture": {"generic": 1.0}}, "unknown pool", "mixture"),
    ({"hidden": 0.0}, "share of hidden", "hidden"), ({"hidden": 1.5}, "share of hidden", "hidden"),
    ({"task": "words", "tokenizers": {"b": "x"}}, "one tokenizer", "tokenizers"),
    ({"length": 1}, "out of range", "length"), ({"vocabulary": 3}, "out of range", "vocabulary"),
    ({"balance": "sqrt"}, "do not have", "balance"), ({"augment": "crop"}, "unknown augmentation", "augment"),
    ({"image_size": 32}, "images alone", "image_size"), ({"columns": {"user": "x"}}, "unknown column", "columns"),
    ({"texts": {"task": "x"}}, "own training sentences", "texts")])
def test_keys_that_cannot_be_meant_are_refused(options, what, key):
    with pytest.raises(UsageError, match=what) as caught:
        DataSettings("text", root="x", **options)
    assert key in caught.value.where


@pytest.mark.parametrize("key", ["texts", "mixture", "tokenizer", "hidden", "out_of_scope"])
def test_keys_of_text_are_refused_elsewhere(key):
    value = {"texts": {"a": "b"}, "mixture": {"task": 1.0}, "tokenizer": "x", "hidden": 0.3, "out_of_scope": "x"}[key]
    with pytest.raises(UsageError, match="do not have"):
        DataSettings("digits", **{key: value})


def test_nothing_there_is_told(tmp_path):
    for options in ({"root": str(tmp_path / "none")}, {"root": str(tmp_path)}):
        with pytest.raises(UserError, match="no sentences here"):
            load_data(DataSettings("text", **options))


def test_a_quick_run_needs_no_file(tmp_path):
    data = load_data(DataSettings("text", root=str(tmp_path / "none"), texts={"generic": "nowhere.txt"},
                                  mixture={"generic": 1.0}, tokenizer="nowhere"), quick=True)
    assert (data.train.pools.names, len(data.classes)) == (("task", "generic"), 8)
