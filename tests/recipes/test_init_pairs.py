"""`tutelage init` and `check-data` for registered pairs: what is written trains as it is."""

from pathlib import Path

import pytest

from tutelage.data.made_pairs import write_pairs
from tutelage.errors import DataError, UsageError
from tutelage.recipes.folder_check import check_any_folder, task_of_folder
from tutelage.recipes.init import write_recipes
from tutelage.recipes.recipe import graph_of, read_recipe
from tutelage.tasks.named import data_for


@pytest.fixture
def root(tmp_path) -> Path:
    write_pairs(tmp_path / "drive", {"train": 12, "val": 3, "test": 4}, tmp_path / "fused", side=40)
    return tmp_path / "drive"


def test_what_lies_there_says_that_it_is_fusion(root, tmp_path):
    assert task_of_folder(root) == "fusion"
    said = write_recipes(root, None, [], tmp_path, reachable=lambda: False)
    assert "19 pairs, 12 of them for training, sets: day, night" in said
    recipe = read_recipe(tmp_path / "students.toml")
    assert recipe.method == {"name": "image_kd", "teacher": "teacher", "student": "student"}
    assert len(graph_of(recipe).edges) == 2
    data = data_for(recipe.data)
    assert len(data.train.ids) >= recipe.data.batch_size
    assert data.train.how.crop == (40, 40)
    assert read_recipe(tmp_path / "teacher.toml").data == recipe.data


def test_networks_that_do_not_fuse_and_several_students_are_refused(root, tmp_path):
    with pytest.raises(UsageError, match="not a network for fusion"):
        write_recipes(root, "timm:resnet18", [], tmp_path / "to")
    with pytest.raises(UsageError, match="one student is needed"):
        write_recipes(root, None, ["fusion_dense", "fusion_dense"], tmp_path / "to")
    (root / "train" / "visible" / "00000D.png").unlink()
    with pytest.raises(DataError, match="without the visible one"):
        write_recipes(root, None, [], tmp_path / "to")


def test_a_recipe_is_checked_with_its_fused_images(root, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"""[data]
name = "folder"
task = "fusion"
root = {str(root)!r}
fused = {str(tmp_path / "fused")!r}
[models.teacher]
arch = "fused_files"
[models.student]
arch = "fusion_dense"
[method]
name = "image_kd"
teacher = "teacher"
student = "student"
""")
    assert not check_any_folder(recipe).errors
    (tmp_path / "fused" / "val" / "00012D.png").unlink()
    assert "without a fused image" in check_any_folder(recipe).text()
