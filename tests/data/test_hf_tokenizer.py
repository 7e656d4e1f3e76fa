"""Tokenizers from a folder: what they give, and folders of strangers that are refused before they are read."""

import json
import pickle
from pathlib import Path

import pytest

from tutelage.data.hf_tokenizer import open_tokenizer, tokenizer_again
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.text_preparation import text_preparation
from tutelage.errors import DataError, ModelError, SecurityError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "run", "a", "song", "lights"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small WordPiece tokenizer as `save_pretrained` leaves it."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    made = tokenizers.Tokenizer(WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = Lowercase(), Whitespace()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.enable_truncation(3)
    place = tmp_path / "bert"
    place.mkdir()
    made.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizerFast"}))
    return place


def test_words_become_its_pieces_with_the_first_of_each_and_marks_that_are_never_hidden(folder):
    tokenizer = open_tokenizer(folder)
    pieces, first, free = tokenizer.encode(["Playing", "a", "song"])
    assert [PIECES[piece] for piece in pieces] == ["[CLS]", "play", "##ing", "a", "song", "[SEP]"]
    assert (first, free) == ([1, 3, 4], [False, True, True, True, True, False])
    assert (tokenizer.size, tokenizer.hidden, tokenizer.names[5]) == (11, 4, "play")


def test_it_serves_sentences_and_hidden_words(folder):
    data = load_data(DataSettings("sentences", tokenizer=str(folder), task="words"))
    assert data.classes == tuple(PIECES)
    assert data.shape[0] == len(PIECES)
    again = text_preparation(json.loads(json.dumps(data.preprocessing)))
    assert again.coder.encode(["run"])[0] == [2, 7, 3]


def test_a_tokenizer_that_was_changed_is_not_taken_for_the_old_one(folder, tmp_path):
    told = open_tokenizer(folder).as_json()
    beside = tmp_path / "beside.json"
    beside.write_text((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("song", "sing"))
    with pytest.raises(ModelError, match="gone, or is another"):
        tokenizer_again(told, None)
    assert tokenizer_again(told, beside).file == beside


class Evil:
    """What runs code when it is read back."""

    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_a_folder_that_asks_to_run_its_own_python_is_refused(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}))
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SecurityError, match="Python of its own") as caught:
        open_tokenizer(tmp_path)
    assert caught.value.exit_code == 9


def test_a_folder_of_pickles_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SecurityError, match="pickled"):
        open_tokenizer(tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_what_is_no_tokenizer_is_told(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(DataError, match="no such tokenizer") as caught:
        open_tokenizer(tmp_path / "bert-base-uncased")
    assert "nothing is fetched" in caught.value.fix
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 7}')
    with pytest.raises(DataError, match="cannot be read"):
        open_tokenizer(tmp_path).encode(["a"])
