"""Study files: each word is checked, cells are what they say, and a folder holds one study alone."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from every import every
from tutelage.errors import UsageError, UserError
from tutelage.graph.nodes import Computed
from tutelage.recipes.recipe import graph_of, read_recipe
from tutelage.studies.study import (
    Asked,
    Cell,
    ConditionTable,
    MethodTable,
    StudyTable,
    TeacherTable,
    cells_of,
    claim,
    read_study,
    under_conditions,
)
from tutelage.system.files import locked

RECIPES = Path(__file__).parents[2] / "recipes"
DIGITS = RECIPES / "digits"
STUDY = """\
[study]
baseline = "plain"
set = ["train.lr=0.01"]

[teachers.teacher]
recipe = "teacher.toml"

[methods.plain]
recipes = ["distill.toml", "distill_mobilenetv2.toml"]

[methods.dual]
recipes = ["dual_student.toml"]

[methods.alone]
recipes = ["dual_student.toml"]
set = ["method.peers=none", "train.lr=0.02"]
ablation_of = "dual"
"""


@pytest.fixture
def write(tmp_path):
    def write_(text: str) -> Path:
        path = tmp_path / "study.toml"
        path.write_text(text.replace('"distill', f'"{DIGITS}/distill').replace('"dual_student.toml', f'"{DIGITS}/dual_'
                        'student.toml').replace('"teacher.toml', f'"{DIGITS}/teacher.toml'), encoding="utf-8")
        return path
    return write_


def cells(path: Path, out: Path, seeds: int = 2, **options) -> list[Cell]:
    return cells_of(read_study([path]), Asked(seeds, **options), out)


def test_a_cell_for_each_recipe_and_seed_and_each_seed_is_whole_before_the_next(write, tmp_path):
    names = [str(cell) for cell in cells(write(STUDY), tmp_path / "out")]
    assert names == [f"{name}/seed-{seed}" for seed in (0, 1) for name in (
        "teacher", "plain-distill", "plain-distill_mobilenetv2", "dual", "alone")]


def test_the_teacher_of_a_seed_gives_its_weights_to_that_seeds_students(write, tmp_path):
    learning = [cell for cell in cells(write(STUDY), tmp_path / "out") if cell.needs]
    assert len(learning) == 8
    for cell in learning:
        weights = tmp_path / "out" / "runs" / "teacher" / f"seed-{cell.seed}"
        assert cell.recipe.models["teacher"].weights == str(weights)
        assert [run.name for run in cell.needs] == [f"seed-{cell.seed}"]


def test_one_teacher_may_serve_all_seeds(write, tmp_path):
    path = write(STUDY.replace('"teacher.toml"', '"teacher.toml"\nseeds = "once"'))
    made = cells(path, tmp_path / "out", seeds=3)
    assert [str(cell) for cell in made if cell.method == "teacher"] == ["teacher/seed-0"]
    assert {run.name for cell in made for run in cell.needs} == {"seed-0"}


def test_overrides_go_from_the_study_to_the_method_to_the_command(write, tmp_path):
    path = write(STUDY)
    rates = {cell.method: cell.recipe.train.lr for cell in cells(path, tmp_path, 1)}
    assert rates == {"teacher": 0.01, "plain": 0.01, "dual": 0.01, "alone": 0.02}
    rates = {cell.method: cell.recipe.train.lr for cell in cells(path, tmp_path, 1, set=("train.lr=0.5",))}
    assert set(rates.values()) == {0.5}


CONDITIONS = STUDY + """
[conditions.few]
set = ["data.limit=50", "train.lr=0.03"]
teachers = ["data.limit=900"]
methods = ["train.lr=0.04"]

[conditions.as_it_is]
"""


def test_each_condition_changes_every_recipe_then_those_of_teachers_and_those_of_methods(write, tmp_path):
    studies = under_conditions(read_study([write(CONDITIONS)]))
    assert list(studies) == ["few", "as_it_is"]
    few, plain = ({cell.method: cell.recipe for cell in cells_of(study, Asked(1), tmp_path)}
                  for study in studies.values())
    assert {name: recipe.data.limit for name, recipe in few.items()} == {
        "teacher": 900, "plain": 50, "dual": 50, "alone": 50}
    assert {name: recipe.train.lr for name, recipe in few.items()} == {
        "teacher": 0.03, "plain": 0.04, "dual": 0.04, "alone": 0.02}  # a method's own come last
    assert {recipe.data.limit for recipe in plain.values()} == {None}


def test_one_condition_may_be_chosen_and_a_study_without_any_is_itself(write):
    study = read_study([write(CONDITIONS)])
    assert list(under_conditions(study, ["as_it_is"])) == ["as_it_is"]
    plain = read_study([write(STUDY)])
    assert under_conditions(plain) == {"": plain}
    with pytest.raises(UsageError, match="condition 'few_'") as caught:
        under_conditions(study, ["few_"])
    assert "few" in str(caught.value)


def test_all_methods_of_a_seed_have_its_seed_and_their_own_options(write, tmp_path):
    made = cells(write(STUDY), tmp_path)
    assert every(cell.recipe.train.seed == cell.seed for cell in made)
    assert [cell.recipe.method.get("peers") for cell in made if cell.method in ("dual", "alone")] == [
        None, "none", None, "none"]


def test_recipes_alone_are_a_study_whose_first_is_the_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where nothing has been trained
    study = read_study([DIGITS / "distill.toml", DIGITS / "dual_student.toml"])
    assert study.table.baseline == "distill"
    assert list(study.methods) == ["distill", "dual_student"]
    made = cells_of(study, Asked(1), tmp_path)
    assert [str(cell) for cell in made] == ["distill/seed-0", "dual_student/seed-0"]
    assert made[0].recipe.teachers["teacher"].recipe == str(DIGITS / "teacher.toml")
    assert not every("models.teacher.weights" in word for word in made[0].words)


def refused(*paths: Path, baseline: str | None = None, out: Path = Path("out")) -> UserError:
    with pytest.raises(UserError) as caught:
        cells_of(read_study(list(paths), baseline), Asked(1), out)
    return caught.value


def test_an_unknown_baseline_is_told_the_nearest(tmp_path):
    error = refused(DIGITS / "distill.toml", DIGITS / "scratch.toml", baseline="distil")
    assert (error.what, error.fix) == ("unknown baseline 'distil'", "did you mean 'distill'?")


def test_two_methods_of_one_name_are_refused(write, tmp_path):
    other = tmp_path / "distill.toml"
    other.write_text((DIGITS / "distill.toml").read_text())
    assert refused(DIGITS / "distill.toml", other).what == "two methods of one name"
    assert refused(write(STUDY + '[methods.teacher]\nrecipes = ["distill.toml"]\n')).what == "two methods of one name"
    assert "line 18" in str(refused(write(STUDY + '[methods.dual]\nrecipes = ["distill.toml"]\n')).found)


def test_two_runs_of_one_folder_are_refused(write):
    error = refused(write(STUDY + '[methods.plain-distill]\nrecipes = ["distill.toml"]\n'))
    assert error.what == "two runs of one name"


@pytest.mark.parametrize(("old", "new", "what", "fix"), [
    ('baseline = "plain"', 'baseline = "plian"', "unknown baseline 'plian'", "did you mean 'plain'?"),
    ('baseline = "plain"', 'baselin = "plain"', "unknown key 'baselin'", "did you mean 'baseline'?"),
    ('baseline = "plain"', "", "the key 'baseline' is missing", None),
    ("[methods.dual]", "[method.dual]", "unknown table 'method'", "did you mean 'methods'?"),
    ("[methods.dual]", '[methods."a b"]', "not a name", None),
    ('recipes = ["dual_student.toml"]\n\n', "recipes = []\n\n", "a method without a recipe", None),
    ('recipes = ["dual_student.toml"]\n\n', 'recipes = "dual_student.toml"\n\n', "a value of the wrong type: recipes",
     None),
    ('ablation_of = "dual"', 'ablation_of = "duel"', "unknown method 'duel'", "did you mean 'dual'?"),
    ('baseline = "plain"', 'baseline = "plain"\ntables = ["acuracy"]', "unknown table of results 'acuracy'",
     "did you mean 'accuracy'?"),
    ('"teacher.toml"', '"teacher.toml"\nseeds = "sometimes"', "unknown seeds 'sometimes'", None),
    ('"distill_mobilenetv2.toml"]', '"distill_mobilenetv3.toml"]', "cannot read the recipe",
     "give the path of a TOML file"),
    ('"distill_mobilenetv2.toml"]', '"dual_student.toml"]', "two recipes of one method train 'resnet8'",
     "make them two methods"),
    ("[teachers.teacher]", "[teachers.master]", "this recipe trains no network 'master'",
     "call the teacher as its recipe does, or give `node`"),
    ("method.peers=none", "method.pears=none", "unknown option of dual_student 'pears'", "did you mean 'peers'?"),
    ("[study]", "[study", "cannot read the recipe or study", "give the path of a TOML file"),
])
def test_what_cannot_be_meant_is_refused_with_its_place(write, old, new, what, fix):
    assert old in STUDY
    error = refused(write(STUDY.replace(old, new, 1)))
    assert (error.what, error.fix) == (what, fix)
    assert error.where is not None
    assert ".toml" in error.where


def test_a_study_file_stands_alone(write):
    assert refused(write(STUDY), DIGITS / "scratch.toml").what == "a study file stands alone"


def test_teachers_may_learn_from_teachers_but_not_in_a_circle(tmp_path):
    plain = (DIGITS / "distill.toml").read_text().replace('{ recipe = "teacher" }', '"x"').replace("resnet8]", "b]")
    plain = plain.replace('student = "resnet8"', 'student = "b"').replace('"teacher"\ns', '"a"\ns').replace(
        "models.teacher]", "models.a]")
    (tmp_path / "b.toml").write_text(plain)
    swapped = plain.replace("models.a]", "models.c]").replace("models.b]", "models.a]")
    swapped = swapped.replace("models.c]", "models.b]")
    (tmp_path / "a.toml").write_text(swapped.replace('teacher = "a"\nstudent = "b"', 'teacher = "b"\nstudent = "a"'))
    path = tmp_path / "study.toml"
    path.write_text('[study]\nbaseline = "m"\n[teachers.b]\nrecipe = "b.toml"\n[teachers.a]\nrecipe = '
                    f'"{DIGITS}/teacher.toml"\nset = []\n[methods.m]\nrecipes = ["{DIGITS}/scratch.toml"]\n')
    text = path.read_text()
    path.write_text(text.replace(f'"{DIGITS}/teacher.toml"', '"a.toml"'))
    assert refused(path).what == "teachers that wait for each other"


def test_a_folder_belongs_to_one_study(write, tmp_path):
    path, out = write(STUDY), tmp_path / "out"
    out.mkdir()
    claim(out, cells(path, out), "test")
    claim(out, cells(path, out, seeds=5), "test")  # more seeds of the same
    claim(out, cells(path, out, seeds=1), "test")
    for other, what in ((cells(write(STUDY.replace("0.02", "0.03")), out), "this folder holds another study"),
                        (cells_of(read_study([DIGITS / "scratch.toml"]), Asked(1), out),
                         "this folder holds another study")):
        with pytest.raises(UsageError, match=what):
            claim(out, other, "test")
    more = STUDY + '[methods.new]\nrecipes = ["dual_student.toml"]\nset = ["method.peer=0.1"]\n'
    claim(out, cells(write(more), out), "test")


def test_a_study_of_a_version_with_fewer_keys_goes_on(write, tmp_path):
    made, out = cells(write(STUDY), tmp_path / "out"), tmp_path / "out"
    out.mkdir()
    claim(out, made, "test")
    there = json.loads((out / "study.json").read_text())
    there["cells"] = {cell: text.replace("follow_symlinks = false\n", "").replace("second_head = false\n", "")
                      for cell, text in there["cells"].items()}
    (out / "study.json").write_text(json.dumps(there))
    claim(out, made, "test")
    assert json.loads((out / "study.json").read_text()) == there
    with pytest.raises(UsageError, match="another study"):
        claim(out, cells(write(STUDY), out, set=("data.follow_symlinks=true",)), "test")


def test_a_study_from_before_a_key_goes_on_as_it_began_and_so_do_its_new_runs(write, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    claim(out, cells(write(STUDY), out, seeds=1), "test")
    there = json.loads((out / "study.json").read_text())
    there["cells"] = {cell: text.replace('orientation = "upright"\n', "") for cell, text in there["cells"].items()}
    (out / "study.json").write_text(json.dumps(there))
    more = cells(write(STUDY), out, seeds=2)
    claim(out, more, "test")
    assert {cell.recipe.data.orientation for cell in more} == {"as stored"}
    assert every('data.orientation="as stored"' in cell.words for cell in more), "what trains them is told too"
    for cell in more:
        overrides = [word for before, word in zip(cell.words, cell.words[1:], strict=False) if before == "--set"]
        assert read_recipe(Path(cell.words[0]), overrides) == cell.recipe
    with pytest.raises(UsageError, match="another study"):
        claim(out, cells(write(STUDY), out, set=("data.orientation=upright",)), "test")


def test_a_study_on_validation_images_never_comes_to_look_at_test_images(write, tmp_path):
    made = cells(write(STUDY), tmp_path / "out")
    (tmp_path / "out").mkdir()
    claim(tmp_path / "out", made, "validation")
    with pytest.raises(UsageError, match="this study reports on validation"):
        claim(tmp_path / "out", made, "test")


def test_a_folder_with_something_else_is_refused(write, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds something else"), locked(tmp_path):
        claim(tmp_path, cells(write(STUDY), tmp_path), "test")


def test_the_study_of_the_defaults_changes_one_thing_at_a_time(tmp_path):
    studies = under_conditions(read_study([RECIPES / "defaults" / "study.toml"]))
    assert {"fashion_mnist", "cifar10", "cifar100", "weak_teacher", "noisy_labels"} <= set(studies)
    for name, study in studies.items():
        made = {cell.method: cell.recipe for cell in cells_of(study, Asked(1, "validation"), tmp_path / name)}
        plain = made["plain"]
        assert every(recipe.data == plain.data and recipe.train == plain.train
                   for method, recipe in made.items() if method != "teacher")
        assert not graph_of(plain).named(Computed)
        assert {edge.sample_weight for edge in graph_of(plain).edges} == {None}


@pytest.mark.parametrize("name", ["cifar100", "digits", "imagenet100"])
def test_a_shipped_study_has_the_papers_experiments_and_tables(name, tmp_path):
    study = read_study([RECIPES / name / "study.toml"])
    made = cells_of(study, Asked(2), tmp_path)
    assert {"scratch", "distill", "dual_student", "no_uncertainty", "no_peers", "neither"} <= set(study.methods)
    assert study.table.baseline == "distill"
    assert set(study.table.tables) == {"configuration", "accuracy", "ablation", "cost"}
    assert list(study.teachers) == ["teacher"]
    assert every(bool(cell.needs) == ("teacher" in cell.recipe.models) for cell in made if cell.method != "teacher")
    students = {"digits": {"resnet8", "mobilenetv2"}, "cifar100": {"resnet8x4", "mobilenetv2"},
                "imagenet100": {"resnet18", "mobilenetv2"}}[name]
    for method in study.methods:
        assert {node for cell in made if cell.method == method for node in cell.recipe.models} - {"teacher"} == students


@pytest.mark.parametrize("name", ["digits", "imagenet100"])
def test_the_studys_ablations_are_the_shipped_ablation_recipes(name, tmp_path):
    made = {cell.method: cell for cell in cells_of(read_study([RECIPES / name / "study.toml"]), Asked(1), tmp_path)}
    for path in (RECIPES / name).glob("ablation_*.toml"):
        own = made[path.stem.removeprefix("ablation_")].recipe
        assert str(graph_of(own)) == str(graph_of(read_recipe(path)))


def test_the_document_names_every_key() -> None:
    text = (RECIPES.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    for table in (StudyTable, MethodTable, TeacherTable, ConditionTable):
        for key in fields(table):
            assert f"`{key.name}`" in text, f"{table.__name__}.{key.name}"
