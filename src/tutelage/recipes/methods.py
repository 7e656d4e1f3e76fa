"""The methods that a recipe can name: which there are, which tasks each is for, and the graphs of a [method] table."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from tutelage import methods
from tutelage.errors import UsageError, unknown
from tutelage.graph.graph import Graph
from tutelage.recipes.lookup import told, typed
from tutelage.recipes.places import Place
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task


def method_names(task: Task | None = None) -> list[str]:
    """The methods there are, the files of `tutelage.methods`; with a task, those that are for it."""
    names = sorted(module.name for module in pkgutil.iter_modules(methods.__path__))
    return [name for name in names if task is None or is_for(name, task)]


def method(name: str, where: object = None) -> Callable[..., Graph | list[Graph]]:
    """The function of a method, by its name; it gives a graph, or one for each of several runs."""
    if name not in method_names():
        raise unknown("method", name, method_names(), where=where)
    return vars(_file_of(name))[name]


def is_for(name: str, task: Task) -> bool:
    """Whether a method is for a task.

    All are for classification. Those for others too have an argument `task`, and their file may say for which: `FOR`.
    """
    if "task" not in inspect.signature(method(name)).parameters:
        return task == CLASSIFICATION
    return bool(vars(_file_of(name)).get("FOR", _for_all)(task))


def in_phases(name: str) -> bool:
    """Whether each run of a method depends on what those before it have found, as its file says."""
    return vars(_file_of(name)).get("PHASES", False)


def graphs_of_method(table: Mapping[str, Any], task: Task, where: Place) -> list[Graph]:
    """The graphs of a [method] table for a task, one for each run; every word of it is checked."""
    options = {key: value for key, value in table.items() if key != "name"}
    if "name" not in table:
        raise UsageError("the key 'name' is missing", where=where, expected=f"one of: {', '.join(method_names(task))}")
    name = str(table["name"])
    function = method(name, where.at("name"))
    known = dict(inspect.signature(function).parameters)
    takes = known.pop("task", None) is not None
    if "task" in options:
        raise UsageError("a method has the task of its data", where=where.at("task"), found=repr(options["task"]),
                         fix="write it in [data]: task = ...")
    if not is_for(name, task):
        raise UsageError(f"method {name} is {_whom_for(name)}", where=where.at("name"), found=f"task {task.name}",
                         expected=f"one of: {', '.join(method_names(task))}",
                         fix=f"tutelage methods --task {task.name}")
    arguments = typed(options, known, f"option of {name}", where) | ({"task": task} if takes else {})
    made = told(lambda: function(**arguments), where)
    return [made] if isinstance(made, Graph) else list(made)


def _whom_for(name: str) -> str:
    takes = "task" in inspect.signature(method(name)).parameters
    return "not for this task" if takes else "for classification alone"


def _for_all(task: Task) -> bool:
    return True


def _file_of(name: str) -> ModuleType:
    return import_module(f"tutelage.methods.{name}")
