"""JSON of somebody else: what would be read in two ways, or cannot be held, is refused by name."""

import os
from pathlib import Path

import pytest

from tutelage.data.strict_json import read_strict_json
from tutelage.errors import DataError, SecurityError


def test_what_is_sound_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null], "b": {"a": "x"}}')
    assert read_strict_json(tmp_path / "a.json", 100, "that") == {"a": [1, 2.5, None], "b": {"a": "x"}}


@pytest.mark.parametrize(("text", "found"), [
    ('{"a": 1, "b": 2, "a": 3}', "'a' twice"), ('[{"x": {"y": 1, "y": 1}}]', "'y' twice"), ("[NaN]", "NaN"),
    ("[-Infinity]", "Infinity"), ("[1,]", "line 1"), ("", "line 1"), ("[" * 100_000, "recursion"),
    ('{"a":' * 100_000, "recursion"), ("1" * 5000, "digits"), ("\xff", "utf-8")])
def test_what_cannot_be_meant_is_refused(text, found, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.json cannot be read") as error:
        read_strict_json(tmp_path / "a.json", 2**20, "a list")
    assert found in str(error.value)
    assert "expected  a list" in str(error.value)


def test_a_larger_file_and_a_pipe_are_not_read(tmp_path: Path):
    (tmp_path / "a.json").write_text("[" + "1," * 100 + "1]")
    assert len(read_strict_json(tmp_path / "a.json", 203, "a list")) == 101
    with pytest.raises(SecurityError, match="too large"):
        read_strict_json(tmp_path / "a.json", 202, "a list")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_strict_json(tmp_path / "pipe", 100, "a list")
    with pytest.raises(DataError, match="cannot be read"):
        read_strict_json(tmp_path / "nowhere", 100, "a list")
