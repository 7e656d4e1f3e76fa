"""What a student says of lines: intents with probabilities, tags of words, and lines that cannot be read."""

import json

import numpy as np
import pytest

from tutelage.data.text_preparation import TextPreparation
from tutelage.data.vocabulary import build_vocabulary
from tutelage.errors import DataError, ModelError
from tutelage.exporting.predict import Damaged, TextReader
from tutelage.exporting.predict_text import SlotPrediction, TextPrediction, files_of_text, read_lines

VOCABULARY = build_vocabulary([["play", "stop", "anna", "now"]], 40)


def reader(task: str, classes: tuple[str, ...]) -> TextReader:
    """One that is sure of class 1 where a sentence, or a word, has the piece `play` or `anna`."""
    known = [VOCABULARY.numbers[word] for word in ("play", "anna")]

    def logits(given):
        hits = np.isin(given["tokens"], known)
        if task == "slots":
            found = np.take_along_axis(hits, given["places"], 1)
            return np.stack([2.0 - 4 * found, -2.0 + 4 * found], -1).astype(np.float32)
        found = hits.any(1)
        return np.stack([1.0 - 4 * found, 4.0 * found], -1).astype(np.float32)

    return TextReader(classes, TextPreparation(task, 6, VOCABULARY), logits)


def test_each_line_gets_its_intent_and_one_that_is_empty_or_too_long_stops_nothing(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("play now\n\nstop\nplay play play play play play play\nplay\n")
    found = list(read_lines([path], reader("sentences", ("halt", "music")), 0.9))
    assert [type(one) for one in found] == [TextPrediction, Damaged, TextPrediction, Damaged, TextPrediction]
    said = [(one.line, one.label, one.below) for one in found if isinstance(one, TextPrediction)]
    assert said == [(1, "music", False), (3, "halt", True), (5, "music", False)]
    assert [str(one.error.where) for one in found if isinstance(one, Damaged)] == [f"{path}, line 2", f"{path}, line 4"]
    assert json.loads(found[0].as_json())["probability"] == pytest.approx(1 / (1 + np.exp(-7)))


def test_each_word_gets_its_tag_whatever_is_beside_it(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("now anna stop\nanna\n")
    found = list(read_lines([path], reader("slots", ("O", "B-artist")), 0.5))
    assert [one.tags for one in found if isinstance(one, SlotPrediction)] == [("O", "B-artist", "O"), ("B-artist",)]
    assert str(found[0]) == "1  now [anna B-artist] stop"


def test_a_network_that_guesses_words_says_nothing_of_a_line(tmp_path):
    with pytest.raises(ModelError, match="guesses hidden words"):
        list(read_lines([tmp_path / "x.txt"], reader("words", ("a", "b")), 0.5))


def test_files_are_those_of_text(tmp_path):
    (tmp_path / "b.txt").write_text("x\n")
    (tmp_path / "a.txt").write_text("x\n")
    assert [path.name for path in files_of_text(tmp_path)] == ["a.txt", "b.txt"]
    for place in (tmp_path / "none.txt", tmp_path / "a.png"):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(DataError):
            files_of_text(place)
