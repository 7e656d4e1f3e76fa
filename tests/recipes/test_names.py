"""Recipes by name, in a clone and in an installed package, and where a recipe is trained to."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from every import every
from tutelage.errors import UsageError
from tutelage.recipes import names
from tutelage.recipes.names import built_in_recipes, find_recipe, first_line, recipe_names, usual_run, word_of
from tutelage.recipes.recipe import read_recipe

ROOT = Path(__file__).parents[2]
STUDENT = """\
[data]
name = "digits"

[models.teacher]
arch = "resnet8"
weights = { recipe = "teacher" }

[models.a]
arch = "resnet8"

[method]
name = "distill"
teacher = "teacher"
student = "a"
"""


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The recipes of an installed package, which are these, while one works in an empty folder."""
    for name in ("digits/teacher", "digits/early", "other/teacher"):
        path = tmp_path / "site" / "built_in" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}: what it is.\n#   how\n" + STUDENT.replace("{ recipe", '"runs/t" # '))
    (tmp_path / "site/built_in/study.toml").write_text("[study]\n")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(names, "_of_the_wheel", lambda: tmp_path / "site" / "built_in")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "site" / "built_in"


def test_a_clone_has_the_recipes_of_the_repository():
    assert built_in_recipes() == ROOT / "recipes"
    found = recipe_names()
    assert found["digits/dual_student"] == ROOT / "recipes/digits/dual_student.toml"
    assert found["methods"] == ROOT / "recipes/methods.toml"
    assert len(found) == len(list((ROOT / "recipes").glob("**/*.toml")))
    assert every(first_line(path) for path in found.values()), "each says what it is"


@pytest.mark.parametrize("word", ["digits/early", "digits/early.toml", "recipes/digits/early.toml", "early",
                                  "early.toml"])
def test_a_recipe_is_found_by_name(installed, word):
    assert find_recipe(word) == installed / "digits" / "early.toml"
    assert first_line(find_recipe(word)) == "digits/early: what it is."
    assert word_of(find_recipe(word)) == "digits/early"


@pytest.mark.parametrize(("word", "what", "fix"), [
    ("digits/teahcer", "there is no recipe 'digits/teahcer'", "did you mean 'digits/teacher'?"),
    ("erly", "there is no recipe 'erly'", "did you mean 'digits/early'?"),
    ("stdy.toml", "there is no recipe 'stdy.toml'", "did you mean 'study'?"),
    ("zzz", "there is no recipe 'zzz'", "`tutelage recipes` lists them"),
    ("", "there is no recipe ''", "`tutelage recipes` lists them"),
    ("teacher", "several recipes are called 'teacher'", "write digits/teacher"),
])
def test_a_name_that_no_recipe_or_more_than_one_has_is_refused(installed, word, what, fix):
    with pytest.raises(UsageError) as refused:
        find_recipe(word)
    assert (refused.value.what, refused.value.fix) == (what, fix)


def test_a_run_folder_has_the_name_of_the_recipe_and_of_its_folder(installed, tmp_path):
    assert usual_run(installed / "digits/teacher.toml") == Path("runs/digits/teacher")
    assert usual_run(installed / "digits/teacher.toml", quick=True) == Path("runs/quick/digits/teacher")
    assert usual_run(installed / "study.toml") == Path("runs/study")
    assert usual_run(Path("mine.toml")) == Path("runs/mine")
    assert usual_run(Path("mine.toml"), quick=True) == Path("runs/quick/mine")
    assert usual_run(tmp_path / "lab" / "mine.toml") == usual_run(Path("../lab/mine.toml")) == Path("runs/lab/mine")
    assert (word_of(Path("../lab/mine.toml")), word_of(Path.cwd() / "mine.toml")) == (
        str(tmp_path / "lab" / "mine.toml"), "mine.toml")


def test_a_path_in_an_installed_recipe_is_seen_from_the_working_directory(installed):
    recipe = read_recipe(installed / "digits/early.toml", ["models.a.weights=runs/a"])
    assert recipe.models["teacher"].weights == str(Path.cwd() / "runs" / "t")
    assert recipe.models["a"].weights == str(Path.cwd() / "runs" / "a")
    (installed / "digits" / "beside.safetensors").touch()
    recipe = read_recipe(installed / "digits/early.toml", ["models.a.weights=beside.safetensors"])
    assert recipe.models["a"].weights == str(installed / "digits" / "beside.safetensors")


@pytest.mark.parametrize("there", ["runs/a", "runs/run/models/a.safetensors"])
def test_a_path_told_to_a_recipe_of_a_clone_is_one_that_is_there(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(there).parent.mkdir(parents=True)
    Path(there).touch()
    word = "runs/run/a" if "models" in there else there
    recipe = read_recipe(ROOT / "recipes/digits/mutual.toml", [f"models.resnet8.weights={word}"])
    assert recipe.models["resnet8"].weights == str(tmp_path / word)
    recipe = read_recipe(ROOT / "recipes/digits/mutual.toml", ["models.resnet8.weights=../../runs/of-the-clone"])
    assert recipe.models["resnet8"].weights == str(ROOT / "runs/of-the-clone"), "as before"


def test_a_teacher_is_the_recipe_beside_or_a_built_in_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    path = tmp_path / "lab" / "student.toml"
    path.write_text(STUDENT.replace('"teacher" }', '"digits/teacher" }'))
    assert read_recipe(path).teachers["teacher"].recipe == str(ROOT / "recipes/digits/teacher.toml")
    assert read_recipe(path).models["teacher"].weights == str(tmp_path / "runs/digits/teacher")
    path.write_text(STUDENT)
    with pytest.raises(UsageError) as refused:
        read_recipe(path)
    assert refused.value.what == "unknown recipe 'teacher'"
    assert refused.value.where == f"{path}, line 6, [models.teacher.weights]"
    (tmp_path / "lab" / "teachers.toml").write_text(STUDENT)
    with pytest.raises(UsageError, match="did you mean 'teachers'"):
        read_recipe(path)
    (tmp_path / "lab" / "teacher.toml").write_text(STUDENT)
    assert read_recipe(path).teachers["teacher"].recipe == str(tmp_path / "lab" / "teacher.toml")
    path.write_text(STUDENT.replace('"teacher" }', '"teacher.toml", node = "b" }'))
    assert read_recipe(path).models["teacher"].weights == str(tmp_path / "runs/lab/teacher/models/b.safetensors")


@pytest.mark.parametrize(("table", "what"), [
    ('{ recipe = "teacher", nod = "a" }', "unknown key 'nod'"), ("{ }", "the key 'recipe' is missing"),
    ("{ recipe = 3 }", "a value of the wrong type: recipe"), ("3", "a value of the wrong type: weights"),
    ('{ recipe = "/teacher" }', "unknown recipe '/teacher'"), ('{ recipe = "" }', "unknown recipe ''")])
def test_weights_that_are_no_path_and_no_recipe_are_refused(tmp_path, table, what):
    (tmp_path / "teacher.toml").write_text(STUDENT)
    (tmp_path / "student.toml").write_text(STUDENT.replace('{ recipe = "teacher" }', table))
    with pytest.raises(UsageError) as refused:
        read_recipe(tmp_path / "student.toml")
    assert refused.value.what == what
    assert str(refused.value.where).startswith(f"{tmp_path / 'student.toml'}, line 6")


def test_the_wheel_has_every_recipe_and_trains_one_by_name_in_an_empty_folder(tmp_path):
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    zipfile.ZipFile(built).extractall(tmp_path / "site")
    packed = {path.relative_to(tmp_path / "site/tutelage/recipes/built_in") for path in
              (tmp_path / "site").rglob("*.toml")}
    assert packed == {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.toml")}
    (tmp_path / "empty").mkdir()
    done = subprocess.run([sys.executable, "-m", "tutelage", "train", "digits/scratch", "--quick"], capture_output=True,
                          cwd=tmp_path / "empty", env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, text=True)
    assert done.returncode == 0, done.stderr
    assert f"digits/scratch is {tmp_path}/site/tutelage/recipes/built_in/digits/scratch.toml" in done.stderr
    assert done.stdout.splitlines()[-1] == "finished: runs/quick/digits/scratch"


def test_an_editable_install_copies_no_recipe(tmp_path):
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"])
    held = zipfile.ZipFile(built)
    assert [name for name in held.namelist() if "dist-info" not in name] == ["_tutelage.pth"]
    assert held.read("_tutelage.pth").decode() == str(ROOT / "src")
