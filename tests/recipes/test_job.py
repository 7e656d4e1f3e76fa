"""A recipe made real: what is allowed and yet looks like a mistake is said; folders of older versions go on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from every import every
from tutelage.engine.run import Epoch
from tutelage.errors import ModelError, UsageError
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job, train_job, train_recipe
from tutelage.recipes.recipe import Recipe, read_recipe
from tutelage.recipes.trained_run import recipe_of_run
from tutelage.runs.folder import finished, read_records
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


@pytest.mark.parametrize("as_file", [False, True])
def test_a_teacher_from_before_the_rule_of_splits_is_told_of_and_is_at_home_with_its_own(teacher, tmp_path, as_file):
    old = tmp_path / "old"
    shutil.copytree(teacher, old)
    text = (old / "config.toml").read_text()
    (old / "config.toml").write_text(text.replace("split_rule = 2\n", ""))
    recipe = distill(old / "models" / "teacher.safetensors" if as_file else old, 8)
    (note,) = make_job(recipe, CPU).notes
    assert "teacher was trained where split_rule = 1, here it is 2" in note
    assert make_job(replace(recipe, data=replace(recipe.data, split_rule=1)), CPU).notes == ()


def test_class_weights_and_logit_adjustment_reach_the_edges_from_labels():
    words = ["train.logit_adjustment=1", "train.class_weights=balanced"]
    graph = make_job(tiny("scratch.toml", *words), CPU).graph
    assert graph.edges[0].divergence.keywords == {"class_weights": "balanced", "logit_adjustment": 1.0}
    for sets, says in ((["train.logit_adjustment=-1"], "logit adjustment that cannot be"),
                       (["train.class_weights=balance"], "balanced"), (["train.best=top-1"], "unknown score 'top-1'")):
        with pytest.raises(UsageError, match=says):
            make_job(tiny("scratch.toml", *sets), CPU)


def test_a_frozen_network_never_teaches_with_a_random_classifier(teacher):
    new = 'models.teacher.head="new"'
    for override in ((), ('models.teacher.freeze="layer1"',)):
        with pytest.raises(ModelError, match="would teach with a random classifier") as caught:
            make_job(read_recipe(RECIPES / "distill.toml", [f'models.teacher.weights="{teacher}"', new, *override,
                                                            "models.teacher.arch=resnet8"]), CPU)
        assert caught.value.exit_code == 4


def test_where_features_alone_are_read_a_new_head_does_no_harm(teacher, tmp_path):
    recipe = tmp_path / "features.toml"
    recipe.write_text(f'''
[data]
name = "digits"
batch_size = 8
image_size = 8
[models.teacher]
arch = "resnet8"
weights = "{teacher}"
head = "new"
[models.student]
arch = "resnet8"
freeze = ["conv1", "layer1"]
[nodes]
teacher = "frozen"
student = "trained"
[[edges]]
teacher = "labels"
student = "student"
divergence = "cross_entropy"
[[edges]]
teacher = "teacher.layer3"
student = "student.layer3"
divergence = {{ name = "Projected", divergence = "mse" }}
[train]
epochs = 1
''')
    job = make_job(read_recipe(recipe), CPU)
    assert [note for note in job.notes if note.startswith("student: conv1, layer1 do not learn (")]
    with pytest.raises(UsageError, match="'teacher' is frozen as a whole"):
        make_job(read_recipe(recipe, ['models.teacher.freeze="layer1"']), CPU)


def test_a_method_of_several_runs_that_is_refused_leaves_no_folder(tmp_path):
    recipe = read_recipe(RECIPES / "self_distill.toml", ["data.image_size=8", "data.limit=64",
                                                         'models.resnet8.freeze="layr1"'])
    with pytest.raises(ModelError, match="did you mean 'layer1'"):
        list(train_recipe(recipe, tmp_path / "run", CPU))
    assert not (tmp_path / "run").exists()


ADDED = ("follow_symlinks =", "second_head =", "cache_gib =", "warn =")
"""Keys of [data], [models] and [train] that an older version is made to know nothing of."""


def forget_keys(patch: pytest.MonkeyPatch) -> None:
    """Let recipes be written without these keys."""
    text = Recipe.text
    patch.setattr(Recipe, "text", lambda recipe: "".join(
        line for line in text(recipe).splitlines(keepends=True) if not line.startswith(ADDED)))


def tiny(name: str, *more: str) -> Recipe:
    return read_recipe(RECIPES / name, ["data.image_size=8", "data.limit=64", "train.epochs=2", *more])


@pytest.mark.parametrize(("name", "number"), [("scratch.toml", ""), ("self_distill.toml", "1"),
                                              ("self_distill.toml", "2")])
def test_a_run_of_a_version_with_fewer_keys_goes_on_and_is_measured(tmp_path, name, number):
    recipe, run = tiny(name), tmp_path / "run"
    with pytest.MonkeyPatch.context() as old_version:
        forget_keys(old_version)
        for _, event in train_recipe(recipe, run, CPU):
            if isinstance(event, Epoch) and event.number == 1 and (run / number / "checkpoints").exists():
                break
    for folder in {run, run / number}:
        assert every(not line.startswith(ADDED) for line in (folder / "config.toml").read_text().splitlines())
    old = (run / "config.toml").read_text()
    with pytest.raises(UsageError, match="another run"):
        list(train_recipe(tiny(name, "data.follow_symlinks=true"), run, CPU))
    assert recipe_of_run(run) == recipe
    list(train_recipe(recipe_of_run(run), run, CPU))
    events = [record["event"] for record in read_records(run / number)]
    assert events.count("resume") == events.count("finished") == 1
    assert events.count("epoch") == 2
    assert (run / "config.toml").read_text() == old
    assert finished(run) is not None
    assert evaluate_run(run, "test", CPU, cost=False)[0]["nodes"]["resnet8"]["top1"] >= 0
