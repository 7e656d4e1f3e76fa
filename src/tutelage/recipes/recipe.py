"""Recipes: TOML -> the same dataclasses and functions that the Python API uses, each word checked.

A recipe names functions of this package's own pages, and nothing else: no code is ever loaded because a file says
so. A function with options is a table, `{ name = "ramp_up", to = 0.5 }`, wherever one is named.
"""

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import TypeAdapter, ValidationError

from tutelage.data.settings import DataSettings
from tutelage.data.shards import is_shard, shards_of, views_of
from tutelage.engine.optimizers import MakeOptimizer, optimizer_named
from tutelage.engine.settings import Settings, judging_score
from tutelage.errors import SecurityError, UsageError, UserError, placed, unknown
from tutelage.graph import schedules
from tutelage.graph.graph import Graph
from tutelage.graph.label_balance import with_label_options
from tutelage.graph.nodes import Frozen, Kind, Trained
from tutelage.models.architecture import BY_NAME, KNOWN, Architecture
from tutelage.recipes import added_keys
from tutelage.recipes.lookup import edge_of, function_of, node_of, told, wrong_type
from tutelage.recipes.methods import graphs_of_method
from tutelage.recipes.names import TeacherRecipe, named_teachers, seen_from
from tutelage.recipes.places import Keys, Place, override_keys, shown_key
from tutelage.tasks.named import task_named
from tutelage.tasks.task import Task, for_classes_alone


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
    """The [train] table; [train.NAME] overrides the optimizer's keys for one network or part of the graph."""

    epochs: int = 100
    seed: int = 0
    schedule: str | dict[str, Any] = "cosine"
    warmup_epochs: float = 0.0
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "auto"
    device: str = "auto"
    checkpoint_steps: int | None = None
    best: bool | str = False
    class_weights: Literal["none", "balanced"] = "none"
    logit_adjustment: float = 0.0
    draws: int | None = None
    cache: bool | Literal["auto"] = "auto"
    cache_gib: float = 20.0
    cache_top: int | None = None
    warn: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, resolved: paths are absolute, every default is filled in.

    `number` says which of a method's several runs it is, from 1 on; `file` is where it was read, for errors. `teachers`
    are those nodes whose weights another recipe trains, for `teachers.with_teachers`.
    """

    data: DataSettings
    models: dict[str, Architecture]
    train: TrainSettings
    method: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[dict[str, Any]] = field(default_factory=list)
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    quick: bool = False
    plugins: list[str] = field(default_factory=list)
    number: int | None = None
    file: Place = field(default=Place("recipe"), compare=False, repr=False)
    teachers: dict[str, TeacherRecipe] = field(default_factory=dict, compare=False, repr=False)

    def text(self) -> str:
        """The recipe as TOML, which reads back as the same recipe."""
        train = asdict(self.train) | self.optimizers
        run = {"quick": self.quick, "plugins": self.plugins, "number": self.number}
        tables = {"data": asdict(self.data), "models": {node: asdict(arch) for node, arch in self.models.items()},
                  "method": self.method, "nodes": self.nodes, "edges": self.edges, "train": train, "run": run}
        return tomli_w.dumps({name: _without_none(table) for name, table in tables.items() if table})

    def text_in(self, run: Path) -> str:
        """The text that a run folder has of this very recipe, else `text`.

        The two differ where the folder was made before a key was added: what it lacks has its default, or its old
        meaning (`added_keys`).
        """
        try:
            return self.text_like((run / "config.toml").read_text(encoding="utf-8"), run / "config.toml")
        except (OSError, UnicodeDecodeError):
            return self.text()

    def text_like(self, there: str, path: Path) -> str:
        """`there`, a text that was kept in `path`, if it reads back as this recipe, else `text`."""
        try:
            same = there == self.text() or recipe_of(there, path, plugins=self.plugins) == self
        except UserError:
            same = False
        return there if same else self.text()


def read_recipe(path: Path, overrides: Sequence[str] = (), *, quick: bool = False,
                plugins: Sequence[str] = (), older: added_keys.Keys | None = None) -> Recipe:
    """A TOML file with `--set` overrides ("train.seed=1"), checked key by key; it allows itself no plugin.

    `older` are values for keys that it does not say, from a run that it goes on with (`added_keys.lacking_in`).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("cannot read the recipe", where=path, found=error,
                         fix="give the path of a TOML file") from None
    return recipe_of(text, path, overrides, quick=quick, plugins=plugins, older=older)


def recipe_of(text: str, path: Path, overrides: Sequence[str] = (), *, quick: bool = False,
              plugins: Sequence[str] = (), older: added_keys.Keys | None = None) -> Recipe:
    """`read_recipe` of a file that has been read."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError("not TOML", where=path, found=error) from None
    for override in overrides:
        _set(tables, override)
    source = TomlFile(path, text, tuple(overrides))
    run = source.table(tables.get("run", {}), ("run",), RunTable)
    for module in run.plugins:
        if module not in plugins:
            raise SecurityError(f"this file asks to run the Python module {module!r}, which is not allowed",
                                where=source.where(("run",), "plugins"), fix=f"if you trust it, add --plugin {module}")
    tables = added_keys.with_keys(added_keys.with_keys(tables, added_keys.lacking(tables)), older or {})
    recipe = _recipe(tables, source, quick=quick or run.quick, plugins=list(dict.fromkeys([*run.plugins, *plugins])),
                     number=run.number)
    return _quickened(recipe) if recipe.quick else recipe


@dataclass(frozen=True)
class RunTable:
    """What a run folder's config.toml adds: how the command was called."""

    quick: bool = False
    plugins: list[str] = field(default_factory=list)
    number: int | None = None


def graph_of(recipe: Recipe, where: object = "recipe") -> Graph:
    """The graph of a recipe; of a method of several runs that of the run it is, or of the last."""
    return graphs_of(recipe, where)[-1]


def graphs_of(recipe: Recipe, where: object = "recipe") -> list[Graph]:
    """The graphs that the recipe's [method], or its [nodes] and [[edges]], describe: one for each run that it is."""
    file = place_of(recipe, where)
    task = told(lambda: task_named(recipe.data.work, "task"), file.of("data"))
    graphs = (graphs_of_method(recipe.method, task, file.of("method")) if recipe.method else
              [_own_graph(recipe, task, file)])
    graphs = [_label_balanced(graph, task, recipe.train, file.of("train")) for graph in graphs]
    if recipe.number is not None:
        if not 1 <= recipe.number <= len(graphs):
            raise UsageError("the method has no such run", where=file.of("run").at("number"), found=recipe.number,
                             expected=f"1 .. {len(graphs)}")
        graphs = graphs[recipe.number - 1:recipe.number]
    given = [name for graph in graphs for name, kind in graph.nodes.items() if _is_given(kind, recipe)]
    for node in given:
        if node not in recipe.models:
            raise unknown("network", node, recipe.models, where=file.of("models"))
    for node in recipe.models:
        if node not in given:
            raise UsageError(f"the graph does not use the network {node!r}", where=file.of("models", node),
                             expected=f"one of: {', '.join(dict.fromkeys(given))}",
                             fix="name it in [method], or take it out")
    for graph in graphs:
        _check_shards(graph, recipe, file.of("data"))
    return graphs


def _check_shards(graph: Graph, recipe: Recipe, where: object) -> None:
    """Each shard of [data] is one device's, and each device of the graph has one."""
    read = [view for view in graph.views() if is_shard(view)]
    dealt = [] if recipe.data.shards is None else views_of(shards_of(recipe.data.shards))
    if sorted(read) != sorted(dealt):
        raise UsageError("as many devices in the graph as [data] shards has", where=where,
                         found=f"{len(read)} that learn from rows of their own, {len(dealt)} shards",
                         fix=f"shards = {{ devices = {len(read)} }}" if read else
                         'name = "fleet" in [method], or no shards')


def _label_balanced(graph: Graph, task: Task, train: TrainSettings, where: Place) -> Graph:
    """The graph with what [train] says of classes of unequal size on its edges from labels."""
    if not 0 <= train.logit_adjustment < math.inf:
        raise UsageError("a logit adjustment that cannot be", where=where.at("logit_adjustment"),
                         found=train.logit_adjustment, expected="0 or more; 1 is the paper's")
    options = {} if train.class_weights == "none" else {"class_weights": train.class_weights}
    options |= {"logit_adjustment": train.logit_adjustment} if train.logit_adjustment else {}
    if options and not task.classifies:  # what is counted is samples of one class each
        name = next(iter(options))
        raise for_classes_alone(name, task, str(where.at(name)))
    return told(lambda: with_label_options(graph, options), where) if options else graph


def place_of(recipe: Recipe, where: object, *table: str | int) -> Place:
    """Where a table of a recipe stands, without one the recipe; `where` tells of a recipe that no file holds."""
    return (recipe.file if recipe.file.text else Place(where)).of(*table)


def _own_graph(recipe: Recipe, task: Task, file: Place) -> Graph:
    """The graph of [nodes] and [[edges]]; a complaint about one of them gets its place."""
    nodes = {name: node_of(kind, task, file.of("nodes", name)) for name, kind in recipe.nodes.items()}
    edges = [edge_of(edge, task, file.of("edges", i)) for i, edge in enumerate(recipe.edges)]
    try:
        return Graph(nodes, edges)
    except UserError as error:
        tables = {f"edge {edge.name}": ("edges", i) for i, edge in enumerate(edges)}
        tables |= {f"{kind} node {name!r}": ("nodes", name) for name in nodes for kind in ("Ema", "computed")}
        raise placed(error, file.of(*tables.get(error.where or "", ()))) from None


def _is_given(kind: Kind, recipe: Recipe) -> bool:
    """Whether a recipe says what network this node is: one of several runs does for what an earlier one left."""
    whole = recipe.number is None
    return isinstance(kind, Trained) or (isinstance(kind, Frozen) and not (kind.before and whole))


def settings_of(recipe: Recipe, graph: Graph) -> Settings:
    """The loop's settings, with an optimizer for each network and part that [train.NAME] names."""
    train = recipe.train
    learners = [*graph.named(Trained), *graph.parts()]
    table = recipe.file.of("train")
    for name in recipe.optimizers:
        if name not in learners:
            raise unknown("trained network or part", name, learners, where=table.at(name))
    makers = {"": _optimizer(train, table)}
    for node, own in recipe.optimizers.items():
        makers[node] = _optimizer(replace(train, **own), recipe.file.of("train", node))
    told(lambda: judging_score(task_named(recipe.data.work), train.best), table)
    rate = function_of(schedules, train.schedule, "schedule", table.at("schedule"))
    return told(lambda: Settings(train.epochs, makers, rate, train.warmup_epochs, recipe.data.batch_size,
                                  train.accumulate, train.clip_norm, train.precision, train.seed,
                                  train.checkpoint_steps, train.best, train.draws, train.cache, train.cache_gib,
                                  train.cache_top, tuple(train.warn)), table)


@dataclass(frozen=True)
class TomlFile:
    """A file of ours in TOML: it can say where in it a key stands."""

    path: Path
    text: str
    overrides: tuple[str, ...] = ()

    def where(self, table: Keys, *key: str | int) -> Place:
        """File, line and table of a key."""
        return Place(self.path, self.text, self.overrides, table, key)

    def table(self, values: object, name: Keys, kind: type, extra: Sequence[str] = ()) -> Any:
        """A table of the file as a dataclass: no unknown key, every value of its type."""
        if not isinstance(values, Mapping):
            raise UsageError(f"{shown_key(name)} must be a table", where=self.where((), *name), found=repr(values))
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
            refused = error.errors()[0].get("ctx", {}).get("error")  # what the dataclass itself refuses
            if isinstance(refused, UserError):
                key = (refused.where or "").removeprefix(f"{shown_key(name)} ")
                raise placed(refused, self.where(name, key), key) from None
            raise wrong_type(error, self.where(name)) from None


TABLES = ("data", "models", "method", "nodes", "edges", "train", "run")


def _recipe(tables: dict[str, Any], source: TomlFile, *, quick: bool, plugins: list[str],
            number: int | None) -> Recipe:
    for name, table in tables.items():
        if name not in TABLES:
            raise unknown("table", name, TABLES, where=source.where((), name))
        each = table if name == "edges" else [table]
        if not isinstance(each, list) or not all(isinstance(one, dict) for one in each):
            raise UsageError(f"[{name}] must be {'tables, [[edges]]' if name == 'edges' else 'a table'}",
                             where=source.where((), name), found=repr(table))
    for name in ("data", "models"):
        if name not in tables:
            raise UsageError(f"the table [{name}] is missing", where=source.path)
    method, edges = tables.get("method"), tables.get("edges")
    if bool(method) == bool(edges) or (method and tables.get("nodes")):
        raise UsageError("a recipe needs a [method], or [nodes] and [[edges]] of its own", where=source.path,
                         found="both" if method else "neither")
    train = tables.get("train", {})
    own = {item.name for item in fields(TrainSettings)}
    optimizers = {key: value for key, value in train.items() if isinstance(value, dict) and key not in own}
    models = {}
    named, teachers = named_teachers(tables["models"], source.path, source.table, source.where)
    for node, table in named.items():
        models[node] = _absolute(source.table(table, ("models", node), Architecture), source.path, "weights", "classes")
    for node, table in optimizers.items():
        typed = source.table(table, ("train", node), OptimizerSettings)
        optimizers[node] = {key: getattr(typed, key) for key in table}
    data = source.table(tables["data"], ("data",), DataSettings)
    if data.root is not None and _seen_from(source.path, data.root).exists():
        data = _absolute(data, source.path, "root")  # else the data set looks where it lies
    return Recipe(data, models,
                  source.table(train, ("train",), TrainSettings, extra=list(optimizers)),
                  added_keys.resolved(tables.get("method", {})),
                  tables.get("nodes", {}), tables.get("edges", []), optimizers, quick, plugins, number,
                  source.where(()), teachers)


def _absolute(table: Any, recipe: Path, *keys: str) -> Any:
    """Paths in a recipe are seen from the recipe's own folder; environment variables and ~ are filled in."""
    changed = {}
    for key in keys:
        value = getattr(table, key)
        if value is not None and value not in (BY_NAME, KNOWN):
            changed[key] = str(_seen_from(recipe, value).resolve())
    return replace(table, **changed)


def _seen_from(recipe: Path, path: str) -> Path:
    return seen_from(recipe, Path(os.path.expandvars(path)).expanduser())


def _quickened(recipe: Recipe) -> Recipe:
    """A smoke run: synthetic images (on digits, the real ones), batch 8, three steps, no file of weights."""
    models = {node: replace(arch, weights=arch.weights if recipe.number else None, pretrained=False, head="strict",
                            classes=arch.classes if arch.classes == KNOWN else None)
              for node, arch in recipe.models.items()}
    data = replace(recipe.data, batch_size=8, limit=24, workers=0)
    train = replace(recipe.train, epochs=1, warmup_epochs=0.0, accumulate=1)
    return replace(recipe, data=data, models=models, train=train, quick=True)


def _set(tables: dict[str, Any], override: str) -> None:
    _, equals, value = override.partition("=")
    path = override_keys(override)
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


def _optimizer(settings: OptimizerSettings, where: Place) -> MakeOptimizer:
    """The optimizer of a table; only SGD takes its momentum: others mean something else by it, or have none."""
    numbers = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    own = {"momentum": settings.momentum, "nesterov": settings.nesterov} if settings.optimizer.lower() == "sgd" else {}
    return told(lambda: optimizer_named(settings.optimizer, numbers | own, settings.options), where)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
