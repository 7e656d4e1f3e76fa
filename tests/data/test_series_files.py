"""Files of series, written here by hand: what is read, and what is refused with file and line."""

import io
import zipfile

import numpy as np
import pytest

from every import every
from tutelage.data.series_files import read_series_file, split_of_name
from tutelage.errors import DataError, SecurityError

HEADER = ["@problemName toy", "@timeStamps false", "@univariate false", "@dimensions 2", "@equalLength false",
          "@classLabel true a b", "@data"]
LINES = ["1,2,3:4,5,6:a", "# a remark", "", "-0.5, 1e-2:7,8:b"]


def ts(folder, lines, header=None):
    path = folder / "toy.ts"
    path.write_text("\n".join([*(HEADER if header is None else header), *lines]))
    return path


def table(folder, text):
    path = folder / "toy.csv"
    path.write_text(text)
    return path


def npz(folder, **arrays):
    np.savez(folder / "toy.npz", **arrays)
    return folder / "toy.npz"


def lists(file):
    return [series.tolist() for series in file.values]


def refused(path, kind=DataError):
    with pytest.raises(kind) as caught:
        read_series_file(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_a_ts_file_by_hand(tmp_path):
    file = read_series_file(ts(tmp_path, LINES))["all"]
    assert lists(file) == [[[1, 2, 3], [4, 5, 6]], [[-0.5, 0.01], [7, 8]]]
    assert (file.labels, file.classes, file.places) == (("a", "b"), ("a", "b"), ("line 8", "line 11"))
    assert file.subjects is None


def test_a_header_in_capitals_without_the_lines_that_are_not_needed(tmp_path):
    file = read_series_file(ts(tmp_path, ["1,2:x", "3:y"], ["@CLASSLABEL TRUE", "@DATA"]))["all"]
    assert (lists(file), file.labels, file.classes) == ([[[1, 2]], [[3]]], ("x", "y"), None)


@pytest.mark.parametrize(("lines", "words"), [
    (["1,2:3,4:a", "1,two:3,4:b"], ("not a number", "line 9", "'two'")),
    (["1,2:3,4:a", "1_0:3:b"], ("not a number", "line 9", "'1_0'")),
    (["1,2:3:a"], ("channels of unlike length", "line 8", "[2, 1]")),
    (["1,2:3,4:a", "::b"], ("without a step", "line 9")),
    (["1,?:3,4:a", "1:NaN:b", "inf:1:b"], ("missing numbers", "line 8", "3 numbers", "3 series")),
    (["1,,2:3,4,5:a"], ("missing numbers", "1 numbers")),
    (["1,2:3,4:c"], ("a class that the header does not name", "line 8", "c", "a, b")),
    (["1,2:3,4:a", "1,2"], ("without a class", "line 9")),
    (["1,2:a"], ("not as the header says", "line 8", "1 channels", "2, as @dimensions")),
    ([], ("without series",)),
])
def test_what_a_ts_file_must_not_hold_is_named_with_its_line(tmp_path, lines, words):
    told = refused(ts(tmp_path, lines))
    assert every(word in told for word in words), told


@pytest.mark.parametrize(("header", "words"), [
    (HEADER[:-1], ("values before the line @data", "line 7")),
    (["@problemName toy"], ("values before the line @data",)),
    (["@timeStamps true", *HEADER[2:]], ("time stamps",)),
    (["@classLabel false", "@data"], ("without classes", "false")),
    (["@targetlabel true", "@data"], ("without classes", "no such line")),
    (["@equalLength true", "@seriesLength 3", *HEADER[5:]], ("not as the header says", "line 8", "as @serieslength")),
])
def test_headers_that_cannot_be_used_are_refused(tmp_path, header, words):
    told = refused(ts(tmp_path, LINES, header))
    assert every(word in told for word in words), told


def test_a_header_alone_and_an_empty_file_and_another_encoding(tmp_path):
    assert "without the line @data" in refused(ts(tmp_path, [], HEADER[:-1]))
    (tmp_path / "toy.ts").write_bytes(b"")
    assert "an empty file" in refused(tmp_path / "toy.ts")
    (tmp_path / "toy.ts").write_bytes("\n".join([*HEADER, "1:2:a", "# é"]).encode("latin-1"))
    assert "not a text in UTF-8" in refused(tmp_path / "toy.ts")


def test_a_table_with_a_row_a_step_by_hand(tmp_path):
    path = table(tmp_path, "series,time,label,subject,x,y\nr1,0,up,kim,1,2\nr2,0,down,lee,5,6\nr1,1,up,kim,3,4\n\n")
    file = read_series_file(path)["all"]
    assert lists(file) == [[[1, 3], [2, 4]], [[5], [6]]]
    assert (file.labels, file.subjects) == (("up", "down"), ("kim", "lee"))
    assert read_series_file(table(tmp_path, "\ufeffseries,label,x\n1,a,2\n"))["all"].subjects is None


@pytest.mark.parametrize(("text", "words"), [
    ("series,x\n1,2\n", ("columns", "series, x")),
    ("series,label\n1,a\n", ("columns", "one column for each channel")),
    ("series,label,x,x\n1,a,2,3\n", ("columns",)),
    ("series,label,x\n1,a\n", ("another length", "line 2", "2 cells")),
    ("series,label,x\n1,a,2\n1,b,3\n", ("two labels", "line 3")),
    ("series,label,subject,x\n1,a,kim,2\n1,a,lee,3\n", ("two labels or subjects", "line 3")),
    ("series,label,time,x\n1,a,5,2\n1,a,5,3\n", ("order of time", "line 3", "5.0 after 5.0")),
    ("series,label,time,x\n1,a,2026-01-02,2\n1,a,2026-01-01,3\n", ("order of time", "line 3")),
    ("series,label,x\n1,a,2\n1,a,two\n", ("not a number", "line 3", "'two'")),
    ("series,label,x\n1,a,2\n1,a,\n", ("missing numbers", "series '1'")),
    ("series,label,x\n", ("without series",)),
])
def test_what_a_table_must_not_hold_is_named_with_its_line(tmp_path, text, words):
    told = refused(table(tmp_path, text))
    assert every(word in told for word in words), told


def test_arrays_of_all_kinds_by_hand(tmp_path):
    x = np.arange(12.0).reshape(2, 2, 3)
    x[1, :, 1:] = np.nan  # beyond its length nothing is read
    file = read_series_file(npz(tmp_path, x=x, y=np.array([4, -1]), lengths=[3, 1], subject=[7, 8]))["all"]
    assert lists(file) == [[[0, 1, 2], [3, 4, 5]], [[6], [9]]]
    assert (file.labels, file.subjects) == (("4", ""), ("7", "8"))
    one = read_series_file(npz(tmp_path, x=np.ones((2, 3), dtype=np.int16), y=["up", "down"]))["all"]
    assert (lists(one), one.labels) == ([[[1, 1, 1]]] * 2, ("up", "down"))


def test_one_file_may_hold_all_splits_and_name_its_classes(tmp_path):
    found = read_series_file(npz(tmp_path, x_train=np.ones((2, 1, 3)), y_train=[1, 0], x_test=np.ones((1, 1, 4)),
                                 y_test=[1], classes=["no", "yes"]))
    assert list(found) == ["train", "test"]
    assert (found["train"].labels, found["test"].labels) == (("yes", "no"), ("yes",))
    assert found["test"].classes == ("no", "yes")


@pytest.mark.parametrize(("arrays", "words"), [
    ({"y": [1]}, ("no series to train on", "y")),
    ({"x_test": np.ones((1, 2)), "y_test": [1]}, ("no series to train on",)),
    ({"x": np.ones(3), "y": [1, 2, 3]}, ("not an array of series", "[3]")),
    ({"x": np.array([["a"]]), "y": [1]}, ("not an array of series", "<U1")),
    ({"x": np.ones((2, 3))}, ("not the labels", "none")),
    ({"x": np.ones((2, 3)), "y": [0.5, 1]}, ("not the labels", "float64")),
    ({"x": np.ones((2, 3)), "y": [0]}, ("not the labels", "[1]")),
    ({"x": np.ones((2, 3)), "y": [0, 1], "lengths": [3, 4]}, ("not the lengths", "1 .. 3")),
    ({"x": np.ones((2, 3)), "y": [0, 1], "lengths": [3, 0]}, ("without a step", "row 1")),
    ({"x": np.ones((2, 3)), "y": [0, 1], "subject": ["kim"]}, ("not the subjects",)),
    ({"x": np.ones((2, 3)), "y": [0, 2], "classes": ["a", "b"]}, ("a label without a name", "row 1", "2")),
    ({"x": np.array([[1, np.nan], [np.inf, 2]]), "y": [0, 1]}, ("missing numbers", "2 numbers", "lengths")),
])
def test_arrays_that_are_no_set_of_series_are_refused(tmp_path, arrays, words):
    told = refused(npz(tmp_path, **arrays))
    assert every(word in told for word in words), told


def test_pickled_objects_are_never_read(tmp_path):
    told = refused(npz(tmp_path, x=np.ones((2, 3)), y=np.array([{"a": 1}, None], dtype=object)), SecurityError)
    assert "pickled objects" in told
    assert "y.npy" in told


def header_of(shape):
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return text.getvalue()


def test_an_array_that_says_it_is_larger_than_its_file_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "toy.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", header_of((10**6, 10**6)) + b"\0" * 80)
    assert "larger than its file" in refused(path, SecurityError)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "toy.npz"
    np.savez_compressed(path, x=np.zeros((2, 1, 10**5)), y=[0, 1])
    monkeypatch.setattr("tutelage.data.series_files.LARGEST_FILE", 10**6)
    assert path.stat().st_size < 10**5
    assert "too large" in refused(path, SecurityError)


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "toy.npz"
    for content in (b"no zip", b"PK\x03\x04" + b"\0" * 40):
        path.write_bytes(content)
        assert "not an .npz file" in refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", "no array")
    assert "not an .npz file" in refused(path)


@pytest.mark.parametrize(("stem", "meant"), [
    ("JapaneseVowels_TRAIN", ("JapaneseVowels", "train")), ("a-b_test", ("a-b", "test")), ("Val", ("", "validation")),
    ("train", ("", "train")), ("retrain", ("retrain", "all")), ("set_unlabelled", ("set_unlabelled", "all")),
])
def test_the_split_that_a_files_name_means(stem, meant):
    assert split_of_name(stem) == meant
