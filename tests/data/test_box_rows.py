"""What every reader of boxes shares: numbers, sizes, names, and where a box stands."""

from pathlib import Path

import pytest

from tutelage.data.box_rows import BoxesOfImage, four_numbers, names_in_lines, require_names, size_in_file
from tutelage.errors import DataError


def test_boxes_are_gathered_with_the_place_where_each_stands():
    boxes = BoxesOfImage(Path("a.txt"), "line {}", (40, 30))
    assert boxes.done().boxes.shape == (0, 4)
    boxes.add((1, 2, 3, 4), 7, 12)
    found = boxes.done()
    assert found.boxes.tolist() == [[1, 2, 3, 4]]
    assert found.classes.tolist() == [7]
    assert found.where(0) == "a.txt, line 12"


@pytest.mark.parametrize("values", [None, 3, "1234", [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, True],
                                    [1, 2, 3, float("nan")], [1, 2, 3, float("inf")], [1, 2, 3, 10**400], {}])
def test_four_numbers_are_four_finite_numbers(values):
    assert four_numbers(values) is None
    assert four_numbers([1, 2.5, -3, 0]) == (1, 2.5, -3, 0)


def test_sizes_that_a_file_does_not_know_are_none():
    assert size_in_file(40, 30.0) == (40, 30)
    assert [size_in_file(*sides) for sides in ((0, 0), (None, 3), ("4", 3), (True, 3), (2**40, 3))] == [None] * 5


@pytest.mark.parametrize("names", [[], [""], ["a", 3], ["a", "a"], ["a", " "], ["\ud800"], [None, "a"],
                                   [str(number) for number in range(10_001)]])
def test_names_are_text_each_once_and_not_too_many(names, tmp_path):
    with pytest.raises(DataError):
        require_names(names, "there")
    assert require_names(["b", "a b"], "there") == ("b", "a b")
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfb\r\na b\r\n\n")
    assert names_in_lines(tmp_path / "classes.txt") == ("b", "a b")
