"""`tutelage init` for series: a file, a folder, or a name in a folder of many; the recipes train as they are."""

from pathlib import Path

import numpy as np
import pytest

from tutelage.data.load import load_data
from tutelage.errors import UserError
from tutelage.recipes.init import write_recipes
from tutelage.recipes.recipe import Recipe, read_recipe


def series(path: Path, *, count: int = 30, steps: int = 20, **more: np.ndarray) -> Path:
    """Two classes of noise about unlike means, of two channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.arange(count) % 2
    values = np.random.default_rng(count).normal(size=(count, 2, steps)) + labels[:, None, None]
    np.savez(path, x=values, y=labels, **more)
    return path


def written(given: Path, to: Path, *, teacher: str | None = None, students: tuple[str, ...] = ()
            ) -> tuple[Recipe, Recipe, str]:
    said = write_recipes(given, teacher, students, to, reachable=lambda: False)
    return read_recipe(to / "teacher.toml"), read_recipe(to / "students.toml"), said


def test_a_file_a_folder_and_a_name_are_read_as_they_are_given(tmp_path: Path, monkeypatch) -> None:
    whole = series(tmp_path / "whole.npz", count=40)
    for split in ("TRAIN", "TEST"):
        series(tmp_path / "archive" / f"Walk_{split}.npz", count=30 if split == "TRAIN" else 10)
    for number, given in enumerate((whole, tmp_path / "archive", tmp_path / "archive" / "Walk")):
        teacher, students, said = written(given, tmp_path / str(number))
        assert teacher.data == students.data
        assert "40 series of 2 channels and 20 to 20 steps" in said
        monkeypatch.chdir("/")
        data = load_data(students.data)
        assert len(data.train.ids) >= students.data.batch_size
        assert f"{len(data.train.ids)} of them for training, 2 classes" in said


def test_the_teacher_is_wider_than_its_students_and_they_are_unlike(tmp_path: Path) -> None:
    _, recipe, _ = written(series(tmp_path / "whole.npz"), tmp_path)
    assert {name: arch.arch for name, arch in recipe.models.items()} == {
        "teacher": "series_cnn", "convolutional": "series_cnn", "recurrent": "series_gru"}
    assert recipe.models["teacher"].options["width"] > recipe.models["convolutional"].options["width"]
    assert recipe.models["teacher"].options["dropout"] > 0


def test_networks_that_are_named_are_used_and_others_than_of_series_refused(tmp_path: Path) -> None:
    whole = series(tmp_path / "whole.npz")
    _, recipe, _ = written(whole, tmp_path, teacher="series_gru", students=("series_cnn", "tutelage:series_cnn"))
    assert {name: (arch.arch, dict(arch.options)) for name, arch in recipe.models.items()} == {
        "teacher": ("series_gru", {}), "series_cnn": ("series_cnn", {}), "series_cnn_2": ("tutelage:series_cnn", {})}
    with pytest.raises(UserError, match="not a network for series"):
        written(whole, tmp_path / "to", teacher="timm:resnet18")
    assert not (tmp_path / "to").exists()


def test_subjects_are_kept_apart_where_they_are_known_and_enough(tmp_path: Path) -> None:
    many = series(tmp_path / "many.npz", subject=np.arange(30) // 3)
    assert written(many, tmp_path / "a")[0].data.by == "subject"
    lone = series(tmp_path / "lone.npz", subject=np.zeros(30, int))
    teacher, _, said = written(lone, tmp_path / "b")
    assert teacher.data.by is None
    assert "not held out by subject: too few subjects" in said


def test_a_damaged_file_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "whole.npz").write_bytes(b"none")
    with pytest.raises(UserError, match=r"whole\.npz"):
        written(tmp_path / "whole.npz", tmp_path / "to")
    assert not (tmp_path / "to").exists()
