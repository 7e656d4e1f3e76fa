"""Without a task a method is what it was before there were tasks, edge by edge.

graphs_of_7a51c5b.json was written by the code of commit 7a51c5b, the last that knew classification alone: the graphs of
every method, with its defaults and with other options, as `graph_data.data_of` and `str` give them. Whoever changes a
method on purpose changes its lines there.
"""

import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest

from tutelage.graph.graph import Graph
from tutelage.graph.graph_data import data_of
from tutelage.recipes.methods import method, method_names
from tutelage.tasks.classification.task import CLASSIFICATION

CASES = json.loads(Path(__file__).with_name("graphs_of_7a51c5b.json").read_text(encoding="utf-8"))
each_case = pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case['method']}" for n, case in enumerate(CASES)])


def graphs(case: dict, **more) -> list[Graph]:
    made = vars(import_module(f"tutelage.methods.{case['method']}"))[case["method"]](**case["options"], **more)
    return [made] if isinstance(made, Graph) else list(made)


@each_case
def test_a_method_gives_the_graphs_that_it_gave_before_there_were_tasks(case):
    made = graphs(case)
    assert json.loads(json.dumps([data_of(graph) for graph in made])) == case["graphs"]
    assert [str(graph) for graph in made] == case["tables"]


TAKES_TASK = [case for case in CASES if "task" in inspect.signature(method(case["method"])).parameters]


@pytest.mark.parametrize("case", TAKES_TASK, ids=[f"{n}-{case['method']}" for n, case in enumerate(TAKES_TASK)])
def test_classification_is_the_task_that_a_method_has_where_none_is_given(case):
    assert [str(graph) for graph in graphs(case, task=CLASSIFICATION)] == case["tables"]


def test_every_method_from_before_is_among_them():
    later = {"channel_wise", "class_aware", "dckd", "unkd", "image_kd"}
    assert {case["method"] for case in CASES} == set(method_names()) - later
