"""`tutelage search diswot`: candidates, what is measured, how it is ranked, and the command as its user meets it."""

import json
import math
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from scipy import stats

from tutelage.analysis.search.diswot import read_batch, similarities
from tutelage.analysis.search.run import Search, SearchSettings, fresh, search
from tutelage.analysis.search.space import family, read_candidates
from tutelage.cli import main
from tutelage.cli.analysis_text import search_text
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, UsageError, UserError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.cifar.resnet import resnet_stages
from tutelage.models.cost import parameters
from tutelage.system.random import derive, permutation

ROOT = Path(__file__).parents[2]
S0 = ROOT / "recipes" / "search" / "s0.toml"
SMALL = SearchSettings(batch=4, batches=1, initialisations=1)
TEACHER = Architecture("resnet_stages", options={"first": 1, "second": 1, "third": 1, "width": 4})
RECIPE = """\
[data]
name = "digits"
image_size = 8

[models.big]
arch = "resnet_stages"
options = { first = 1, second = 1, third = 1, width = 4 }

[models.small]
arch = "resnet8"

[method]
name = "mutual"
students = ["big", "small"]
"""
MODELS = """\
[models.one]
arch = "resnet_stages"
options = { first = 1, second = 1, third = 1, width = 2 }
[models.two]
arch = "resnet_stages"
options = { first = 1, second = 1, third = 2, width = 2 }
[models.three]
arch = "resnet_stages"
weights = "nowhere.safetensors"
options = { first = 2, second = 1, third = 2, width = 2 }
[accuracy]
one = 50
two = 60.5
three = 60.0
"""


@pytest.fixture(scope="module")
def data():
    return load_data(DataSettings("digits", image_size=8))


def among(path: Path, words: str):
    (path / "candidates.toml").write_text(words)
    return read_candidates(path / "candidates.toml")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`tutelage search diswot` in a folder with a recipe and a file of candidates: exit code, answer, complaint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "models.toml").write_text(MODELS)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", "search", "diswot", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err
    return call


def test_the_published_students_are_64_and_counting_parameters_orders_them_as_the_specification_says():
    known = read_candidates(S0)
    names, counts, blocks, last, accuracy = [], [], [], [], []
    for genes in product(*map(range, known.choices)):
        options = known.architecture(genes).options
        with torch.device("meta"):
            counts.append(parameters(resnet_stages(100, **options)))
        names.append(known.name(genes))
        blocks.append(sum(options.values()))
        last.append(options["third"])
        accuracy.append(known.accuracy[names[-1]])
    assert len(known.accuracy) == 64
    assert max(zip(accuracy, names, strict=True)) == (74.86, "5-5-7")
    for values, expected in ((counts, 0.968), (blocks, 0.81), (last, 0.90)):
        assert float(stats.spearmanr(values, accuracy).statistic) == pytest.approx(expected, abs=0.005)


def test_a_family_is_every_combination_of_blocks_and_widths():
    made = family([3, 1, 3], [8, 16])
    assert made.choices == (2, 2, 2, 2)
    assert made.name((0, 1, 1, 0)) == "1-3-3-8"
    assert made.architecture((0, 1, 1, 0)).options == {"first": 1, "second": 3, "third": 3, "width": 8}
    assert family([2], [16]).name((0, 0, 0, 0)) == "resnet_stages"


def test_a_candidate_is_scored_by_the_mean_over_weights_and_batches(data):
    settings = SearchSettings(batch=4, batches=2, initialisations=2, seed=3)
    found = search(TEACHER, data, family([1], [4]), settings).found[0]
    student = Architecture("resnet_stages", options={"first": 1, "second": 1, "third": 1, "width": 4})
    expected = []
    for number, place in product(range(2), range(2)):
        rows = permutation(derive(3, "diswot", place), len(data.train.ids))[:4]
        batch = next(iter(data.train.batches([rows], draw=None)))
        readings = [read_batch(build(spec, class_names=data.classes, channels=1, name=name,
                                     seed=derive(3, "initialisation", number)).train(), batch.inputs, batch.labels)
                    for name, spec in (("teacher", TEACHER), ("resnet_stages", student))]
        expected.append(similarities(*readings, "grad_outer"))
    means = tuple(sum(each) / 4 for each in zip(*expected, strict=True))
    assert (found.relation, found.semantic) == pytest.approx(means)
    assert found.score == found.relation + found.semantic
    assert found.parameters == parameters(resnet_stages(10, 1, 1, 1, 1, 4))


def test_a_search_is_a_function_of_its_arguments(data):
    torch.manual_seed(1)
    one = search(TEACHER, data, family([1, 2], [4]), SMALL)
    torch.manual_seed(2)
    other = search(TEACHER, data, family([1, 2], [4]), SMALL)
    assert one == other
    assert one != search(TEACHER, data, family([1, 2], [4]), replace(SMALL, seed=1))


def test_ranks_and_rank_sums(data, tmp_path):
    found = search(TEACHER, data, among(tmp_path, MODELS), SMALL).found
    by = {measure: sorted(found, key=lambda one: -getattr(one, measure)) for measure in ("relation", "semantic")}
    assert [one.rank for one in found] == [1, 2, 3]
    assert [one.score for one in found] == sorted([one.score for one in found], reverse=True)
    for one in found:
        assert one.rank_sum == by["relation"].index(one) + by["semantic"].index(one) + 2
    assert {one.name: one.rank_by_parameters for one in found} == {"one": 3, "two": 2, "three": 1}


def test_the_score_is_held_against_known_accuracies_and_so_are_the_baselines(data, tmp_path):
    made = search(TEACHER, data, among(tmp_path, MODELS), SMALL)
    known = {"one": 50.0, "two": 60.5, "three": 60.0}
    assert {one.name: one.accuracy for one in made.found} == known
    expected = stats.spearmanr([one.score for one in made.found], [known[one.name] for one in made.found]).statistic
    assert made.correlations["score"]["spearman"] == pytest.approx(expected)
    assert made.correlations["parameters"] == {"spearman": pytest.approx(0.5), "kendall": pytest.approx(1 / 3)}
    backwards = stats.kendalltau([-one.rank_sum for one in made.found], [known[one.name] for one in made.found])
    told = made.correlations["rank_sum"]["kendall"]
    assert told is None if math.isnan(backwards.statistic) else told == pytest.approx(backwards.statistic)
    assert ("Counting parameters orders" in search_text(made)) == (expected <= 0.5)


def test_without_accuracies_or_with_two_candidates_nothing_is_claimed(data):
    made = search(TEACHER, data, family([1], [4, 8]), SMALL)
    assert made.correlations == {}
    assert made.with_parameters is None
    assert "orrelation" not in search_text(made)


@pytest.mark.parametrize(("widths", "expected"), [([4], "grad_outer"), ([4, 8], "cam"), ([8], "cam")])
def test_the_semantic_term_fits_the_widths(data, widths, expected):
    made = search(TEACHER, data, family([1], widths), SMALL)
    assert made.semantic == expected
    assert made.as_json()["settings"]["semantic"] == expected


def test_unlike_widths_with_a_term_that_cannot_compare_them(data):
    with pytest.raises(UsageError, match=r"(?s)grad_outer compares.*network 'resnet_stages'.*--semantic cam"):
        search(TEACHER, data, family([1], [8]), replace(SMALL, semantic="grad_outer"))


def test_candidates_that_are_too_large_are_left_out(data):
    sizes = [parameters(resnet_stages(10, 1, 1, 1, third, 4)) for third in (1, 2, 3)]
    made = search(TEACHER, data, family([1, 2, 3], [4]), replace(SMALL, most_parameters=sizes[1]))
    assert {one.parameters for one in made.found} == {size for size in (one.parameters for one in made.found)
                                                     if size <= sizes[1]}
    assert len(made.found) + made.refused == 27
    assert made.refused > 0
    flop = min(one.flops for one in made.found)
    least = search(TEACHER, data, family([1, 2], [4]), replace(SMALL, most_flops=flop)).found
    assert {one.flops for one in least} == {flop}
    with pytest.raises(UsageError, match=f"the smallest has {sizes[0]} parameters"):
        search(TEACHER, data, family([1, 2], [4]), replace(SMALL, most_parameters=10))


def test_more_candidates_than_evaluations_evolve(data):
    made = search(TEACHER, data, family([1, 2, 3], [4]), replace(SMALL, evaluations=8))
    assert (len(made.found), made.of) == (8, 27)
    assert len({one.name for one in made.found}) == 8


def test_a_candidate_has_learned_nothing():
    assert fresh(Architecture("timm:resnet18", pretrained=True)) == Architecture("timm:resnet18")
    assert fresh(Architecture("resnet8", weights="a", classes="by-name")) == Architecture("resnet8")
    assert fresh(Architecture("resnet8", cut="layer3", draws=3)) == Architecture("resnet8")


def test_images_without_a_label_are_not_looked_at(data):
    from tutelage.data import from_tensors
    images, labels = torch.rand(12, 1, 8, 8), torch.tensor([0, 1, -1, -1, 0, 1, -1, -1, 0, 1, 0, 1])
    few = from_tensors((images, labels), validation=(images[:2], labels[:2]))
    assert search(TEACHER, few, family([1], [4]), SMALL).found
    with pytest.raises(DataError, match="fewer labelled training images than one batch"):
        search(TEACHER, few, family([1], [4]), replace(SMALL, batch=9))


@pytest.mark.parametrize(("words", "says"), [
    ("[space]\narch = 'resnet_stages'", "a space needs options"),
    ("[space]\narch = 'resnet_stages'\n[space.options]\nfirst = []", "an option needs values"),
    ("[space]\narch = 'resnet_stages'\n[space.options]\nfirst = [1, 1]", "each of them once"),
    ("[space]\narch = 'resnet8'\n[models.a]\narch = 'resnet8'", "both"),
    ("", "neither"),
    ("[spaces]\n", "did you mean 'space'"),
    ("[models.a]\narhc = 'resnet8'", "unknown key 'arhc'"),
    ("models = 3", "must hold tables"),
    ("[models.a]\narch = 'resnet8'\n[accuracy]\nb = 3", "unknown candidate 'b'"),
    ("[models.a]\narch = 'resnet8'\n[accuracy]\na = 103", "candidates.toml, line 4, [accuracy]"),
    ("[models.a]\narch = 'resnet8'\n[accuracy]\na = true", "a number of percent"),
    ("[models", "cannot read the candidates"),
])
def test_a_file_of_candidates_that_cannot_be_meant(tmp_path, words, says):
    with pytest.raises(UserError) as told:
        among(tmp_path, words)
    assert says in str(told.value)


def test_the_command_prints_a_table_the_baseline_and_the_winners_words(command):
    code, out, _ = command("recipe.toml", "--node", "big", "--candidates", "models.toml", "--batch", 4)
    assert code == 0
    for words in ("teacher resnet_stages on digits", "by parameters", "parameters (baseline)", "[models.student]",
                  'arch = "resnet_stages"', "3 of 3 candidates scored", "semantic term cam"):
        assert words in out
    assert (code, out) == command("recipe.toml", "--node", "big", "--candidates", "models.toml", "--batch", 4)[:2]


def test_the_command_prints_json(command):
    code, out, _ = command("recipe.toml", "--node", "small", "--blocks", "1,2", "--widths", "16", "--batch", 4,
                           "--initialisations", 1, "--json")
    told = json.loads(out)
    assert code == 0
    assert len(told["found"]) == told["of"] == 8
    assert told["semantic"] == "grad_outer"
    assert {"name", "score", "relation", "semantic", "parameters", "flops", "rank", "rank_sum",
            "rank_by_parameters"} <= set(told["found"][0])
    assert told["found"][0]["architecture"]["options"]["width"] == 16


@pytest.mark.parametrize(("words", "code", "says"), [
    (["recipe.toml"], 2, ["say which network is the teacher", "--node big"]),
    (["recipe.toml", "--node", "bigg"], 2, ["unknown network 'bigg'", "did you mean 'big'?"]),
    (["nowhere.toml"], 2, ["there is no recipe", "nowhere.toml"]),
    (["recipe.toml", "--node", "big", "--blocks", "1,x"], 2, ["not numbers between commas", "--blocks", "1,x"]),
    (["recipe.toml", "--node", "big", "--blocks", "0,1"], 2, ["1 or more", "--blocks"]),
    (["recipe.toml", "--node", "big", "--semantic", "camm"], 2, ["unknown semantic term", "did you mean 'cam'?"]),
    (["recipe.toml", "--node", "big", "--candidates", "none.toml"], 2, ["there is no recipe", "none.toml"]),
    (["recipe.toml", "--node", "big", "--blocks", "1", "--max-parameters", "5"], 2, ["no candidate is small enough"]),
    (["recipe.toml", "--node", "big", "--batch", "5000"], 3, ["fewer labelled training images", "--batch 1296"]),
    (["recipe.toml", "--node", "big", "--set", "models.big.arch=timm:vit_tiny_patch16_224",
      "--set", "models.big.options={}"], 4, ["does not run on these images", "network 'teacher'"]),
])
def test_what_is_asked_wrongly_is_told_in_one_block(command, words, code, says):
    found, _, errors = command(*words)
    assert (found, errors[:6]) == (code, "error["), errors
    assert "Traceback" not in errors
    for part in says:
        assert part in errors


def test_a_run_folder_names_teacher_and_data(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(RECIPE)
    assert command("run", "--node", "big", "--candidates", "models.toml", "--batch", 4)[0] == 0
    code, _, errors = command("run", "--node", "big", "--set", "train.seed=1")
    assert code == 2
    assert "a run keeps its own recipe" in errors


def test_search_is_a_plain_value():
    empty = Search("t", "d", "cam", SMALL, (), 0, 1, None, {})
    assert json.loads(json.dumps(empty.as_json()))["found"] == []
