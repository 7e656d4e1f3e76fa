"""Recipes: TOML -> the same dataclasses and functions that the Python API uses, each word checked.

A recipe names functions of this package's own pages, and nothing else: no code is ever loaded because a file says
so. A function with options is a table, `{ name = "ramp_up", to = 0.5 }`, wherever one is named.
"""

import inspect
import pkgutil
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import tomli_w
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, validate_call
from torch import nn

from tutelage import divergences, methods, parts, sample_weights, schedules
from tutelage.data.load import DataSettings
from tutelage.errors import UsageError, UserError, unknown
from tutelage.graph import Computed, Edge, Ema, Ensemble, Frozen, Graph, Kind, Trained
from tutelage.loop import Settings
from tutelage.models.architecture import Architecture
from tutelage.optim import MakeOptimizer
from tutelage.types import PerSampleFn

STRICT = ConfigDict(arbitrary_types_allowed=True)


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimizer by its name in torch.optim, in any case; `options` are further arguments of its class."""

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainSettings(OptimizerSettings):
    """The [train] table; [train.NODE] overrides the optimizer's keys for one network."""

    epochs: int = 100
    seed: int = 0
    schedule: str | dict[str, Any] = "cosine"
    warmup_epochs: float = 0.0
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "auto"
    device: str = "auto"
    checkpoint_steps: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, resolved: paths are absolute, every default is filled in."""

    data: DataSettings
    models: dict[str, Architecture]
    train: TrainSettings
    method: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[dict[str, Any]] = field(default_factory=list)
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    quick: bool = False
    plugins: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The recipe as TOML, which reads back as the same recipe."""
        train = asdict(self.train) | self.optimizers
        run = {"quick": self.quick, "plugins": self.plugins}
        tables = {"data": asdict(self.data), "models": {node: asdict(arch) for node, arch in self.models.items()},
                  "method": self.method, "nodes": self.nodes, "edges": self.edges, "train": train, "run": run}
        return tomli_w.dumps({name: _without_none(table) for name, table in tables.items() if table})


def read_recipe(path: Path, overrides: Sequence[str] = (), *, quick: bool = False,
                plugins: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, with `--set` overrides ("train.seed=1"), checked key by key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("cannot read the recipe", where=path, found=error,
                         fix="give the path of a TOML file") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError("not TOML", where=path, found=error) from None
    for override in overrides:
        _set(tables, override)
    source = _Source(path, text)
    run = source.table(tables.get("run", {}), "run", RunTable)
    recipe = _recipe(tables, source, quick=quick or run.quick, plugins=[*run.plugins, *plugins])
    return _quickened(recipe) if recipe.quick else recipe


@dataclass(frozen=True)
class RunTable:
    """What a run folder's config.toml adds: how the command was called."""

    quick: bool = False
    plugins: list[str] = field(default_factory=list)


def graph_of(recipe: Recipe, where: object = "recipe") -> Graph:
    """The graph that the recipe's [method], or its [nodes] and [[edges]], describe."""
    if recipe.method:
        graph = _from_method(recipe.method, f"{where}, [method]")
    else:
        nodes = {name: _kind(kind, f"{where}, [nodes] {name}") for name, kind in recipe.nodes.items()}
        graph = Graph(nodes, [_edge(edge, f"{where}, [[edges]] {i + 1}") for i, edge in enumerate(recipe.edges)])
    networks = [name for name, kind in graph.nodes.items() if isinstance(kind, Trained | Frozen)]
    for node in networks:
        if node not in recipe.models:
            raise unknown("network", node, recipe.models, where=f"{where}, [models]")
    for node in recipe.models:
        if node not in networks:
            raise UsageError(f"the graph does not use the network {node!r}", where=f"{where}, [models.{node}]",
                             expected=f"one of: {', '.join(networks)}", fix="name it in [method], or take it out")
    return graph


def settings_of(recipe: Recipe, graph: Graph) -> Settings:
    """The loop's settings, with an optimizer for each network."""
    train = recipe.train
    for node in recipe.optimizers:
        if node not in graph.named(Trained):
            raise unknown("trained network", node, graph.named(Trained), where=f"[train.{node}]")
    makers = {"": _optimizer(train, "[train]")}
    for node, table in recipe.optimizers.items():
        makers[node] = _optimizer(replace(train, **table), f"[train.{node}]")
    rate = _function(schedules, train.schedule, "schedule", "[train] schedule")
    return Settings(train.epochs, makers, rate, train.warmup_epochs, recipe.data.batch_size, train.accumulate,
                    train.clip_norm, train.precision, train.seed, train.checkpoint_steps, train.best)


def method_names() -> list[str]:
    """The methods there are: the files of `tutelage.methods`."""
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def method(name: str, where: object = None) -> Callable[..., Graph]:
    """The function of a method, by its name."""
    if name not in method_names():
        raise unknown("method", str(name), method_names(), where=where)
    return vars(import_module(f"tutelage.methods.{name}"))[name]


@dataclass(frozen=True)
class _Source:
    """A recipe's file, to say where in it a key stands."""

    path: Path
    text: str

    def where(self, table: str, key: str) -> str:
        """File, line and table of a key."""
        current = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
                current = header[1]
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line) and current == table:
                return f"{self.path}, line {number}, [{table}]"
            if current == f"{table}.{key}" and header:
                return f"{self.path}, line {number}, [{table}]"
        return f"{self.path}, [{table}]"

    def table(self, values: object, name: str, kind: type, extra: Sequence[str] = ()) -> Any:
        """A table of the file as a dataclass: no unknown key, every value of its type."""
        if not isinstance(values, Mapping):
            raise UsageError(f"[{name}] must be a table", where=self.where("", name), found=values)
        known = [item.name for item in fields(kind)]
        for key in values:
            if key not in known and key not in extra:
                raise unknown("key", str(key), known, where=self.where(name, str(key)))
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        for key in needed:
            if key not in values:
                raise UsageError(f"the key {key!r} is missing", where=self.where(name, key),
                                 expected=f"{key} = ...")
        try:
            return TypeAdapter(kind).validate_python({key: values[key] for key in values if key in known})
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"a value of the wrong type: {'.'.join(map(str, first['loc']))}",
                             where=self.where(name, str(first["loc"][0])), found=repr(first["input"]),
                             expected=first["msg"]) from None
        except UserError as error:
            error.where = error.where or f"{self.path}, [{name}]"
            raise type(error)(error.what, where=f"{self.path}, [{name}]", found=error.found, expected=error.expected,
                              fix=error.fix) from None


TABLES = ("data", "models", "method", "nodes", "edges", "train", "run")


def _recipe(tables: dict[str, Any], source: _Source, *, quick: bool, plugins: list[str]) -> Recipe:
    for name in tables:
        if name not in TABLES:
            raise unknown("table", name, TABLES, where=source.where("", name))
    for name in ("data", "models"):
        if name not in tables:
            raise UsageError(f"the table [{name}] is missing", where=source.path)
    if bool(tables.get("method")) == bool(tables.get("edges")):
        raise UsageError("a recipe needs a [method], or [nodes] and [[edges]] of its own", where=source.path,
                         found="both" if tables.get("method") else "neither")
    train = tables.get("train", {})
    optimizers = {key: value for key, value in train.items() if isinstance(value, dict) and key in tables["models"]}
    models = {}
    for node, table in tables["models"].items():
        models[node] = _absolute(source.table(table, f"models.{node}", Architecture), source.path, "weights", "classes")
    for node, table in optimizers.items():
        source.table({**table}, f"train.{node}", OptimizerSettings)
    data = source.table(tables["data"], "data", DataSettings)
    if data.root is not None and (source.path.parent / data.root).exists():
        data = _absolute(data, source.path, "root")  # else the data set looks where it lies
    return Recipe(data, models,
                  source.table(train, "train", TrainSettings, extra=list(optimizers)), tables.get("method", {}),
                  tables.get("nodes", {}), tables.get("edges", []), optimizers, quick, plugins)


def _absolute(table: Any, recipe: Path, *keys: str) -> Any:
    """Paths in a recipe are seen from the recipe's own folder; environment variables and ~ are filled in."""
    changed = {}
    for key in keys:
        value = getattr(table, key)
        if value is not None and value != "by-name":
            changed[key] = str((recipe.parent / Path(value).expanduser()).resolve())
    return replace(table, **changed)


def _quickened(recipe: Recipe) -> Recipe:
    """A smoke run: synthetic images (on digits, the real ones), batch 8, three steps, no file of weights."""
    models = {node: replace(arch, weights=None, pretrained=False, head="strict", classes=None)
              for node, arch in recipe.models.items()}
    data = replace(recipe.data, batch_size=8, limit=24, workers=0)
    train = replace(recipe.train, epochs=1, warmup_epochs=0.0, accumulate=1)
    return replace(recipe, data=data, models=models, train=train, quick=True)


def _set(tables: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2:
        raise UsageError("not an override", where="--set", found=override, expected="TABLE.KEY=VALUE")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    table = tables
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UsageError("not an override", where="--set", found=override, expected="the name of a table")
    table[path[-1]] = parsed


def _from_method(table: Mapping[str, Any], where: str) -> Graph:
    options = {key: value for key, value in table.items() if key != "name"}
    if "name" not in table:
        raise UsageError("the key 'name' is missing", where=where, expected=f"one of: {', '.join(method_names())}")
    function = method(table["name"], where)
    parameters = inspect.signature(function).parameters
    for key in options:
        if key not in parameters:
            raise unknown(f"option of {table['name']}", key, parameters, where=where)
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UsageError(f"{table['name']} needs {key!r}", where=where, expected=f"{key} = ...")
    return _told(lambda: validate_call(config=STRICT)(inspect.unwrap(function))(**options), where)


def _told(make: Callable[[], Any], where: str) -> Any:
    """What `make` gives; its complaints with the place in the recipe."""
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"a value of the wrong type: {'.'.join(map(str, first['loc']))}", where=where,
                         found=repr(first["input"]), expected=first["msg"]) from None
    except UserError as error:
        inside = f"{where}: {error.where}" if error.where else where
        raise type(error)(error.what, where=inside, found=error.found, expected=error.expected,
                          fix=error.fix) from None


KINDS = ("trained", "frozen", "ema", "ensemble", "computed")


def _kind(value: Any, where: str) -> Kind:
    table = {"kind": value} if isinstance(value, str) else dict(value)
    kind = table.pop("kind", None)
    if kind not in KINDS:
        raise unknown("kind of node", str(kind), KINDS, where=where)
    if kind == "computed":
        table["by"] = _function(parts, table.get("by"), "function", where)
    makers = {"trained": Trained, "frozen": Frozen, "ema": Ema, "ensemble": Ensemble, "computed": Computed}
    known = inspect.signature(makers[kind]).parameters
    for key in table:
        if key not in known:
            raise unknown("key", key, known, where=where)
    try:
        return _told(lambda: makers[kind](**table), where)
    except TypeError as error:
        raise UsageError(f"not a whole {kind} node", where=where, found=str(error)) from None


def _edge(table: Mapping[str, Any], where: str) -> Edge:
    known = [item.name for item in fields(Edge)]
    for key in table:
        if key not in known:
            raise unknown("key", key, known, where=where)
    for key in ("teacher", "student", "divergence"):
        if key not in table:
            raise UsageError(f"the key {key!r} is missing", where=where)
    made = dict(table)
    made["divergence"] = _function(divergences, table["divergence"], "divergence", where, parts)
    if isinstance(made.get("weight"), str | dict):
        made["weight"] = _function(schedules, made["weight"], "schedule", where)
    weight = made.get("sample_weight")
    if isinstance(weight, dict) and "end" in weight:
        made["sample_weight"] = weight["end"]
    elif weight is not None:
        made["sample_weight"] = _function(sample_weights, weight, "sample weight", where)
    try:
        return _told(lambda: Edge(**made), where)
    except TypeError as error:
        raise UsageError("a value of the wrong type", where=where, found=str(error)) from None


def _function(page: ModuleType, value: Any, what: str, where: str, *more: ModuleType) -> Any:
    """The function that a word, or a table with its options, names among those defined on the pages."""
    table = {"name": value} if isinstance(value, str) else dict(value or {})
    name = table.pop("name", None)
    found = {key: item for module in (page, *more) for key, item in vars(module).items()
             if getattr(item, "__module__", None) == module.__name__ and callable(item) and not key.startswith("_")}
    if name not in found:
        raise unknown(what, str(name), found, where=where)
    function = found[name]
    parameters = inspect.signature(function).parameters
    for key in table:
        if key not in parameters:
            raise unknown(f"option of {name}", key, list(parameters), where=where)
        if parameters[key].annotation is PerSampleFn:
            table[key] = _function(page, table[key], what, where)
    if inspect.isclass(function) and issubclass(function, nn.Module):
        return _told(lambda: function(**table), where)
    return partial(function, **table) if table else function


def _optimizer(settings: OptimizerSettings, where: str) -> MakeOptimizer:
    kinds = {name.lower(): kind for name, kind in vars(torch.optim).items()
             if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
             and kind is not torch.optim.Optimizer}
    if settings.optimizer.lower() not in kinds:
        raise unknown("optimizer", settings.optimizer, kinds, where=where)
    kind = kinds[settings.optimizer.lower()]
    takes = inspect.signature(kind).parameters
    given = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if kind is torch.optim.SGD:  # others that take a momentum mean something else by it, or start from another
        given |= {"momentum": settings.momentum, "nesterov": settings.nesterov}
    given |= settings.options
    for key in settings.options:
        if key not in takes:
            raise unknown(f"option of {kind.__name__}", key, takes, where=where)
    make = partial(kind, **{key: value for key, value in given.items() if key in takes})
    try:
        make([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        raise UsageError("an optimizer that cannot be", where=where, found=str(error)) from None
    return make


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
