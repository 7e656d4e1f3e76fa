"""The words of a recipe as the functions, nodes and edges that they mean; each word is checked."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from tutelage.errors import UsageError, UserError, placed, unknown
from tutelage.graph import divergences, fused_images, gaussians, modules, sample_weights, schedules
from tutelage.graph.edge import Edge
from tutelage.graph.naming import name_of
from tutelage.graph.nodes import Computed, Ema, Ensemble, Frozen, Kind, Trained
from tutelage.recipes.places import Place
from tutelage.tasks.task import Task
from tutelage.types import PerSampleFn

STRICT = ConfigDict(arbitrary_types_allowed=True)


def told(make: Callable[[], Any], where: Place) -> Any:
    """What `make` gives; its complaints with the place in the recipe, of the key where they begin with one."""
    try:
        return make()
    except UserError as error:
        raise placed(error, where.at((error.where or "").partition(",")[0])) from None


def wrong_type(error: ValidationError, where: Place, *key: str) -> UserError:
    """What pydantic complains of first, as an error of ours; `key` is what it was asked about."""
    complaint = error.errors()[0]
    where, loc = where.at(*key, *complaint["loc"]), ".".join(map(str, (*key, *complaint["loc"])))
    if complaint["type"] == "literal_error" and isinstance(complaint["input"], str):
        known = re.findall(r"'([^']*)'", complaint.get("ctx", {})["expected"])
        return unknown(loc, complaint["input"], known, where=where)
    return UsageError("a value of the wrong type" + (f": {loc}" if loc else ""), where=where,
                      found=repr(complaint["input"]), expected=complaint["msg"])


def typed(values: Mapping[str, Any], known: Mapping[str, inspect.Parameter], what: str, where: Place) -> dict[str, Any]:
    """Arguments by name: none unknown, none missing, each of the type that the signature says."""
    for key in values:
        if key not in known:
            raise unknown(what, key, known, where=where.at(key))
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in values:
            raise UsageError(f"the key {key!r} is missing", where=where, expected=f"{key} = ...")
    made = {}
    for key, value in values.items():
        try:
            made[key] = TypeAdapter(known[key].annotation, config=STRICT).validate_python(value)
        except ValidationError as error:
            raise wrong_type(error, where, key) from None
    return made


KINDS = {"trained": Trained, "frozen": Frozen, "ema": Ema, "ensemble": Ensemble, "computed": Computed}


def node_of(value: Any, task: Task, where: Place) -> Kind:
    """A node: its kind as a word, or a table that holds it as `kind` besides its options.

    The mean of an ensemble is that of the task.
    """
    table = _named(value, "kind", "a kind of node", where)
    kind = table.pop("kind", None)
    if kind not in KINDS:
        raise unknown("kind of node", str(kind), KINDS, where=where)
    if kind == "computed" and "by" in table:
        table["by"] = function_of(modules, table["by"], "function", where.at("by"))
    known = dict(inspect.signature(KINDS[kind]).parameters)
    mean = {"mean": task.mean} if known.pop("mean", None) else {}
    arguments = typed(_with_rows(table, task, where), known, "key", where) | mean
    return told(lambda: KINDS[kind](**arguments), where)


def edge_of(table: Mapping[str, Any], task: Task, where: Place) -> Edge:
    """An edge: a table with the fields of `Edge`, functions by their names; rows are those of the task."""
    made = _with_rows(table, task, where)
    if "divergence" in made:
        made["divergence"] = function_of(divergences, made["divergence"], "divergence", where.at("divergence"), modules,
                                         gaussians, fused_images)
    if isinstance(made.get("weight"), str | dict):
        made["weight"] = function_of(schedules, made["weight"], "schedule", where.at("weight"))
    weight = made.get("sample_weight")
    if isinstance(weight, dict) and "end" in weight:
        made["sample_weight"] = weight["end"]
    elif weight is not None:
        made["sample_weight"] = function_of(sample_weights, weight, "sample weight", where.at("sample_weight"))
    arguments = typed(made, inspect.signature(Edge).parameters, "key", where)
    return told(lambda: Edge(**arguments), where)


def _with_rows(table: Mapping[str, Any], task: Task, where: Place) -> dict[str, Any]:
    """A table with the function of rows in the place of its name."""
    if not isinstance(table.get("rows"), str):
        return dict(table)
    rows = {name_of(one): one for one in task.rows}
    if table["rows"] not in rows:
        raise unknown("rows", table["rows"], rows, where=where.at("rows"))
    return {**table, "rows": rows[table["rows"]]}


def _named(value: Any, key: str, what: str, where: Place) -> dict[str, Any]:
    """A word, or a table that holds it as `key` besides its options."""
    if not isinstance(value, str | Mapping):
        raise UsageError(f"not {what}", where=where, found=repr(value), expected=f'"NAME" or {{ {key} = "NAME", ... }}')
    return {key: value} if isinstance(value, str) else dict(value)


def function_of(page: ModuleType, value: Any, what: str, where: Place, *more: ModuleType) -> Any:
    """The function that a word, or a table with its options, names among those defined on the pages."""
    table = _named(value, "name", f"a {what}", where)
    name = table.pop("name", None)
    found = {key: item for module in (page, *more) for key, item in vars(module).items()
             if getattr(item, "__module__", None) == module.__name__ and callable(item) and not key.startswith("_")}
    if name not in found:
        raise unknown(what, str(name), found, where=where)
    function = found[name]
    is_module = inspect.isclass(function) and issubclass(function, nn.Module)
    known = {key: parameter for key, parameter in inspect.signature(function).parameters.items()
             if is_module or parameter.kind is parameter.KEYWORD_ONLY}
    for key in table:
        if key in known and known[key].annotation is PerSampleFn:
            table[key] = function_of(page, table[key], what, where.at(key))
    options = typed(table, known, f"option of {name}", where)
    if is_module:
        return told(lambda: function(**options), where)
    return partial(function, **options) if options else function
