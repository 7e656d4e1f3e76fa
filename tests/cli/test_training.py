"""`tutelage train` with recipes by name and teachers first: what it trains, says and leaves, also when stopped."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tutelage.cli import commands, main
from tutelage.recipes import job
from tutelage.recipes.job import train_job

TEACHER = """\
# The teacher.
[data]
name = "digits"
image_size = 8
batch_size = 64
limit = 128

[models.teacher]
arch = "resnet8"

[method]
name = "scratch"
student = "teacher"

[train]
epochs = 2
precision = "exact"
"""
STUDENT = TEACHER.replace('[method]\nname = "scratch"\nstudent = "teacher"', """weights = { recipe = "teacher" }

[models.a]
arch = "resnet8"

[method]
name = "distill"
teacher = "teacher"
student = "a"
""")
SECOND = (STUDENT.replace("models.a]", "models.b]").replace("models.teacher]", "models.a]")
          .replace('recipe = "teacher"', 'recipe = "student"')
          .replace('teacher = "teacher"\nstudent = "a"', 'teacher = "a"\nstudent = "b"'))
WORDS = ("train", "lab/second.toml", "--with-teachers")
RUNS = ("runs/lab/teacher", "runs/lab/student", "runs/lab/second")


@pytest.fixture
def signals(monkeypatch) -> list:
    """What is taken for signals of the terminal."""
    asked: list = []
    monkeypatch.setattr(commands, "listen_to_signals", lambda: asked)
    return asked


@pytest.fixture
def tutelage(tmp_path, monkeypatch, capsys, signals):
    """Call the command in a folder beside the recipes: its exit code, what it printed, and what it complained of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    for name, text in (("teacher", TEACHER), ("student", STUDENT), ("second", SECOND)):
        (tmp_path / "lab" / f"{name}.toml").write_text(text)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err
    return call


def weights(run: str) -> dict:
    return json.loads(Path(run, "FINISHED").read_text())["weights"]


def test_teachers_are_trained_first_and_what_is_finished_is_left_alone(tutelage, tmp_path):
    code, out, errors = tutelage(*WORDS)
    assert (code, errors) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("finished")] == [f"finished: {run}" for run in RUNS]
    assert f'weights = "{tmp_path}/runs/lab/student"' in Path(RUNS[2], "config.toml").read_text()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("FINISHED")}
    assert tutelage(*WORDS)[:2] == (0, "".join(f"already finished: {run}\n" for run in RUNS))
    code, out, _ = tutelage(*WORDS, "--out", "out/b", "--set", "train.epochs=1", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [event["out"] for event in told if "out" in event] == [RUNS[0], RUNS[1], "out/b"]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "epochs = 1" in Path("out/b/config.toml").read_text()
    assert "epochs = 2" in Path(RUNS[0], "config.toml").read_text(), "--set is for the recipe that was given"


def test_a_call_that_is_stopped_in_each_of_its_runs_goes_on_to_the_same_bits(tutelage, signals, monkeypatch):
    words = ("train", "lab/student.toml", "--with-teachers")
    tutelage(*words)
    whole = [weights(run) for run in RUNS[:2]]
    Path("runs").rename("whole")

    def train(one, out, world, interrupted, *more):
        begun = (out / "run.json").exists()
        for event in train_job(one, out, world, interrupted, *more):
            if not begun:
                signals.append(signal.SIGINT)  # in its first epoch
            yield event

    monkeypatch.setattr(job, "train_job", train)
    for stopped, run in enumerate(RUNS[:2]):
        code, _, errors = tutelage(*words)
        assert code == 128 + signal.SIGINT
        assert errors.strip() == "stopped; a checkpoint is saved. Go on with: the same command again"
        assert [Path(run, "FINISHED").exists() for run in RUNS[:2]] == [number < stopped for number in range(2)]
        assert Path(run, "checkpoints").is_dir()
        signals.clear()
    assert tutelage(*words)[0] == 0
    assert [weights(run) for run in RUNS[:2]] == whole


def test_every_recipes_words_are_looked_at_before_a_teacher_is_trained(tutelage, tmp_path):
    for words in (["--set", "train.warmup_epochs=9"], ["--set", "method.name=dsitill"], ["--out", "lab"]):
        code, _, errors = tutelage(*WORDS, *words)
        assert (code, Path("runs").exists()) == (2, False), errors
    (tmp_path / "lab/student.toml").write_text(STUDENT + "warmup_epochs = 9\n")
    code, _, errors = tutelage(*WORDS)
    assert (code, Path("runs").exists()) == (2, False)
    assert "lab/student.toml" in errors


def test_without_its_teacher_a_recipe_is_refused_and_makes_nothing(tutelage, tmp_path):
    code, _, errors = tutelage("train", "lab/student.toml")
    assert code == 4
    assert errors.startswith("error[model]: the teacher 'teacher' has not been trained\n  where     lab/student.toml, ")
    assert "tutelage train lab/teacher.toml --out runs/lab/teacher" in errors
    assert not Path("runs").exists()
    code, _, errors = tutelage("compare", "lab/student.toml", "--out", "study")
    assert (code, Path("study").exists()) == (4, False)
    assert "tutelage train lab/teacher.toml --out runs/lab/teacher" in errors
    assert tutelage("graph", "lab/student.toml")[0] == 0


def test_a_study_of_recipes_alone_takes_the_teachers_that_they_name(tutelage, tmp_path):
    tutelage("train", "lab/teacher.toml", "--quick", "--out", "runs/lab/teacher")
    assert tutelage("compare", "lab/student.toml", "--out", "study")[0] == 4, "a smoke run is no teacher"
    tutelage("train", "lab/teacher.toml", "--out", "runs/mine")
    code, _, errors = tutelage("compare", "lab/student.toml", "--seeds", "1", "--on", "validation", "--out", "study")
    assert code == 0, errors
    assert f'weights = "{tmp_path}/runs/mine"' in Path("study/runs/student/seed-0/config.toml").read_text()


def test_smoke_runs_have_a_place_of_their_own(tutelage):
    assert tutelage(*WORDS, "--quick")[0] == 0
    quick = [Path("runs/quick/lab", name, "FINISHED") for name in ("teacher", "student", "second")]
    assert sorted(Path("runs").rglob("FINISHED")) == sorted(quick)
    assert tutelage("train", "lab/student.toml")[0] == 4, "a smoke run is no teacher"


def test_a_run_opens_without_the_recipes_that_its_teacher_came_from(tutelage, tmp_path):
    tutelage("train", "lab/student.toml", "--with-teachers", "--out", "out/student")
    (tmp_path / "lab").rename(tmp_path / "gone")
    assert tutelage("evaluate", "out/student", "--no-cost")[0] == 0
    assert tutelage("train", "--resume", "out/student")[:2] == (0, "already finished: out/student\n")


def test_a_recipe_has_a_name_which_is_told(tutelage):
    code, out, errors = tutelage("graph", "digits/dual_student", "--json")
    assert (code, json.loads(out)["nodes"]) == (0, ["teacher", "resnet8", "mobilenetv2"])
    assert errors.startswith("note: digits/dual_student is ")
    assert errors.endswith("recipes/digits/dual_student.toml\n")
    assert tutelage("graph", "recipes/digits/dual_student.toml", "--json")[1] == out
    (code, _, errors) = tutelage("graph", "digits/dual_studnet")
    assert (code, "did you mean 'digits/dual_student'?" in errors) == (2, True)
    Path("digits").mkdir()
    Path("digits/dual_student").write_text(TEACHER)
    assert json.loads(tutelage("graph", "digits/dual_student", "--json")[1])["nodes"] == ["teacher"], "a file is first"


def test_recipes_are_listed_with_what_they_are(tutelage):
    code, out, _ = tutelage("recipes")
    assert code == 0
    assert any(line.split()[:2] == ["digits/teacher", "digits:"] for line in out.splitlines())
    assert json.loads(tutelage("recipes", "--json")[1])["digits/study"].startswith("digits: the paper's experiments")
