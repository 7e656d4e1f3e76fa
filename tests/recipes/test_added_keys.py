"""Keys whose default is not what was done before them: folders of runs from then keep what was done."""

import json
from importlib import import_module
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.settings import DataSettings
from tutelage.errors import UsageError
from tutelage.methods.dual_student import dual_student
from tutelage.recipes.added_keys import ADDED, as_overrides, lacking_in
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import train_recipe
from tutelage.recipes.methods import method, method_names
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe
from tutelage.recipes.trained_run import recipe_of_run
from tutelage.system.distributed import World

CPU = World(torch.device("cpu"))

RECIPE = """\
[data]
name = "digits"

[models.a]
arch = "resnet8"

[method]
name = "scratch"
student = "a"
"""


def without_added(text: str) -> str:
    """A resolved recipe as it was written before there were these keys."""
    keys = tuple(f"{key} =" for table in ADDED.values() for key in table)
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(keys)]
    assert len(lines) - len(kept) == len(keys)
    return "".join(kept)


@pytest.fixture
def read(tmp_path):
    def recipe(*overrides: str, **options) -> Recipe:
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE)
        return read_recipe(path, overrides, **options)
    return recipe


@pytest.fixture
def old_run(tmp_path, read):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(without_added(read().text()))
    return run


def test_each_added_key_is_one_of_the_recipe_and_meant_something_else_before():
    for key, old in ADDED["data"].items():
        assert getattr(DataSettings("digits"), key) != old
        DataSettings("digits", **{key: old})


def test_a_recipe_that_a_person_wrote_means_the_default_and_writes_it_down(read):
    assert read().data == DataSettings("digits")
    assert 'orientation = "upright"' in read().text()


def test_the_folder_of_an_old_run_means_what_was_done_then(read, old_run):
    assert read_recipe(old_run / "config.toml").data.orientation == "as stored"
    assert read_recipe(old_run / "config.toml", ["data.orientation=upright"]).data.orientation == "upright"


def test_the_folder_of_a_new_run_means_what_it_says(read, old_run):
    (old_run / "config.toml").write_text(read().text())
    assert lacking_in(old_run) == {}
    assert read_recipe(old_run / "config.toml").data.orientation == "upright"


def test_the_same_command_goes_on_with_an_old_run_as_it_began(read, old_run):
    again = read(older=lacking_in(old_run))
    assert again.data.orientation == "as stored"
    assert again.text_in(old_run) == (old_run / "config.toml").read_text()
    assert read().text_in(old_run) == read().text(), "a recipe that was not read for this folder is another one"


def test_a_recipe_that_says_the_key_is_another_run_in_an_old_folder(read, old_run):
    stated = read("data.orientation=upright", older=lacking_in(old_run))
    assert stated.data.orientation == "upright"
    assert stated.text_in(old_run) == stated.text()


@pytest.mark.parametrize("there", ["", "]", "run = 5", "[run]\nquick = 1\n", "[python]\nseed = 1\n"])
def test_a_folder_that_keeps_no_recipe_asks_for_nothing_that_harms(read, tmp_path, there):
    (tmp_path / "config.toml").write_text(there)
    assert lacking_in(tmp_path) == lacking_in(tmp_path / "nowhere") == {}


def test_a_data_table_that_is_none_is_told_of_as_ever(tmp_path):
    (tmp_path / "config.toml").write_text("data = 5\n[models.a]\n[run]\nquick = false\n")
    with pytest.raises(UsageError, match="must be a table"):
        read_recipe(tmp_path / "config.toml")


def test_an_orientation_that_does_not_exist_is_told_with_the_nearest(read):
    with pytest.raises(UsageError, match="orientation"):
        read("data.orientation=uprite")


FOLDER = """\
[data]
name = "folder"
root = "{root}"
image_size = 8
batch_size = 8
augment = "none"

[models.a]
arch = "resnet8"

[method]
name = "scratch"
student = "a"

[train]
epochs = 1
"""


def test_a_run_made_before_is_opened_measured_and_gone_on_with_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for number in range(4):
                (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
                seed = [*map(ord, split + label), number]
                pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{number}.png", exif=exif)
    path, run = tmp_path / "recipe.toml", tmp_path / "run"
    path.write_text(FOLDER.format(root=tmp_path))
    with pytest.MonkeyPatch.context() as before:  # a version that knew no orientation, and turned nothing
        text = Recipe.text
        before.setattr(Recipe, "text", lambda recipe: without_added(text(recipe)))
        old = [f"{table}.{key}={json.dumps(value)}" for table, keys in ADDED.items() for key, value in keys.items()]
        list(train_recipe(read_recipe(path, old), run, CPU))
    kept = (run / "config.toml").read_text()
    assert "orientation" not in kept
    for again in (recipe_of_run(run), read_recipe(path, older=lacking_in(run))):
        assert again.data.orientation == "as stored"
        list(train_recipe(again, run, CPU))  # it is finished, and nothing is refused
    notes: list[str] = []
    evaluate_run(run, "test", CPU, cost=False, note=notes.append)
    assert notes == ["images are read as stored: an EXIF orientation is not applied"]
    assert (run / "config.toml").read_text() == kept
    stated = read_recipe(path, ["data.orientation=upright"], older=lacking_in(run))
    with pytest.raises(UsageError, match="another run"):
        list(train_recipe(stated, run, CPU))
    list(train_recipe(read_recipe(path, older=lacking_in(tmp_path / "new")), tmp_path / "new", CPU))
    assert 'orientation = "upright"' in (tmp_path / "new" / "config.toml").read_text()


DUAL = """\
[data]
name = "digits"

[models.t]
arch = "resnet8"

[models.a]
arch = "resnet8"

[models.b]
arch = "resnet8"

[method]
name = "dual_student"
teacher = "t"
students = ["a", "b"]
"""


@pytest.fixture
def dual(tmp_path):
    path = tmp_path / "dual.toml"
    path.write_text(DUAL)
    return path


def test_an_option_of_a_method_means_in_an_old_folder_what_was_done_then(tmp_path, dual):
    new = read_recipe(dual)
    assert new.method["preset"] == "published"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(new.text().replace('preset = "published"\n', ""))
    old = read_recipe(run / "config.toml")
    assert str(graph_of(old)) == str(dual_student("t", ["a", "b"], preset="cautious"))
    again = read_recipe(dual, older=lacking_in(run))
    assert again.text_in(run) == (run / "config.toml").read_text()
    assert str(graph_of(new)) == str(dual_student("t", ["a", "b"]))


def test_what_a_person_says_of_the_option_counts(dual):
    assert read_recipe(dual, ["method.preset=cautious"]).method["preset"] == "cautious"


def test_the_old_meaning_of_one_methods_option_is_none_of_anothers(tmp_path, dual, read):
    older = {"method.dual_student": {"preset": "cautious"}}
    assert "preset" not in read(older=older).method
    assert read_recipe(dual, older=older).method["preset"] == "cautious"
    assert as_overrides(older, {"method": read_recipe(dual, older=older).method}) == ['method.preset="cautious"']
    assert as_overrides(older, {"method": read(older=older).method}) == []


def test_every_older_option_is_one_of_its_method_and_meant_something_else():
    found = {}
    for name in method_names():
        for option, old in vars(import_module(f"tutelage.methods.{name}")).get("OLDER", {}).items():
            found[name, option] = signature(method(name)).parameters[option].default, old
    assert found == {("dual_student", "preset"): ("published", "cautious"),
                     ("dynamic_rectification", "reduction"): ("element_mean", "batchmean")}
