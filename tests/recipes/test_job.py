"""A recipe made real: what is allowed and yet looks like a mistake is said."""

from pathlib import Path

import pytest
import torch

from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import Recipe, read_recipe
from tutelage.system.distributed import World

CPU = World(torch.device("cpu"))
RECIPES = Path(__file__).parents[2] / "recipes" / "digits"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    recipe = read_recipe(RECIPES / "teacher.toml", ["data.image_size=8", "models.teacher.arch=resnet8"], quick=True)
    for _ in train_job(make_job(recipe, CPU), out, CPU, lambda: 0):
        pass
    return out


def distill(teacher: Path, side: int) -> Recipe:
    return read_recipe(RECIPES / "distill.toml", [f"data.image_size={side}", "models.teacher.arch=resnet8",
                                                  f'models.teacher.weights="{teacher}"'])


def test_a_teacher_that_saw_images_of_another_size_is_told_of(teacher):
    assert make_job(distill(teacher, 16), CPU).notes == (
        "teacher was trained on images prepared in another way: resize 8 there, 16 here; crop 8 there, 16 here",)


def test_a_teacher_that_saw_the_same_images_is_not(teacher):
    assert make_job(distill(teacher, 8), CPU).notes == ()
