"""Recipes: each word of a TOML file is checked and told with its place; what was resolved reads back as itself."""

import os
import sys
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from toy_tasks import PIXELS, POINTS, channels, pixels, points
from tutelage import Computed, Edge, Ema, Ensemble, Frozen, Graph, Trained
from tutelage.engine.settings import Settings
from tutelage.errors import SecurityError, UsageError, UserError
from tutelage.graph.divergences import cross_entropy, js, kl, mse
from tutelage.graph.modules import Projected, pooled
from tutelage.graph.sample_weights import confidence, entropy, mean_one
from tutelage.graph.schedules import cosine, ramp_up, step
from tutelage.methods.dual_student import dual_student
from tutelage.recipes.job import make_job
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe, settings_of
from tutelage.system.distributed import World
from tutelage.tasks import named

HEAD = """\
[data]
name = "digits"
batch_size = 32

[models.t]
arch = "resnet8"
weights = "runs/t"

[models.a]
arch = "resnet8"
"""
METHOD = HEAD + """
[models.b]
arch = "resnet14"

[method]
name = "dual_student"
teacher = "t"
students = ["a", "b"]

[train]
epochs = 4
"""
GRAPH = HEAD + """
[nodes]
t = "frozen"
a = "trained"

[[edges]]
teacher = "labels"
student = "a"
divergence = "cross_entropy"

[[edges]]
teacher = "t"
student = "a"
divergence = "kl"
"""


@pytest.fixture
def read(tmp_path):
    """Write a recipe, read it, and make of it what needs no data: the recipe, its graph and its settings."""
    def read_(text: str, *overrides: str, **options) -> tuple[Recipe, Graph, Settings]:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        recipe = read_recipe(path, overrides, **options)
        graph = graph_of(recipe, path)
        return recipe, graph, settings_of(recipe, graph)
    return read_


@pytest.fixture
def refused(read, tmp_path):
    """The complaint about a recipe: a usage error that names its file, unless said otherwise."""
    def refused_(text: str, *overrides: str, error: type[UserError] = UsageError) -> UserError:
        with pytest.raises(UserError) as caught:
            read(text, *overrides)
        assert type(caught.value) is error
        assert len(caught.value.block().splitlines()) <= 12
        return caught.value
    return refused_


def changed(old: str, new: str, text: str = GRAPH) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(("override", "what", "meant"), [
    ("dta.name=digits", "unknown table 'dta'", "data"),
    ("data.batchsize=8", "unknown key 'batchsize'", "batch_size"),
    ("data.name=digit", "unknown name 'digit'", "digits"),
    ("data.augment=randaugmnt", "unknown augment 'randaugmnt'", "randaugment"),
    ("data.on_bad_image=skp", "unknown on_bad_image 'skp'", "skip"),
    ("models.a.weigths=x", "unknown key 'weigths'", "weights"),
    ("models.a.stem=cifra", "unknown stem 'cifra'", "cifar"),
    ("models.a.head=nwe", "unknown head 'nwe'", "new"),
    ("method.name=dual_studnet", "unknown method 'dual_studnet'", "dual_student"),
    ("method.temprature=2", "unknown option of dual_student 'temprature'", "temperature"),
    ("method.students=['a', 'B']", "unknown network 'B'", None),
    ("method.peers=[['a', 'bb']]", "unknown student 'bb'", "b"),
    ("train.weigth_decay=0", "unknown key 'weigth_decay'", "weight_decay"),
    ("train.optimizer=sgdd", "unknown optimizer 'sgdd'", "sgd"),
    ("train.options={dampning=0.5}", "unknown option of SGD 'dampning'", "dampening"),
    ("train.schedule=cosin", "unknown schedule 'cosin'", "cosine"),
    ("train.schedule={name='cosine', lst=1}", "unknown option of cosine 'lst'", "last"),
    ("train.a.momentun=0", "unknown key 'momentun'", "momentum"),
    ("train.a.epochs=3", "unknown key 'epochs'", None),
    ("train.c.lr=1", "unknown trained network or part 'c'", None),
    ("train.t.lr=1", "unknown trained network or part 't'", None),
    ("run.quik=true", "unknown key 'quik'", "quick"),
])
def test_an_unknown_word_is_refused_with_the_nearest_that_is_known(refused, override, what, meant):
    error = refused(METHOD, override)
    assert error.what == what
    assert error.expected.startswith("one of: ")
    assert error.fix == (None if meant is None else f"did you mean {meant!r}?")


@pytest.fixture
def toys_are_there(monkeypatch):
    for task in (PIXELS, POINTS):
        monkeypatch.setitem(named.TASKS, task.name, task)


@pytest.mark.usefixtures("toys_are_there")
def test_a_method_gets_the_task_of_the_data(read):
    assert str(read(METHOD, "data.task=toy_pixels")[1]) == str(dual_student("t", ["a", "b"], task=PIXELS))
    assert str(read(METHOD, "data.task=classification")[1]) == str(read(METHOD)[1])


@pytest.mark.parametrize("value", ["'classification'", "1"])
def test_the_task_is_no_option_of_a_method(refused, value):
    error = refused(METHOD, f"method.task={value}")
    assert error.what == "a method has the task of its data"
    assert "method.task" in error.where
    assert "[data]" in error.fix


def test_an_unknown_task_is_refused_with_the_nearest(refused):
    error = refused(METHOD, "data.task=clasification")
    assert error.what == "unknown task 'clasification'"
    assert "data.task=clasification" in error.where
    assert error.fix == "did you mean 'classification'?"


@pytest.mark.usefixtures("toys_are_there")
@pytest.mark.parametrize("name", ["alm", "pesf", "class_incremental", "switokd", "peeraid"])
def test_a_method_for_classification_alone_is_refused_for_other_tasks_whatever_its_options(refused, name):
    error = refused(METHOD, "data.task=toy_pixels", f"method.name={name}")
    assert error.what == f"method {name} is for classification alone"
    assert (error.found, error.fix) == ("task toy_pixels", "tutelage methods --task toy_pixels")
    assert "dual_student" in error.expected
    assert name not in error.expected


def test_a_method_for_other_tasks_is_refused_for_classification(refused):
    error = refused(METHOD, "method.name=channel_wise")
    assert error.what == "method channel_wise is not for this task"
    assert error.found == "task classification"


@pytest.mark.usefixtures("toys_are_there")
def test_edges_and_computed_nodes_may_have_the_rows_of_the_task_by_their_names(read):
    text = changed('a = "trained"', 'a = "trained"\n'
                   'sure = { kind = "computed", of = ["t"], by = "pooled", rows = "pixels" }\n'
                   'both = { kind = "ensemble", of = ["t", "a"] }')
    text = changed('"cross_entropy"', '"cross_entropy"\nrows = "pixels"', text)
    text = changed('"kl"', '"kl"\nrows = "channels"', text)
    graph = read(text, "data.task=toy_pixels")[1]
    assert [edge.rows for edge in graph.edges] == [pixels, channels]
    assert [edge.name for edge in graph.edges] == ["labels->a:cross_entropy[pixels]", "t->a:kl[channels]"]
    assert graph.nodes["sure"] == Computed(("t",), pooled, pixels)
    assert graph.nodes["both"] == Ensemble(["t", "a"], PIXELS.mean)


@pytest.mark.usefixtures("toys_are_there")
def test_an_ensemble_has_the_mean_of_the_task(read, monkeypatch):
    other = replace(PIXELS, mean=mse)
    monkeypatch.setitem(named.TASKS, PIXELS.name, other)
    text = changed('a = "trained"', 'a = "trained"\nboth = { kind = "ensemble", of = ["t", "a"] }')
    assert read(text, "data.task=toy_pixels")[1].nodes["both"] == Ensemble(["t", "a"], mse)
    assert read(text)[1].nodes["both"] == Ensemble(["t", "a"])


@pytest.mark.usefixtures("toys_are_there")
@pytest.mark.parametrize(("task", "fix"), [("toy_pixels", "did you mean 'pixels'?"), ("classification", None)])
def test_rows_that_the_task_does_not_have_are_refused(refused, task, fix):
    error = refused(changed('"kl"', '"kl"\nrows = "pixel"'), f"data.task={task}")
    assert error.what == "unknown rows 'pixel'"
    assert "[[edges]]" in error.where
    assert error.fix == fix
    error = refused(changed('"trained"', '{ kind = "computed", of = "t", by = "pooled", rows = "pixel" }'),
                    f"data.task={task}")
    assert error.what == "unknown rows 'pixel'"
    assert "[nodes.a]" in error.where


@pytest.mark.usefixtures("toys_are_there")
@pytest.mark.parametrize("override", ["train.class_weights=balanced", "train.logit_adjustment=1"])
def test_what_counts_samples_of_a_class_is_refused_where_samples_have_none(refused, read, override):
    error = refused(METHOD, "data.task=toy_pixels", override)
    assert error.what == f"{override.split('=')[0].removeprefix('train.')} is for classification alone"
    assert override in error.where
    assert read(METHOD, override)


@pytest.mark.usefixtures("toys_are_there")
def test_an_edge_may_learn_from_one_of_several_labels(read):
    text = changed('"labels"', '"labels.kind"')
    text = changed('"a"', '"a.kind"', changed('"cross_entropy"', '"cross_entropy"\nrows = "points"', text))
    edge = read(text, "data.task=toy_points")[1].edges[0]
    assert (edge.teacher, edge.rows, edge.from_labels) == ("labels.kind", points, True)


@pytest.mark.parametrize(("old", "new", "what", "meant"), [
    ('"frozen"', '"forzen"', "unknown kind of node 'forzen'", "frozen"),
    ('"trained"', '{ kind = "ema", of = "t2" }', "unknown trained node 't2'", None),
    ('"trained"', '{ kind = "ema", of = "a", dcay = 0.9 }', "unknown key 'dcay'", "decay"),
    ('"trained"', '{ kind = "computed", of = ["t"], by = "mean_prob" }', "unknown function 'mean_prob'",
     "mean_probability"),
    ("divergence =", "wieght = 1\ndivergence =", "unknown key 'wieght'", "weight"),
    ('"kl"', '"kll"', "unknown divergence 'kll'", "kl"),
    ('"kl"', '{ smoothing = 1 }', "unknown divergence 'None'", None),
    ('"cross_entropy"', '{ name = "cross_entropy", smothing = 0.1 }', "unknown option of cross_entropy 'smothing'",
     "smoothing"),
    ('"cross_entropy"', '{ name = "cross_entropy", labels = 1 }', "unknown option of cross_entropy 'labels'", None),
    ('"kl"', '"kl"\nweight = "rampup"', "unknown schedule 'rampup'", "ramp_up"),
    ('"kl"', '"kl"\nweight = { name = "ramp_up", util = 1 }', "unknown option of ramp_up 'util'", "until"),
    ('"kl"', '"kl"\nsample_weight = "entropyy"', "unknown sample weight 'entropyy'", "entropy"),
    ('"kl"', '"kl"\nsample_weight = { name = "mean_one", of = "entrop" }', "unknown sample weight 'entrop'",
     "entropy"),
    ('"kl"', '"kl"\nsample_weight = { end = "tt" }', "unknown node 'tt'", "t"),
    ('teacher = "t"', 'teacher = "teach"', "unknown node 'teach'", None),
])
def test_an_unknown_word_in_a_graph_of_ones_own_is_refused_too(refused, tmp_path, old, new, what, meant):
    error = refused(changed(old, new))
    assert error.what == what
    assert error.where.startswith(str(tmp_path / "recipe.toml"))
    assert (error.fix or "None") == ("None" if meant is None else f"did you mean {meant!r}?")


@pytest.mark.parametrize(("line", "place"), [
    ("batch_size = 0", "[data]: batch_size"),
    ("batch_size = 1.5", "[data]"),
    ("wrong = 1", "[data]"),
])
def test_the_complaint_tells_file_line_and_table(refused, tmp_path, line, place):
    text = METHOD.replace("batch_size = 32", line)
    number = text.splitlines().index(line) + 1
    assert refused(text).where == f"{tmp_path / 'recipe.toml'}, line {number}, {place}"


@pytest.mark.parametrize(("old", "new", "place"), [
    ('student = "a"\ndivergence = "kl"', 'student = "t"\ndivergence = "kl"', ", line 21, [[edges]] 2: edge t->t:kl"),
    ('divergence = "kl"', 'divergence = "kll"', ", line 24, [[edges]] 2"),
    ('divergence = "kl"', 'divergence = "kl"\ntemperature = 0', ", line 21, [[edges]] 2: edge t -> a"),
    ('a = "trained"', 'a = 3', ", line 14, [nodes.a]"),
    ('a = "trained"', 'a = { kind = "ema", of = "t" }', ", line 14, [nodes.a]: Ema node 'a'"),
])
def test_a_complaint_about_the_graph_tells_file_and_edge(refused, tmp_path, old, new, place):
    assert refused(changed(old, new)).where == f"{tmp_path / 'recipe.toml'}{place}"


AFTER_DATA = METHOD[METHOD.index("[models.t]"):]
DECOYS = "\n".join([
    '[models.a.options]  # it\'s "odd',
    'list = [ # [data]',
    "    '[data]',",
    '    "batch_size = 0", \'epochs = "few"\', [ "]" ],',
    ']',
    'basic = """',
    '[data]',
    'batch_size = 0 \\""" [',
    '[train]',
    'epochs = "few\\\\"""""',
    "literal = '''",
    '[method]',
    "temprature = 2''''",
    '',
])


@pytest.mark.parametrize(("text", "place"), [
    (METHOD.replace("batch_size = 32", "# batch_size = 1\nbatch_size = 0  # here"), "[data]: batch_size"),
    (METHOD.replace("batch_size = 32", '"batch_size" = 0  # here'), "[data]: batch_size"),
    (METHOD.replace("batch_size = 32", "batch_size\t= 0  # here").replace("[data]", " [ 'data' ]"),
     "[data]: batch_size"),
    (f"data.name = 'digits'\ndata . batch_size = 0  # here\n{AFTER_DATA}", "[data]: batch_size"),
    (f"data = {{ name = 'digits', batch_size = 0 }}  # here\n{AFTER_DATA}", "[data]: batch_size"),
    (METHOD.replace("epochs = 4", "epochs = 'few'  # here"), "[train]"),
    (METHOD.replace("[models.b]", '[models."a.b"]').replace('"resnet14"', '"resnet14"\nweigths = ""  # here'),
     '[models."a.b"]'),
    (METHOD.replace('"resnet14"', '"resnet14"\nmean = [  # here\n0.5,\n"x"\n]'), "[models.b]"),
    (METHOD.replace("students =", "temprature = 2  # here\nstudents ="), "[method]"),
    (METHOD.replace("students =", "temperature = 'warm'  # here\nstudents ="), "[method]"),
    (METHOD.replace("students =", "students = ['a', 'a']  # here\n#"), "[method]: students"),
    (METHOD.replace("students =", "temperature = 0\nstudents =").replace("[method]", "[method]  # here"),
     "[method]: edge t -> a"),
    (METHOD.replace('"dual_student"', '"dual"  # here'), "[method]"),
    (METHOD + "[train.schedule]\nname = 'step'\nat = 'end'  # here\n", "[train]"),
    (METHOD + "[train.a]\nlr = nan  # here\n", "[train.a]: lr"),
    (METHOD + "optimizer = 'sgdd'  # here\n", "[train]: optimizer"),
    (METHOD + "[train.c]  # here\nlr = 1\n", "[train]"),
    (METHOD + "[models.c]  # here\narch = 'resnet8'\n", "[models.c]"),
    (METHOD.replace('arch = "resnet14"', "").replace("[models.b]", "[models.b]  # here"), "[models.b]"),
    (GRAPH + "wieght = 1  # here\n", "[[edges]] 2"),
    (GRAPH + "[edges.weight]\nname = 'ramp_up'\nto = 'top'  # here\n", "[[edges]] 2"),
    (GRAPH + "[[edges]]\nteacher = 't'\nstudent = 'a'\ndivergence = 'kll'  # here\n", "[[edges]] 3"),
    (GRAPH + "[nodes.slow]\nkind = 'ema'\nof = 'a'\ndecay = 'slow'  # here\n", "[nodes.slow]"),
    (GRAPH + "[nodes.slow]  # here\nkind = 'ema'\n", "[nodes.slow]"),
    (METHOD + "[run]\nnumber = 2  # here\n", "[run]"),
    (METHOD + "[runs]  # here\n", None),
])
@pytest.mark.parametrize("decoys", ["", DECOYS], ids=["", "decoys"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["", "windows"])
def test_the_line_is_that_of_the_key_whatever_lists_and_strings_are_like(refused, tmp_path, text, place, decoys, end):
    head = text.index("[models.t]") if text.startswith("data") else 0
    text = text[:head] + decoys + text[head:]
    number = next(number for number, line in enumerate(text.splitlines(), 1) if "# here" in line)
    where = f"{tmp_path / 'recipe.toml'}, line {number}" + (f", {place}" if place else "")
    assert refused(text.replace("\n", end)).where == where


@pytest.mark.parametrize(("overrides", "place"), [
    (["data.batch_size=0"], "--set data.batch_size=0: batch_size"),
    (["train.epochs=few"], "--set train.epochs=few"),
    (["train.epochs=few", "train.epochs=more"], "--set train.epochs=more"),
    (["dta.name=digits"], "--set dta.name=digits"),
    (["models.a=resnet8"], "--set models.a=resnet8"),
    (["models.a={arch='resnet8', stem='x'}"], "--set models.a={arch='resnet8', stem='x'}"),
    (["method.temprature=2"], "--set method.temprature=2"),
    (["method.students=['a', 'a']"], "--set method.students=['a', 'a']: students"),
    (["method.temperature=0", "train.seed=1"], "line 15, [method], --set method.temperature=0: edge t -> a"),
    (["train.lr=nan"], "--set train.lr=nan: lr"),
    (["train.schedule=cosin"], "--set train.schedule=cosin"),
    (["train.c.lr=1"], "[train], --set train.c.lr=1"),
    (["run.plugins=['os']"], "--set run.plugins=['os']"),
    (["run.quick=perhaps"], "--set run.quick=perhaps"),
])
def test_what_an_override_gets_wrong_is_told_with_the_override_and_not_with_a_line(refused, tmp_path, overrides, place):
    error = SecurityError if "plugins" in overrides[0] else UsageError
    assert refused(METHOD, *overrides, error=error).where == f"{tmp_path / 'recipe.toml'}, {place}"


@pytest.mark.parametrize("override", [
    "data.name=3", "data.batch_size=many", "data.download=perhaps", "data.root=3", "data.workers=lots",
    "data.augment=7",
    "models.a.arch=8", "models.a.weights=1", "models.a.mean=0.5", "models.a.options=8", "models.a=resnet8",
    "method.name=7", "method.teacher=1", "method.students=a", "method.students=[1, 2]", "method.students=2",
    "method.temperature=warm", "method.uncertainty=[]", "method.peers=1",
    "train.epochs=2.5", "train.epochs=few", "train.lr=high", "train.seed=2020-01-01", "train.schedule=1",
    "train.schedule={name='step', at='end'}", "train.schedule={name='cosine', last='low'}", "train.optimizer=1",
    "train.options=1", "train.best=7", "train.a.lr=high", "train.a=1", "train.options={momentum='high'}",
    "run.plugins=os", "run.quick=perhaps",
])
def test_a_value_of_the_wrong_type_is_refused(refused, override):
    says = ("a value of the wrong type", "unknown method '7'", "unknown key 'a'", "an optimizer", "[models.a] must be")
    assert refused(METHOD, override).what.startswith(says)


@pytest.mark.parametrize(("old", "new"), [
    ('"frozen"', "3"), ('"frozen"', '["frozen"]'), ('"frozen"', "{ of = 1 }"),
    ('"trained"', '{ kind = "ema", of = 3 }'), ('"trained"', '{ kind = "ema", of = ["a"] }'),
    ('"trained"', '{ kind = "ema", of = "a", decay = "slow" }'), ('"trained"', '{ kind = "ema" }'),
    ('"trained"', '{ kind = "ensemble" }'), ('"trained"', '{ kind = "ensemble", of = "t" }'),
    ('"trained"', '{ kind = "ensemble", of = [] }'), ('"trained"', '{ kind = "computed", of = ["t"] }'),
    ('"trained"', '{ kind = "computed", of = ["t"], by = 3 }'),
    ('"cross_entropy"', "3"), ('"cross_entropy"', '["cross_entropy"]'),
    ('"cross_entropy"', '{ name = "cross_entropy", smoothing = "much" }'), ('"kl"', '"Projected"'),
    ('"kl"', '"kl"\ntemperature = "warm"'), ('"kl"', '"kl"\nweight = [1]'),
    ('"kl"', '"kl"\nweight = { name = "ramp_up", to = "top" }'), ('"kl"', '"kl"\nsample_weight = 3'),
    ('"kl"', '"kl"\nsample_weight = { end = 3 }'), ('"kl"', '"kl"\nsample_weight = "mean_one"'),
    ('teacher = "t"', "teacher = 3"), ('teacher = "t"', 'other = "t"'), ("[[edges]]", "[edges.x]"),
])
def test_a_graph_of_the_wrong_types_is_refused(refused, tmp_path, old, new):
    text = changed(old, new)
    assert refused(text.replace("[[edges]]", "[edges.y]") if "[edges.x]" in text else text).where.startswith(
        str(tmp_path / "recipe.toml"))


@pytest.mark.parametrize(("key", "value"), [
    ("data.batch_size", 0), ("data.batch_size", -8), ("data.image_size", 4), ("data.validation", 0),
    ("data.validation", 1), ("data.validation", "nan"), ("data.mixup", -1), ("data.mixup", "nan"),
    ("data.cutmix", "inf"), ("data.workers", -1), ("data.workers", 1000000), ("data.limit", 0),
    ("data.max_pixels", 0), ("models.a.std", [0.0]),
    ("train.epochs", 0), ("train.epochs", -1), ("train.seed", -1), ("train.lr", -0.1), ("train.lr", "nan"),
    ("train.lr", "inf"), ("train.momentum", -1), ("train.momentum", "nan"), ("train.weight_decay", -1),
    ("train.weight_decay", "inf"), ("train.warmup_epochs", -1), ("train.warmup_epochs", 4),
    ("train.warmup_epochs", "nan"), ("train.accumulate", 0), ("train.clip_norm", 0), ("train.clip_norm", "nan"),
    ("train.checkpoint_steps", 0), ("train.precision", "'fp4'"), ("train.a.lr", "nan"),
    ("method.temperature", 0), ("method.temperature", -4), ("method.temperature", "nan"),
    ("method.temperature", "inf"), ("method.peer_temperature", 0), ("method.entropy_temperature", 0),
    ("method.entropy_temperature", -1), ("method.hard", -1), ("method.soft", "inf"), ("method.peer", -1),
    ("method.peer_warmup", 2), ("method.peer_warmup", -0.5), ("method.peer_warmup", "nan"),
])
def test_a_number_out_of_range_is_refused(refused, key, value):
    told = refused(METHOD, f"{key}={value}").block()
    assert any(word in told for word in (key.rpartition(".")[2], "edge ", "learning rate"))


@pytest.mark.parametrize(("override", "says"), [
    ("method.students=['a']", "two students or more"),
    ("method.students=['a', 'a']", "two students or more"),
    ("method.students=[]", "two students or more"),
    ("method.students=['a', 'c']", "unknown network 'c'"),
    ("method.teacher=c", "unknown network 'c'"),
    ("method.teacher=a", "cannot be its own teacher"),
    ("method.teacher=labels", "labels have no temperature"),
    ("models.c.arch=resnet8", "does not use the network 'c'"),
    ("method.peers=[['a']]", "not a set of peers"),
    ("method.peers=[['a', 'b'], ['a', 'b']]", "two edges of one name"),
    ("method.peers=some", "not a set of peers"),
    ("method.peer_weighting=w2", "not a way to weigh peers"),
    ("method.uncertainty=perhaps", "not a way to weigh"),
])
def test_arguments_that_a_method_cannot_mean_are_refused(refused, override, says):
    assert says in refused(METHOD, override).what


@pytest.mark.parametrize(("old", "new", "says"), [
    ('divergence = "kl"', 'divergence = "cross_entropy"', "a network gives logits"),
    ('divergence = "cross_entropy"', 'divergence = "kl"', "labels are not logits"),
    ('divergence = "cross_entropy"', 'divergence = "cross_entropy"\nsample_weight = "entropy"', "are not logits"),
    ('divergence = "cross_entropy"', 'divergence = "cross_entropy"\ntemperature = 2', "labels have no temperature"),
    ('student = "a"\ndivergence = "kl"', 'student = "t"\ndivergence = "kl"', "'t' cannot learn"),
    ('student = "a"', 'student = "labels"', "'labels' cannot learn"),
    ('divergence = "kl"', 'divergence = "kl"\n[[edges]]\nteacher = "t"\nstudent = "a"\ndivergence = "kl"',
     "two edges of one name"),
    ('a = "trained"', 'a = "trained"\nlabels = "trained"', "not a name for a node"),
    ('a = "trained"', 'a = "trained"\n"a b" = "trained"', "not a name for a node"),
    ('a = "trained"', 'a = "trained"\ne = { kind = "ema", of = "t" }', "unknown trained node 't'"),
    ('a = "trained"', 'a = "trained"\ne = { kind = "ema", of = "a", decay = 1.5 }', "an Ema node of 'a'"),
    ('a = "trained"', 'a = "trained"\ne = { kind = "ensemble", of = ["f"] }\nf = { kind = "ensemble", of = ["e"] }',
     "in a circle"),
    ('teacher = "t"', 'teacher = "t@"', "not the name of an end"),
    ('divergence = "kl"', 'divergence = "kl"\nweight = -1', "a weight that cannot be"),
    ('divergence = "kl"', 'divergence = "kl"\nweight = nan', "a weight that cannot be"),
    ('divergence = "kl"', 'divergence = "kl"\ntemperature = 0', "a temperature that cannot be"),
])
def test_a_graph_that_cannot_be_is_refused(refused, old, new, says):
    assert says in refused(changed(old, new)).what


@pytest.mark.parametrize(("text", "says"), [
    ("", "the table [data] is missing"),
    (METHOD.replace('name = "digits"', ""), "the key 'name' is missing"),
    (METHOD.replace('arch = "resnet8"', "", 1), "the key 'arch' is missing"),
    (METHOD.replace('name = "dual_student"', ""), "the key 'name' is missing"),
    (METHOD.replace('teacher = "t"', ""), "the key 'teacher' is missing"),
    (METHOD[METHOD.index("[models.t]"):], "the table [data] is missing"),
    ('[data]\nname = "digits"\n[method]\nname = "scratch"\nstudent = "a"', "the table [models] is missing"),
    (HEAD, "needs a [method], or [nodes] and [[edges]]"),
    (GRAPH + '[method]\nname = "scratch"\nstudent = "a"\n', "needs a [method], or [nodes] and [[edges]]"),
    (METHOD + '[nodes]\na = "trained"\n', "needs a [method], or [nodes] and [[edges]]"),
    (GRAPH[: GRAPH.index("[[edges]]")], "needs a [method], or [nodes] and [[edges]]"),
    ("train = 3\n" + METHOD[: METHOD.index("[train]")], "[train] must be a table"),
    ("models = []\n" + METHOD[METHOD.index("[method]"):] + METHOD[: METHOD.index("[models.t]")],
     "[models] must be a table"),
    ("edges = [1]\n" + GRAPH[: GRAPH.index("[[edges]]")], "[edges] must be tables"),
    ("a = = 1", "not TOML"),
    (METHOD + "epochs = 5\n", "not TOML"),
    (METHOD + "[data]\n", "not TOML"),
])
def test_a_recipe_that_is_not_whole_is_refused(refused, text, says):
    assert says in refused(text).what


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin.toml").write_bytes("[data]\nname = 'é'".encode("latin-1"))
    for path in (tmp_path / "no.toml", tmp_path, tmp_path / "latin.toml"):
        with pytest.raises(UsageError, match="cannot read the recipe") as error:
            read_recipe(path)
        assert error.value.where == str(path)


@pytest.mark.parametrize(("override", "path", "value"), [
    ("train.seed=7", "train.seed", 7), (" train.seed = 7 ", "train.seed", 7), ("train.lr=1", "train.lr", 1.0),
    ("train.lr=1e-3", "train.lr", 0.001), ("train.best=true", "train.best", True),
    ("train.optimizer=adamw", "train.optimizer", "adamw"), ("train.optimizer='adamw'", "train.optimizer", "adamw"),
    ('train.optimizer="adamw"', "train.optimizer", "adamw"), ("data.workers=auto", "data.workers", "auto"),
    ("data.workers=2", "data.workers", 2), ("data.root=some/where=else", "data.root", "some/where=else"),
    ("data.root=two words", "data.root", "two words"),
    ("models.a.mean=[0.1, 0.2]", "models.a.mean", (0.1, 0.2)),
    ("models.a.options={width=2}", "models.a.options", {"width": 2}),
    ("models.a.options.width=2", "models.a.options", {"width": 2}),
    ("method.students=['b', 'a']", "method.students", ["b", "a"]),
    ("method.peers=none", "method.peers", "none"),
    ("method.uncertainty=false", "method.uncertainty", False),
    ("train.schedule={name='step', at=[0.5]}", "train.schedule", {"name": "step", "at": [0.5]}),
    ("train.clip_norm=1", "train.clip_norm", 1.0),
])
def test_an_override_means_what_toml_means_and_a_bare_word_is_text(read, override, path, value):
    found = read(METHOD, override)[0]
    for name in path.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_the_last_of_several_overrides_counts_and_the_file_keeps_the_rest(read):
    recipe = read(METHOD, "train.epochs=5", "train.lr=0.5", "train.epochs=6")[0]
    assert (recipe.train.epochs, recipe.train.lr, recipe.data.batch_size) == (6, 0.5, 32)


@pytest.mark.parametrize(("override", "what"), [
    *((text, "not an override") for text in ("train.lr", "lr=1", "=1", "train=3", "data.name.x=3", "")),
    ("train.lr=", "a value of the wrong type: lr"), ("train.lr.x=1", "a value of the wrong type: lr"),
    (".lr=1", "unknown table ''"), ("train..lr=1", "unknown trained network or part ''"),
    ("train.=1", "unknown key ''"),
])
def test_what_is_no_override_is_refused(refused, override, what):
    assert refused(METHOD, override).what == what


def test_paths_are_seen_from_the_recipe_whatever_the_working_directory_is(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "recipes" / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAB", str(tmp_path / "lab"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = Path(os.path.relpath(tmp_path / "recipes" / "recipe.toml"))
    for written, meant in (("../runs/t", "runs/t"), ("t.safetensors", "recipes/t.safetensors"), ("~/t", "home/t"),
                           ("$LAB/t", "lab/t"), ("/runs/t", "/runs/t")):
        path.write_text(METHOD.replace("runs/t", written), encoding="utf-8")
        found = read_recipe(path, ["models.a.classes=by-name", "models.b.classes=names.txt"])
        assert found.models["t"].weights == str(tmp_path / meant)
        assert found.models["a"].classes == "by-name"
        assert found.models["b"].classes == str(tmp_path / "recipes" / "names.txt")
        assert read_recipe(path, ["models.a.classes=known"]).models["a"].classes == "known"
    assert read_recipe(path, ["data.name=folder", "data.root=images"]).data.root == str(tmp_path / "recipes/images")
    assert read_recipe(path, ["data.name=folder", "data.root=not-here"]).data.root == "not-here"


OWN = changed('a = "trained"', 'a = "trained"\nslow = { kind = "ema", of = "a", decay = 1, every = 2 }\n'
              'both = { kind = "ensemble", of = ["t", "a"] }') + """\
temperature = 4
weight = { name = "ramp_up", to = 1, until = 0.5 }
sample_weight = { name = "mean_one", of = { name = "entropy", temperature = 2 } }

[[edges]]
teacher = "slow@strong"
student = "a@strong"
divergence = "js"
weight = 0
sample_weight = "confidence"

[[edges]]
teacher = "t.layer3"
student = "a.layer2"
divergence = { name = "Projected", divergence = "mse" }
"""


def test_a_graph_of_ones_own_is_the_graph_written_in_python(read):
    expected = Graph(
        {"t": Frozen(), "a": Trained(), "slow": Ema("a", 1.0, every=2), "both": Ensemble(["t", "a"])},
        [Edge("labels", "a", cross_entropy),
         Edge("t", "a", kl, partial(ramp_up, to=1.0, until=0.5), 4.0,
              partial(mean_one, of=partial(entropy, temperature=2.0))),
         Edge("slow@strong", "a@strong", js, weight=0.0, sample_weight=confidence),
         Edge("t.layer3", "a.layer2", Projected(mse))])
    graph = read(OWN)[1]
    assert str(graph) == str(expected)
    assert graph.nodes == expected.nodes
    assert graph.weights(0.25) == expected.weights(0.25)
    assert graph.edges[3].divergence.divergence is mse
    assert graph.edges[1].sample_weight.keywords["of"].func is entropy


def test_a_method_in_a_recipe_is_its_function_in_python(read):

    graph = read(METHOD, "method.temperature=2", "method.peers=[['a', 'b']]", "method.uncertainty=mean_one")[1]
    assert str(graph) == str(dual_student("t", ["a", "b"], temperature=2.0, peers=[["a", "b"]], uncertainty="mean_one"))


WHOLE_NUMBERS = METHOD + """\
lr = 1
momentum = 0
weight_decay = 0
warmup_epochs = 1
clip_norm = 3
[train.a]
lr = 2
optimizer = "AdamW"
options = { betas = [0.0, 0.5] }
[models.b.options]
width = 2
"""


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("text", [
    METHOD, GRAPH, OWN, WHOLE_NUMBERS,
    METHOD.replace("batch_size = 32", "mixup = 1\nvalidation = 0.5\nworkers = 'auto'"),
    METHOD.replace('arch = "resnet14"', 'arch = "resnet14"\nmean = [0]\nstd = [1]\nclasses = "by-name"'),
    METHOD.replace("[train]", 'temperature = 4\npeer = 1\npeers = [["a", "b"]]\n[train]'),
    METHOD + 'schedule = { name = "step", at = [1], value = 1 }\n', METHOD.replace("resnet14", "ré\\u0001\\\"'\\n#net"),
])
def test_a_resolved_recipe_reads_back_as_itself(read, tmp_path, text, quick):
    first, graph, loop = read(text, quick=quick)
    folder = tmp_path / "runs" / "one"  # another folder: what is resolved must not be resolved again
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(first.text(), encoding="utf-8")
    second = read_recipe(folder / "config.toml")
    assert second.text() == first.text()
    assert second == first
    assert str(graph_of(second)) == str(graph)
    again = settings_of(second, graph)
    assert replace(again, optimizer={}, rate=cosine) == replace(loop, optimizer={}, rate=cosine)


def as_before(text: str) -> str:
    """A resolved recipe as it was before the last keys of [data], [models] and [train] were added."""
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("follow_symlinks =", "second_head =", "cache_gib ="))]
    assert len(lines) - len(kept) == 4 + 1, "[data], three networks, [train]"
    return "".join(kept)


def test_a_folder_that_lacks_keys_which_were_added_since_holds_the_same_recipe(read, tmp_path):
    recipe, _, _ = read(METHOD)
    assert recipe.text_in(tmp_path) == recipe.text()
    old = as_before(recipe.text())
    (tmp_path / "config.toml").write_text(old, encoding="utf-8")
    assert read_recipe(tmp_path / "config.toml") == recipe
    assert recipe.text_in(tmp_path) == old


@pytest.mark.parametrize("override", ["data.follow_symlinks=true", "models.a.second_head=true", "train.cache_gib=1.0",
                                      "train.seed=1", "method.soft=0.5"])
def test_a_folder_without_a_key_does_not_hold_a_recipe_that_has_it_set(read, tmp_path, override):
    (tmp_path / "config.toml").write_text(as_before(read(METHOD)[0].text()), encoding="utf-8")
    other = read(METHOD, override)[0]
    assert other.text_in(tmp_path) == other.text()


@pytest.mark.parametrize("there", ["", "]", "[data]\nname = 'digits'\nof_tomorrow = 1\n", "\udcff"])
def test_a_folder_whose_recipe_cannot_be_read_does_not_hold_this_one(read, tmp_path, there):
    (tmp_path / "config.toml").write_bytes(there.encode(errors="surrogateescape"))
    recipe, _, _ = read(METHOD)
    assert recipe.text_in(tmp_path) == recipe.text()


def test_a_folder_of_a_plugin_holds_the_recipe_that_allows_it(read, tmp_path):
    recipe, _, _ = read(METHOD, plugins=["my_nets"])
    old = as_before(recipe.text())
    (tmp_path / "config.toml").write_text(old, encoding="utf-8")
    assert recipe.text_in(tmp_path) == old
    assert read(METHOD)[0].text_in(tmp_path) != old


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=st.fixed_dictionaries({}, optional={
    "lr": st.one_of(st.integers(0, 9), st.floats(0, 9)), "momentum": st.one_of(st.just(0), st.floats(0, 1)),
    "weight_decay": st.one_of(st.integers(0, 1), st.floats(0, 1)), "seed": st.integers(0, 2**63 - 1),
    "warmup_epochs": st.one_of(st.integers(0, 3), st.floats(0, 3)), "best": st.booleans(),
    "clip_norm": st.one_of(st.integers(1, 9), st.floats(1e-6, 9)), "checkpoint_steps": st.integers(1, 9)}))
def test_whatever_numbers_are_written_the_resolved_recipe_reads_back_as_itself(tmp_path, train):
    path = tmp_path / "any.toml"
    lines = [f"{key} = {str(value).lower()}\n" for key, value in train.items()]
    path.write_text(METHOD + "".join(lines), encoding="utf-8")
    first = read_recipe(path)
    for key, value in train.items():
        assert getattr(first.train, key) == value
    path.write_text(first.text(), encoding="utf-8")
    assert read_recipe(path) == first


def test_trap_29_every_setting_reaches_the_loop(read):
    loop = read(METHOD.replace("epochs = 4", """epochs = 9
seed = 3
schedule = { name = "step", at = [0.5], factor = 0.5 }
warmup_epochs = 2
accumulate = 4
clip_norm = 5
precision = "exact"
checkpoint_steps = 7
best = true
"""))[2]
    meant = {"epochs": 9, "seed": 3, "warmup_epochs": 2.0, "accumulate": 4, "clip_norm": 5.0, "precision": "exact",
             "checkpoint_steps": 7, "best": True, "batch_size": 32}
    assert {key: getattr(loop, key) for key in meant} == meant
    assert [loop.rate(progress) for progress in (0.4, 0.6)] == [step(progress, at=[0.5], factor=0.5)
                                                                for progress in (0.4, 0.6)] == [1.0, 0.5]


def test_a_network_may_have_an_optimizer_of_its_own_and_the_others_keep_theirs(read):
    loop = read(METHOD + 'lr = 0.2\nmomentum = 0.5\nnesterov = true\n[train.a]\noptimizer = "AdamW"\nlr = "0.01"\n'
                         "options = { betas = [0.5, 0.6] }\n")[2]
    makers = loop.optimizer
    assert set(makers) == {"", "a"}
    weights = [nn.Parameter(torch.zeros(1))]
    rest, own = makers[""](weights), makers["a"](weights)
    assert type(rest) is torch.optim.SGD
    assert {key: rest.defaults[key] for key in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 5e-4}
    assert type(own) is torch.optim.AdamW
    assert (own.defaults["lr"], tuple(own.defaults["betas"])) == (0.01, (0.5, 0.6))


def test_a_part_may_have_an_optimizer_of_its_own(read):
    loop = read(HEAD + '[method]\nname = "akd"\nteacher = "t"\nstudent = "a"\n'
                       '[train.t_context]\noptimizer = "adam"\nlr = 0.002\n')[2]
    made = loop.optimizer["t_context"]([nn.Parameter(torch.zeros(1))])
    assert (type(made), made.defaults["lr"]) == (torch.optim.Adam, 0.002)


def test_momentum_is_given_to_sgd_alone(read):
    assert read(METHOD, "train.optimizer=rmsprop")[2].optimizer[""]([nn.Parameter(torch.zeros(1))]).defaults[
        "momentum"] == 0


def test_quick_changes_what_makes_a_run_long_or_needs_files_and_nothing_else(read):
    overrides = ("data.workers=3", "train.warmup_epochs=2", "train.accumulate=2", "train.seed=5",
                 "models.a.pretrained=true", "models.a.head=new", "models.b.classes=by-name")
    full, quick = read(METHOD, *overrides)[0], read(METHOD, *overrides, quick=True)[0]
    tables = [(part, asdict(getattr(full, part)), asdict(getattr(quick, part))) for part in ("data", "train")]
    differ = {f"{part}.{key}": value for part, before, after in tables for key, value in after.items()
              if before[key] != value}
    assert differ == {"data.batch_size": 8, "data.limit": 24, "data.workers": 0, "train.epochs": 1,
                      "train.warmup_epochs": 0.0, "train.accumulate": 1}
    for node, arch in quick.models.items():
        assert arch == replace(full.models[node], weights=None, pretrained=False, head="strict", classes=None)
    assert quick.quick
    assert not full.quick
    for part in fields(Recipe):
        if part.name not in ("data", "train", "models", "quick"):
            assert getattr(quick, part.name) == getattr(full, part.name)


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that can be imported, and a file that appears if it is."""
    canary = tmp_path / "canary"
    (tmp_path / "evil_nets.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(canary)!r}).touch()\n"
        "def net(num_classes, channels):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n",
        encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield canary
    sys.modules.pop("evil_nets", None)


@pytest.mark.parametrize("changes", [
    {'arch = "resnet14"': 'arch = "evil_nets:net"'},
    {'arch = "resnet14"': 'arch = "evil_nets:net"', "[train]": '[run]\nplugins = ["evil_nets"]\n[train]'},
    {'name = "dual_student"': 'name = "evil_nets:net"'},
    {"epochs = 4": 'optimizer = "evil_nets:net"'},
    {"epochs = 4": 'schedule = "evil_nets:net"'},
    {"epochs = 4": 'schedule = { name = "net", _target_ = "evil_nets.net" }'},
    {'name = "digits"': 'name = "evil_nets:net"'},
])
def test_no_file_can_make_the_package_import_a_module(tmp_path, evil, changes):
    text = METHOD.replace('weights = "runs/t"', "")
    for old, new in changes.items():
        text = changed(old, new, text)
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        make_job(read_recipe(path, ["data.image_size=8"], quick=True), World(torch.device("cpu")), path)
    assert not evil.exists()
    assert "evil_nets" not in sys.modules
    if "arch" in "".join(changes):
        assert type(error.value) is SecurityError
        assert error.value.exit_code == 9
        assert "--plugin evil_nets" in error.value.fix


def test_divergences_and_weights_are_looked_up_on_their_pages_alone(refused, evil):
    for name in ("evil_nets:net", "evil_nets.net", "os.system", "torch", "math", "Tensor", "_same_shape", "__import__"):
        assert "unknown divergence" in refused(changed('"kl"', f'"{name}"')).what
        assert "unknown sample weight" in refused(changed('"kl"', f'"kl"\nsample_weight = "{name}"')).what
        assert "unknown schedule" in refused(changed('"kl"', f'"kl"\nweight = "{name}"')).what
    assert not evil.exists()


def test_a_plugin_that_the_user_allows_is_used_and_noted_and_must_be_allowed_again(tmp_path, evil):
    path = tmp_path / "recipe.toml"
    path.write_text(METHOD.replace('arch = "resnet14"', 'arch = "evil_nets:net"'), encoding="utf-8")
    recipe = read_recipe(path, ["data.image_size=8"], quick=True, plugins=["evil_nets"])
    assert not evil.exists()
    job = make_job(recipe, World(torch.device("cpu")), path)
    assert evil.exists()
    assert isinstance(job.models["b"].body, nn.Sequential)
    (tmp_path / "config.toml").write_text(recipe.text(), encoding="utf-8")
    with pytest.raises(SecurityError, match="'evil_nets', which is not allowed"):
        read_recipe(tmp_path / "config.toml")
    assert read_recipe(tmp_path / "config.toml", plugins=["evil_nets"]) == recipe
