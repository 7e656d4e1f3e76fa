"""A vocabulary of our own: what it holds, how words are cut, and that the order of sentences is nothing."""

import pytest

from tutelage.data.vocabulary import HIDDEN, MARKS, UNKNOWN, Vocabulary, build_vocabulary, tokens_of, vocabulary_of
from tutelage.errors import DataError, UsageError

TEXT = [["play", "the", "song"], ["play", "the", "player"], ["the", "songs"]]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return build_vocabulary(TEXT, 60)


def test_frequent_words_are_whole_and_others_the_longest_pieces(vocabulary):
    pieces, first, free = vocabulary.encode(["the", "plays"])
    said = [vocabulary.pieces[piece] for piece in pieces]
    assert said[0] == "the"
    assert "".join(piece.removeprefix("##") for piece in said[1:]) == "plays"
    assert said[1] == "play"
    assert (first, free) == ([0, 1], [True] * len(pieces))


def test_what_was_never_seen_is_unknown(vocabulary):
    pieces, first, _ = vocabulary.encode(["ж", "the"])
    assert pieces == [MARKS.index(UNKNOWN), vocabulary.numbers["the"]]
    assert first == [0, 1]


def test_it_is_small_enough_and_the_marks_come_first(vocabulary):
    assert vocabulary.size <= 60
    assert vocabulary.pieces[:3] == MARKS
    assert vocabulary.hidden == MARKS.index(HIDDEN)
    assert len({*vocabulary.pieces}) == vocabulary.size
    assert build_vocabulary(reversed(TEXT), 60) == vocabulary


@pytest.mark.parametrize("words", [["abc"], ["ABC", "x", "!?", "…"], ["\u200b", "bcd", "\u0301"], ["ß", "ﬁ", "日本"]])
def test_every_word_has_a_first_piece_and_the_places_rise(words):
    vocabulary = build_vocabulary([["ab", "abc", "bcd"]], 40)
    pieces, first, _ = vocabulary.encode(words)
    assert len(first) == len(words)
    assert first == sorted({*first})
    assert 0 <= min(pieces) <= max(pieces) < vocabulary.size


def test_it_comes_back_from_json_and_damage_is_seen(vocabulary):
    told = vocabulary.as_json()
    assert vocabulary_of(told) == vocabulary
    for damage in ([*told["pieces"], "the"], told["pieces"][1:], [*told["pieces"], 7], None):
        with pytest.raises(DataError, match="cannot be used"):
            vocabulary_of({**told, "pieces": damage})


def test_a_size_below_its_characters_is_refused_and_so_is_no_word():
    with pytest.raises(UsageError, match="too small"):
        build_vocabulary([["abcdefghij"]], 16)
    with pytest.raises(DataError, match="no word"):
        build_vocabulary([[]], 16)
    assert tokens_of("Don't  STOP") == ["don", "'", "t", "stop"]
