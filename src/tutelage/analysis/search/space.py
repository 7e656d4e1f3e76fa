"""The networks among which a search chooses: a file in TOML, or the residual networks of CIFAR by depth and width.

    [space]                               # one network, whose options are chosen
    arch = "resnet_stages"
    [space.options]                       # every combination of these values is a candidate
    first = [1, 3, 5, 7]
    second = [1, 3, 5, 7]
    third = [1, 3, 5, 7]

or, instead, [models.NAME] tables, each a candidate as a recipe names it; its weights play no part. An [accuracy] table
may say how well some of them did, NAME = PERCENT; a network of a space is named by the values chosen, "1-3-5".
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from tutelage.analysis.search.evolution import Genes
from tutelage.errors import UsageError, unknown
from tutelage.models.architecture import Architecture
from tutelage.recipes.recipe import TomlFile

FAMILY = "resnet_stages"


@dataclass(frozen=True)
class Candidates:
    """`choices` are how many values each place has; `architecture` and `name` say what a combination means.

    `accuracy` is what is known of some of them, by name, in percent.
    """

    choices: tuple[int, ...]
    architecture: Callable[[Genes], Architecture]
    name: Callable[[Genes], str]
    accuracy: Mapping[str, float] = field(default_factory=dict)


def family(blocks: Sequence[int], widths: Sequence[int]) -> Candidates:
    """Residual networks with any of these numbers of blocks in each of three stages, and any of these widths."""
    for option, values in {"--blocks": blocks, "--widths": widths}.items():
        if not values or min(values) < 1:
            raise UsageError("whole numbers of 1 or more are needed", where=option, found=list(values) or "none")
    blocks, widths = sorted(set(blocks)), sorted(set(widths))
    return _space(Architecture(FAMILY), {"first": blocks, "second": blocks, "third": blocks, "width": widths})


def read_candidates(path: Path) -> Candidates:
    """The candidates of a file, checked; UsageError with its line where something is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("cannot read the candidates", where=path, found=error, fix="give a TOML file") from None
    source = TomlFile(path, text)
    for name in tables:
        if name not in ("space", "models", "accuracy"):
            raise unknown("table", name, ("space", "models", "accuracy"), where=source.where((), name))
    if ("space" in tables) == ("models" in tables):
        raise UsageError("a file of candidates needs a [space], or [models.NAME] tables", where=path,
                         found="both" if "space" in tables else "neither")
    made = _from_space(tables["space"], source) if "space" in tables else _from_models(tables["models"], source)
    return replace(made, accuracy=_accuracy(tables.get("accuracy", {}), made, source))


def _from_space(table: Any, source: TomlFile) -> Candidates:
    spec = source.table(table, ("space",), Architecture)
    if not spec.options:
        raise UsageError("a space needs options to choose", where=source.where(("space",), "options"),
                         expected="[space.options] with a list of values for each option")
    values = {}
    for option, given in spec.options.items():
        values[option] = given if isinstance(given, list) else [given]
        if not values[option] or len(set(map(str, values[option]))) < len(values[option]):
            raise UsageError("an option needs values, each of them once", found=given,
                             where=source.where(("space", "options"), option))
    return _space(spec, values)


def _space(spec: Architecture, values: Mapping[str, Sequence[Any]]) -> Candidates:
    options = list(values)

    def chosen(genes: Genes) -> dict[str, Any]:
        return {option: values[option][gene] for option, gene in zip(options, genes, strict=True)}

    def architecture(genes: Genes) -> Architecture:
        return replace(spec, options=chosen(genes))

    def name(genes: Genes) -> str:
        varied = [str(value) for option, value in chosen(genes).items() if len(values[option]) > 1]
        return "-".join(varied) or spec.arch

    return Candidates(tuple(len(values[option]) for option in options), architecture, name)


def _from_models(tables: Any, source: TomlFile) -> Candidates:
    if not isinstance(tables, Mapping) or not tables:
        raise UsageError("[models] must hold tables", where=source.where((), "models"), found=repr(tables))
    models = {name: source.table(table, ("models", name), Architecture) for name, table in tables.items()}
    names = list(models)
    return Candidates((len(names),), lambda genes: models[names[genes[0]]], lambda genes: names[genes[0]])


def _accuracy(table: Any, made: Candidates, source: TomlFile) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise UsageError("[accuracy] must be a table", where=source.where((), "accuracy"), found=repr(table))
    known = {made.name(genes) for genes in product(*map(range, made.choices))} if table else set()
    for name, value in table.items():
        if name not in known:
            raise unknown("candidate", name, known, where=source.where(("accuracy",), name))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise UsageError("an accuracy is a number of percent", where=source.where(("accuracy",), name),
                             found=repr(value), expected="0 .. 100")
    return {name: float(value) for name, value in table.items()}
