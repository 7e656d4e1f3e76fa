"""A method of several runs: their folders, what passes from one to the next, and a stop anywhere."""

from pathlib import Path

import pytest
import torch

from tutelage.engine.train import load
from tutelage.errors import Interrupted, UsageError
from tutelage.recipes.job import make_job, train_recipe
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe
from tutelage.recipes.sequence import runs_of
from tutelage.recipes.trained_run import finished_run, recipe_of_run
from tutelage.runs.folder import finished
from tutelage.system.distributed import World
from two_generations import RECIPE

WORLD = World(torch.device("cpu"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return read_recipe(tmp_path / "recipe.toml", quick=True)


def train(recipe: Recipe, out: Path, stop_after: int | None = None) -> list[Path]:
    """Train it, to its end or until it was asked so often whether to stop; the folders that it went through."""
    asked, folders = iter(range(10_000)), []
    for _ in train_recipe(recipe, out, WORLD, lambda: 15 if stop_after is not None and next(asked) >= stop_after else 0,
                          started=lambda job, folder: folders.append(folder)):
        pass
    return folders


def weights(folder: Path) -> dict[str, str]:
    done = finished(folder)
    assert done is not None
    return done["weights"]


def test_each_run_has_a_folder_and_the_whole_holds_what_the_last_one_left(recipe, tmp_path):
    out = tmp_path / "out"
    assert train(recipe, out) == [out / "1", out / "2"]
    assert weights(out) == weights(out / "2")
    assert weights(out / "1") != weights(out / "2")
    assert (out / "models" / "net.safetensors").read_bytes() == (out / "2" / "models" / "net.safetensors").read_bytes()
    assert recipe_of_run(out) == recipe
    assert [recipe_of_run(out / number) for number in "12"] == [one for _, one in runs_of(recipe, out)]


def test_the_teacher_of_a_run_is_what_the_run_before_it_trained_and_the_student_starts_afresh(recipe, tmp_path):
    train(recipe, tmp_path / "out")
    opened = finished_run(tmp_path / "out", WORLD)
    before, _ = load(tmp_path / "out" / "1", "net")
    for key, tensor in before.state_dict().items():
        assert torch.equal(opened.models["teacher"].state_dict()[key], tensor), key
    starts = [next(make_job(one, WORLD).models["net"].parameters()) for _, one in runs_of(recipe, tmp_path / "out")]
    assert not torch.equal(*starts)


@pytest.mark.parametrize("steps", [1, 4])
def test_stopped_in_any_run_the_same_call_ends_with_the_same_bits(recipe, tmp_path, steps):
    train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "out", stop_after=steps)
    assert finished(tmp_path / "out") is None
    train(recipe, tmp_path / "out")
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_killed_before_the_whole_was_gathered_nothing_is_trained_again(recipe, tmp_path):
    out = tmp_path / "out"
    train(recipe, out)
    (out / "FINISHED").unlink()
    (out / "models" / "net.safetensors").unlink()
    trained = [(out / number / "models" / "net.safetensors").stat().st_mtime_ns for number in "12"]
    train(recipe, out)
    assert weights(out) == weights(out / "2")
    assert trained == [(out / number / "models" / "net.safetensors").stat().st_mtime_ns for number in "12"]
    assert (out / "models" / "net.safetensors").exists()


def test_a_folder_of_another_recipe_is_refused(recipe, tmp_path):
    train(recipe, tmp_path / "out")
    other = read_recipe(tmp_path / "recipe.toml", ["method.soft=0.3"], quick=True)
    with pytest.raises(UsageError, match="another run"):
        train(other, tmp_path / "out")


def test_one_generation_is_a_run_like_any_other(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("generations = 2", "generations = 1"))
    recipe = read_recipe(tmp_path / "recipe.toml", quick=True)
    assert train(recipe, tmp_path / "out") == [tmp_path / "out"]
    assert not (tmp_path / "out" / "1").exists()


def test_what_needs_one_run_says_that_these_are_several(recipe):
    with pytest.raises(UsageError, match="several runs"):
        make_job(recipe, WORLD)


def test_a_run_that_the_method_does_not_have_is_refused(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE + "\n[run]\nnumber = 3\n")
    with pytest.raises(UsageError, match="no such run"):
        graph_of(read_recipe(tmp_path / "recipe.toml"))


def test_a_setting_for_a_network_of_some_runs_reaches_those_alone(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE + "\n[train.net]\nlr = 0.01\n")
    recipe = read_recipe(tmp_path / "recipe.toml", quick=True)
    assert [one.optimizers for _, one in runs_of(recipe, tmp_path)] == [{"net": {"lr": 0.01}}] * 2
