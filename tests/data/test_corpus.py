"""How unlike two texts are: golden values, scipy beside it, and files."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from tutelage.data.corpus import distance_of_texts, jensen_shannon, type_overlap
from tutelage.errors import DataError


def test_the_divergence_has_the_golden_value_and_that_of_scipy():
    assert jensen_shannon([0.5, 0.5, 0], [0.25, 0.25, 0.5]) == pytest.approx(0.3112781245, abs=1e-10)
    one, other = np.random.default_rng(0).dirichlet(np.ones(9), 2)
    assert jensen_shannon(one.tolist(), other.tolist()) == pytest.approx(jensenshannon(one, other, 2) ** 2, abs=1e-12)
    assert jensen_shannon([1.0, 0.0], [0.0, 1.0]) == 1.0
    assert type_overlap([], []) == 1.0


def test_two_files_are_compared_by_their_words(tmp_path):
    (tmp_path / "a.txt").write_text("Run home\nrun now\n")
    (tmp_path / "b.csv").write_text("text,label\nwalk home,x\n")
    found = distance_of_texts(tmp_path / "a.txt", tmp_path / "b.csv")
    assert (found.sentences, found.words, found.types) == ((2, 1), (4, 2), (3, 2))
    assert found.overlap == 0.25
    assert found.covered == (0.25, 0.5)
    assert found.divergence == pytest.approx(jensenshannon([0.25, 0.25, 0.5, 0], [0.5, 0, 0, 0.5], 2) ** 2)
    assert found.unlike[:2] == ("run", "walk")
    same = distance_of_texts(tmp_path / "a.txt", tmp_path / "a.txt")
    assert (same.divergence, same.overlap) == (0.0, 1.0)


def test_of_a_folder_with_splits_train_is_read(tmp_path):
    (tmp_path / "train.txt").write_text("one two\n")
    (tmp_path / "test.txt").write_text("three\n")
    assert distance_of_texts(tmp_path, tmp_path).words == (2, 2)
    with pytest.raises(DataError, match="no sentences here"):
        distance_of_texts(tmp_path, tmp_path / "none")
