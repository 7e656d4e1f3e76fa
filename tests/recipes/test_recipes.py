"""Every recipe of the repository: it reads, its graph can be drawn, and a quick run of it finishes."""

import json
import tomllib
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from tutelage.data.settings import DataSettings
from tutelage.graph.edge import Edge
from tutelage.models.architecture import Architecture
from tutelage.recipes.job import train_recipe
from tutelage.recipes.methods import method, method_names
from tutelage.recipes.names import find_recipe
from tutelage.recipes.recipe import Recipe, TrainSettings, graph_of, graphs_of, read_recipe, settings_of
from tutelage.system.distributed import World, choose_device

RECIPES = Path(__file__).parents[2] / "recipes"
PATHS = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.glob("**/*.toml")
               if "[study]" not in path.read_text() and path.parent.name != "search")  # those are candidates
LIKE_OTHERS = {name for name in PATHS if name.startswith(("kvasir/", "ucr/")) and not name.endswith(
    ("/teacher.toml", "/dual_student.toml", "/stochastic_teacher.toml"))} | {
    name for name in PATHS if name.startswith(("shapes_boxes/", "kvasir_boxes/", "bccd/", "waves_forecast/", "sp500/",
                                               "shop/", "retail/")) and name not in (
        "shapes_boxes/dual_student.toml", "kvasir_boxes/peer_cohort.toml", "bccd/class_aware.toml",
        "waves_forecast/dckd.toml", "waves_forecast/dual_student.toml", "shop/unkd.toml", "shop/dual_student.toml")} | {
    name for name in PATHS if name.startswith("fleet")} - {"fleet_digits/cooperative.toml"} | {
    name for name in PATHS if name.startswith(("pairs/", "fusion/", "sentences/", "clinc/", "snips/")) and name not in (
        "pairs/image_kd.toml", "sentences/pretrain.toml", "sentences/chain.toml", "sentences/slots.toml",
        "sentences/dual_student.toml")} | {
    name for name in PATHS if name.startswith("imagenet100/ablation_") and "no_peers" not in name}
"""Recipes whose quick run would be that of others but for the reader of the set, or for an option of the method."""
WHOLE = "imagenet100/experiment_1.toml"
"""The ImageNet recipe whose quick run keeps its 224 pixels; the others take 64, which is as much of a test."""


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Path:
    return RECIPES / request.param


def test_recipes_are_there() -> None:
    for name in ("teacher", "scratch", "distill", "mutual", "dual_student", "own_graph", "pld",
                 "abkd", "dynamic_rectification", "akd"):
        assert f"digits/{name}.toml" in PATHS
    for experiment in (1, 2, 3):
        assert f"imagenet100/experiment_{experiment}.toml" in PATHS


def test_the_header_says_what_it_is_and_gives_its_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    command = next(line for line in lines if line.startswith("#   tutelage train "))
    assert find_recipe(command.split()[3]) == path
    assert " --out runs/" in command
    assert max(map(len, lines)) <= 120


def test_it_reads_and_its_graph_prints(path: Path) -> None:
    recipe = read_recipe(path)
    graph = graph_of(recipe, path)
    settings_of(recipe, graph)
    assert "->" in str(graph)


@pytest.mark.parametrize("quick", [False, True])
def test_its_resolved_text_reads_back_as_the_same_recipe(path: Path, quick: bool, tmp_path: Path) -> None:
    recipe = read_recipe(path, quick=quick)
    (tmp_path / "config.toml").write_text(recipe.text(), encoding="utf-8")
    again = read_recipe(tmp_path / "config.toml")
    assert again.text() == recipe.text()
    assert graph_of(again).edges == graph_of(recipe).edges or str(graph_of(again)) == str(graph_of(recipe))


def test_its_teacher_comes_from_the_recipe_beside_it(path: Path) -> None:
    """No recipe that comes along names a path: the weights are what a recipe beside it trains, and fit."""
    recipe = read_recipe(path)
    assert {node for node, arch in recipe.models.items() if arch.weights is not None} == set(recipe.teachers)
    for node, teacher in recipe.teachers.items():
        source = Path(teacher.recipe)
        assert source.parent == path.parent
        models = read_recipe(source).models
        trained = models[teacher.node or next(iter(models))]
        assert len(models) == 1 or teacher.node
        assert trained.options == recipe.models[node].options
        assert trained.arch == recipe.models[node].arch or recipe.models[node].head == "new"


@pytest.mark.parametrize("name", [name for name in PATHS if name not in LIKE_OTHERS])
def test_a_quick_run_finishes(name: str, tmp_path: Path) -> None:
    overrides = ["data.image_size=64"] if name.startswith("imagenet100/") and name != WHOLE else []
    recipe = read_recipe(RECIPES / name, overrides, quick=True)
    finished = _train(recipe, tmp_path / "run")
    graph = graph_of(recipe)
    learned = [node for node, kind in graph.nodes.items() if type(kind).__name__ in ("Trained", "Ema")]
    assert sorted(finished["weights"]) == sorted(learned)
    # Of few rows half are public in a fleet; the pools of a mixture are longer.
    steps = 1 if recipe.data.shards else 6 if recipe.data.mixture else 3
    assert finished["step"] == steps or len(graphs_of(recipe)) > 1
    for node in learned:
        assert (tmp_path / "run" / "models" / f"{node}.safetensors").exists()


@pytest.mark.parametrize("changed", ["uncertainty", "peers", "entropy_temperature"])
def test_an_ablation_changes_one_thing_of_the_full_method(changed: str) -> None:
    for folder, full in (("digits", "dual_student"), ("imagenet100", "experiment_3")):
        whole = _method(f"{folder}/{full}.toml")
        for name in PATHS:
            if not name.startswith(f"{folder}/ablation_"):
                continue
            extra = {key: value for key, value in _method(name).items() if whole.get(key) != value}
            assert extra, name
            if name.endswith("neither.toml"):
                assert set(extra) == {"uncertainty", "peers"}
            else:
                assert len(extra) == 1, name
        assert any(changed in _method(name) for name in PATHS if name.startswith(f"{folder}/ablation_"))


@pytest.mark.parametrize("suffix", ["", "_mobilenetv2"])
def test_the_demo_compares_like_with_like(suffix: str) -> None:
    """Same data, epochs and rates for a student alone, distilled and in dual_student."""
    dual = read_recipe(RECIPES / "digits/dual_student.toml")
    student = "mobilenetv2" if suffix else "resnet8"
    for baseline in ("scratch", "distill"):
        recipe = read_recipe(RECIPES / f"digits/{baseline}{suffix}.toml")
        assert (recipe.data, recipe.train, recipe.optimizers) == (dual.data, dual.train, dual.optimizers)
        assert recipe.models[student] == dual.models[student]


def _method(name: str) -> dict:
    return tomllib.loads((RECIPES / name).read_text(encoding="utf-8"))["method"]


def _train(recipe: Recipe, out: Path) -> dict:
    world = World(choose_device("cpu"))
    for _ in train_recipe(recipe, out, world):
        pass
    return json.loads((out / "FINISHED").read_text(encoding="utf-8"))


def test_the_document_names_every_key() -> None:
    text = (RECIPES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    for table in (DataSettings, Architecture, TrainSettings, Edge):
        for key in fields(table):
            assert f"`{key.name}`" in text, f"{table.__name__}.{key.name}"


def test_the_document_names_every_option_of_every_method() -> None:
    text = (RECIPES.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in method_names():
        assert f"**{name}**" in text
        for option in signature(method(name)).parameters.keys() - {"task"}:
            assert f"`{option}`" in text, f"{name}: {option}"
