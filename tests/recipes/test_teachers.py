"""Teachers named by the recipe that trains them: which runs count, and what is said where none does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.errors import ModelError, UsageError
from tutelage.recipes.job import make_job
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe
from tutelage.recipes.teachers import runs_of_recipe, teachers_first, with_teachers
from tutelage.system.distributed import World, choose_device

TEACHER = """\
[data]
name = "digits"
image_size = 8

[models.teacher]
arch = "resnet8"

[method]
name = "scratch"
student = "teacher"

[train]
epochs = 5
"""
DISTILL = """\
[data]
name = "digits"
image_size = 8

[models.{teacher}]
arch = "resnet8"
weights = {{ recipe = "{recipe}" }}

[models.{student}]
arch = "resnet8"

[method]
name = "distill"
teacher = "{teacher}"
student = "{student}"
"""


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch) -> Path:
    """The working directory: a teacher's recipe, and that of a student."""
    monkeypatch.chdir(tmp_path)
    Path("teacher.toml").write_text(TEACHER)
    Path("student.toml").write_text(DISTILL.format(teacher="teacher", recipe="teacher", student="a"))
    return tmp_path


def run(folder: str, *overrides: str, of: str = "teacher.toml", finished: bool = True, quick: bool = False) -> Path:
    """What a run leaves that is looked at: its recipe, its networks, and that it is finished."""
    path, recipe = Path(folder), with_teachers(read_recipe(Path(of), overrides, quick=quick))
    (path / "models").mkdir(parents=True)
    (path / "config.toml").write_text(recipe.text())
    if finished:
        (path / "FINISHED").write_text(json.dumps({"step": 3}))
        for node in recipe.models:
            (path / "models" / f"{node}.safetensors").touch()
    return path.resolve()


def weights(out: Path | None = None, of: str = "student.toml", node: str = "teacher") -> str | None:
    return with_teachers(read_recipe(Path(of)), out).models[node].weights


def refused(of: str = "student.toml") -> ModelError:
    with pytest.raises(ModelError) as error:
        weights(of=of)
    return error.value


def found(*overrides: str) -> list[str]:
    """The folders that count as finished runs of the teacher's recipe."""
    path = Path("teacher.toml")
    return [str(folder) for folder in runs_of_recipe(path, read_recipe(path, overrides)).finished]


def test_a_finished_run_of_the_recipe_is_found_whatever_it_is_called_and_the_usual_place_comes_first():
    assert found() == []
    deep = run("runs/lab/b")
    assert weights() == str(deep)
    old = run("runs/old")
    assert weights() == str(old)
    usual = run("runs/teacher")
    assert weights() == str(usual)
    run("runs/lab/deeper/c")
    run("elsewhere/teacher")
    assert found() == ["runs/teacher", "runs/old", "runs/lab/b"]


@pytest.mark.parametrize("how", ["train.device=cpu", "train.precision=exact", "train.cache=false", "data.workers=2",
                                 "data.download=true", "train.checkpoint_steps=7", "data.root=/where/they/lie"])
def test_how_a_run_was_computed_makes_no_difference(how):
    run("runs/old", how)
    assert found() == ["runs/old"]


@pytest.mark.parametrize("what", ["train.epochs=6", "train.seed=1", "data.limit=100", "train.lr=0.2",
                                  "train.teacher={lr=0.5}", "models.teacher.stem=cifar", "data.validation=0.2"])
def test_another_teacher_is_not_taken_and_is_named(what):
    run("runs/old", what)
    assert found() == []
    error = refused()
    assert error.what == "the teacher 'teacher' has not been trained"
    assert f"runs/old is of other settings: {what.partition('=')[0]} " in str(error.found)
    assert str(error.fix).endswith(f"--set models.teacher.weights={Path('runs/old').resolve()}")


def test_another_network_of_that_name_is_not_even_named():
    run("runs/old", "models.teacher.arch=resnet14")
    assert refused().found == "no run of teacher.toml in ./runs"


def test_images_of_ones_own_are_told_apart_by_where_they_lie(lab):
    for name in ("cats", "dogs"):
        (lab / name / "x").mkdir(parents=True)
    Path("teacher.toml").write_text(TEACHER.replace('"digits"', '"folder"\nroot = "cats"'))
    run("runs/cats")
    assert found() == ["runs/cats"]
    assert found("data.root=dogs") == []


def test_what_is_missing_and_what_is_not_finished_are_told_apart(lab):
    error = refused()
    assert error.what == "the teacher 'teacher' has not been trained"
    assert error.where == "student.toml, line 7, [models.teacher]"
    assert error.expected == "a finished run of that recipe, such as runs/teacher"
    assert str(error.fix).startswith("tutelage train teacher.toml --out runs/teacher; or ")
    assert "--with-teachers" in str(error.fix)
    run("runs/begun", finished=False)
    error = refused()
    assert error.what == "the run of the teacher 'teacher' is not finished"
    assert error.found == "runs/begun, of teacher.toml"
    assert str(error.fix).startswith("tutelage train --resume runs/begun; or ")
    run("runs/done")
    assert weights() == str(lab / "runs/done")


def test_a_place_that_holds_another_run_is_to_be_cleared_first():
    run("runs/teacher", "train.epochs=1")
    assert str(refused().fix).startswith("move runs/teacher away, then tutelage train teacher.toml --out runs/teacher;")


def test_a_smoke_run_is_no_teacher_and_needs_none(lab):
    run("runs/teacher", quick=True)
    assert found() == []
    assert refused().found == "no run of teacher.toml in ./runs"
    quick = with_teachers(read_recipe(Path("student.toml"), quick=True))
    assert (quick.models["teacher"].weights, quick.teachers) == (None, {})


@pytest.mark.parametrize("spoilt", ["", "]", "[data]\n", "[models]\nteacher = 3\n", "run = 3\nmodels = 3\n",
                                    TEACHER + "[run]\nquick = false\nplugins = ['not.allowed']\n"])
def test_what_cannot_be_read_in_runs_is_passed_over(spoilt):
    run("runs/a")
    Path("runs/a/config.toml").write_text(spoilt)
    run("runs/b")
    Path("runs/c").mkdir()
    Path("runs/file").touch()
    assert found() == ["runs/b"]


def test_one_network_of_several_is_taken_by_its_node(lab):
    both = TEACHER.replace("[method]", '[models.b]\narch = "resnet8"\n[method]').replace("scratch", "mutual")
    Path("teacher.toml").write_text(both.replace('student = "teacher"', 'students = ["teacher", "b"]'))
    run("runs/both")
    text = Path("student.toml").read_text()
    Path("student.toml").write_text(text.replace('"teacher" }', '"teacher", node = "b" }'))
    assert weights() == str(lab / "runs/both/models/b.safetensors")
    Path("student.toml").write_text(text.replace('"teacher" }', '"teacher", node = "techer" }'))
    with pytest.raises(UsageError) as error:
        weights()
    assert (error.value.what, error.value.fix) == ("unknown network 'techer'", "did you mean 'teacher'?")


def test_a_run_that_was_begun_keeps_its_teacher_while_it_is_there(lab):
    first = run("runs/z")
    begun = run("runs/student", of="student.toml", finished=False)
    better = run("runs/teacher")
    assert weights() == str(better)
    assert weights(begun) == str(first)
    first.rename(lab / "gone")
    assert weights(begun) == str(better)
    (begun / "FINISHED").write_text("{}")
    assert weights(begun) == str(first), "it needs none any more"


def test_the_resolved_recipe_has_a_path_and_no_name(lab):
    usual = run("runs/teacher")
    recipe = with_teachers(read_recipe(Path("student.toml")))
    assert f'weights = "{usual}"' in recipe.text()
    (lab / "config.toml").write_text(recipe.text())
    again = read_recipe(lab / "config.toml")
    assert (again, again.teachers, recipe.teachers) == (recipe, {}, {})
    assert again.text() == recipe.text()


def test_an_override_takes_the_place_of_a_name_and_a_name_may_be_one(lab):
    other = read_recipe(Path("student.toml"), ["models.teacher.weights=mine"])
    assert with_teachers(other).models["teacher"].weights == str(lab / "mine")
    for word in ("models.a.weights={recipe='teacher'}", "models.a.weights.recipe=teacher"):
        assert read_recipe(Path("student.toml"), [word]).teachers.keys() == {"teacher", "a"}


def test_reading_and_drawing_a_recipe_needs_no_run():
    recipe = read_recipe(Path("student.toml"))
    assert "teacher->a" in str([edge.name for edge in graph_of(recipe).edges])


def test_a_job_is_refused_before_the_data_are_read():
    recipe = read_recipe(Path("student.toml"), ["data.name=cifar10", "data.root=nowhere"])
    with pytest.raises(ModelError, match="has not been trained"):
        make_job(recipe, World(choose_device("cpu")))


def chain(lab: Path) -> Recipe:
    """A student of a student of the teacher."""
    Path("second.toml").write_text(DISTILL.format(teacher="a", recipe="student", student="b"))
    return read_recipe(Path("second.toml"))


def test_teachers_come_after_their_own_teachers_each_once(lab):
    assert teachers_first(chain(lab), Path("second.toml")) == [lab / "teacher.toml", lab / "student.toml"]
    assert teachers_first(read_recipe(Path("teacher.toml")), Path("teacher.toml")) == []
    both = read_recipe(Path("second.toml"), ["models.b.weights={recipe='teacher'}"])
    assert teachers_first(both, Path("second.toml")) == [lab / "teacher.toml", lab / "student.toml"]


@pytest.mark.parametrize("words", [["second"], ["student"]])
def test_recipes_that_wait_for_each_other_are_refused(lab, words):
    chain(lab)
    text = Path("student.toml").read_text()
    Path("student.toml").write_text(text.replace('recipe = "teacher"', f'recipe = "{words[0]}"'))
    with pytest.raises(UsageError, match="wait for each other") as error:
        teachers_first(read_recipe(Path("student.toml")), Path("student.toml"))
    assert str(error.value.found).startswith("student.toml -> ")
    assert str(error.value.found).endswith(" -> student.toml")


def test_a_teacher_whose_own_teacher_has_been_moved_is_still_the_one(lab):
    run("runs/teacher")
    chain(lab)
    second = run("runs/student", of="student.toml")
    (lab / "runs/teacher").rename(lab / "gone")
    assert weights(of="second.toml", node="a") == str(second)


def test_nothing_but_the_named_teachers_is_changed(lab):
    run("runs/teacher")
    before = read_recipe(Path("student.toml"), ["train.epochs=3"])
    after = with_teachers(before)
    assert replace(after, models=before.models) == before
    assert after.models["a"] == before.models["a"]
