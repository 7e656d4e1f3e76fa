"""splits.json: what a split may be called, and names that are meant twice or that lead out."""

import json
from pathlib import Path

import pytest

from tutelage.data.split_file import read_splits
from tutelage.errors import DataError, UserError


def write(root: Path, held: object) -> Path:
    (root / "splits.json").write_text(held if isinstance(held, str) else json.dumps(held))
    return root / "splits.json"


def test_splits_are_in_one_order_whatever_they_are_called(tmp_path):
    found = read_splits(write(tmp_path, {"Testing": ["c"], "valid": ["b"], "train": ["a"]}))
    assert [*found.items()] == [("train", ["a"]), ("val", ["b"]), ("test", ["c"])]
    assert read_splits(write(tmp_path, {"train": ["a"], "test": []})) == {"train": ["a"]}


@pytest.mark.parametrize("held", ['{"train": ["a"], "train": ["b"]}', {"train": ["a"], "training": ["b"]}, ["a"],
                                  {"train": "a"}, {"train": [3]}, {"trian": ["a"]}, '{"train": [NaN]}'])
def test_what_cannot_be_meant_is_refused(held, tmp_path):
    with pytest.raises(DataError):
        read_splits(write(tmp_path, held))


def test_a_misspelt_split_is_told_with_what_may_be_meant(tmp_path):
    with pytest.raises(UserError, match="unknown split") as error:
        read_splits(write(tmp_path, {"trian": ["a"]}))
    assert "train" in str(error.value)
