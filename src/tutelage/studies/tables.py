"""The tables of a study as text: configuration, accuracy, ablation, cost; and all of its results as one page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.runs.evaluations import COST, cost_of, evaluated
from tutelage.studies import statistics
from tutelage.studies.statistics import mean_and_spread
from tutelage.studies.study import Asked, Cell, Study
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.scores import main_scores, scores_in
from tutelage.tasks.task import Score

Values = Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]]
"""(node, metric) -> method -> seed -> number."""
SHORT = {"classification": ("top1", "top5", "nll", "ece")}
"""Of a task with many main scores, those in the table of all networks."""


def tables_of(study: Study, asked: Asked, cells: Sequence[Cell], results: Mapping[str, Any],
              values: Values) -> dict[str, dict[str, Any]]:
    """The tables that the study asks for, by name: "title", "columns", "rows" of text, "note"."""
    made: dict[str, dict[str, Any]] = {}
    if "configuration" in study.table.tables:
        made["configuration"] = _configuration(study, asked, cells)
    if "accuracy" in study.table.tables:
        made["accuracy"] = _accuracy(study, results)
    if "ablation" in study.table.tables and any(method.ablation_of for method in study.methods.values()):
        made["ablation"] = _ablation(study, results, values)
    if "cost" in study.table.tables:
        made["cost"] = _cost(cells)
        made["training"] = _training(results)
    return made


def as_markdown(results: Mapping[str, Any]) -> str:
    """results.md: the tables, McNemar's counts, what failed, and how it was made."""
    what = "images" if "task" not in results or results["task"] == CLASSIFICATION.name else "data"
    lines = [f"# {len(results['methods'])} methods, {len(results['seeds'])} seeds, on {results['on']} {what}", ""]
    failed = [f"- {cell['run']}: {cell['status']}" for cell in results["cells"] if cell["status"] != "finished"]
    if failed:
        lines += ["**Not all runs are here:**", "", *failed, ""]
    if results.get("notes"):
        lines += ["**Not all runs computed in the same number formats:**", "",
                  *(f"- {note}" for note in results["notes"]), ""]
    if results.get("marks"):
        lines += ["**Networks that do not tell the classes apart:**", "",
                  *(f"- {of['method']}, seed {of['seed']}: {of['node']} {of['text']}" for of in results["marks"]), ""]
    for table in [*results["tables"].values(), *_mcnemar(results)]:
        lines.append(table_as_markdown(table))
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join([*lines, f"`{results['command']}`", "", f"{results['machine']}; {versions}", ""])


def table_as_markdown(table: Mapping[str, Any]) -> str:
    """One table with its title and its note."""
    lines = [f"## {table['title']}", "", *_lines(table["columns"], table["rows"]), ""]
    return "\n".join([*lines, *([table["note"], ""] if table["note"] else [])])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> dict[str, Any]:
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows], "note": note}


def _configuration(study: Study, asked: Asked, cells: Sequence[Cell]) -> dict[str, Any]:
    """The settings of the study's runs; where they are not the same for all, each value with its methods."""
    seen: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.seed == 0:
            for key, value in _settings(cell).items():
                holders = seen.setdefault(key, {}).setdefault(value, [])
                holders += [cell.method] if cell.method not in holders else []
    everyone = len({cell.method for cell in cells})
    rows = [[key, "; ".join(value if len(holders) == everyone or key.startswith("network") or len(of) == 1
                            else f"{value} ({', '.join(holders)})" for value, holders in of.items())]
            for key, of in seen.items()]
    rows += [["seeds", ", ".join(map(str, range(asked.seeds)))], ["baseline", study.table.baseline]]
    rows += [[f"teacher {name}", f"trained first, {table.seeds if table.seeds == 'once' else 'for each seed'}"]
             for name, table in study.teachers.items()]
    rows += [[f"method {name}", "; ".join(dict.fromkeys(_method(cell) for cell in cells if cell.method == name))]
             for name in study.methods]
    return _table("Configuration", ["", ""], rows)


def _settings(cell: Cell) -> dict[str, str]:
    data, train = cell.recipe.data, cell.recipe.train
    size = data.image_size or "as the set's"
    told = {"data": data.name, "image size": str(size), "batch size": str(data.batch_size),
            "epochs": str(train.epochs), "optimizer": train.optimizer, "learning rate": f"{train.lr:g}",
            "weight decay": f"{train.weight_decay:g}", "schedule": str(train.schedule),
            "warm-up epochs": f"{train.warmup_epochs:g}", "precision": train.precision}
    for node, own in cell.recipe.optimizers.items():
        told[f"optimizer of {node}"] = ", ".join(f"{key} {value}" for key, value in own.items())
    return told | {f"network {node}": arch.arch for node, arch in cell.recipe.models.items()}


def _method(cell: Cell) -> str:
    table = cell.recipe.method
    options = ", ".join(f"{key} = {value}" for key, value in table.items()
                        if key not in ("name", "teacher", "student", "students"))
    return f"{table.get('name', Path(cell.words[0]).stem)}({options})"


def _accuracy(study: Study, results: Mapping[str, Any]) -> dict[str, Any]:
    ablations = [name for name, method in study.methods.items() if method.ablation_of]
    shown, marked = _shown(results), _marked(results)
    first, rows = shown[0], []
    for node in results["nodes"]:
        of = {(row["method"], row["metric"]): row for row in results["rows"] if row["node"] == node}
        for method in (name for name in results["methods"] if (name, first.key) in of and name not in ablations):
            own = [of[method, score.key] for score in shown]
            told = [score_and_spread(row["values"], score) for row, score in zip(own, shown, strict=True)]
            rows.append([method, node + " (!)" * ((method, node) in marked), told[0],
                         *_gap(own[0]["difference"], first), *told[1:]])
    columns = ["method", "network", _head(first), f"over {results['baseline']} ({_unit(first)}95 % interval)",
               "p (Holm)", "says", *(_head(score) for score in shown[1:])]
    note = (f"Mean ± standard deviation (number of seeds). Differences are paired by seed; p is of the paired t-test, "
            f"adjusted by Holm over all methods of the study that are held against {results['baseline']}."
            + "".join(f" Of {score.title} less is better." for score in shown if _unlike(score))
            + " (!): with some seed this network does not tell the classes apart, see above." * bool(marked))
    return _table("Accuracy by experiment" if first == CLASSIFICATION.scores[0] else "Scores by experiment", columns,
                  rows, note)


def _shown(results: Mapping[str, Any]) -> list[Score]:
    """The scores in the table of all networks, the first of the task in front."""
    main, short = main_scores(scores_in(results)), SHORT.get(results.get("task", CLASSIFICATION.name))
    return [score for score in main if short is None or score.key in short]


def _unlike(score: Score) -> bool:
    """Whether less is better, and nobody knows it who knows the field: everybody does of classification's."""
    return score.better == "lower" and score not in CLASSIFICATION.scores


def _head(score: Score) -> str:
    return f"{score.title} %" if score.kind == "share" else score.title


def _unit(score: Score) -> str:
    return "points, " if score.kind == "share" else ""


def score_and_spread(values: Sequence[float], score: Score) -> str:
    """`mean_and_spread` of a score: shares as per cent, numbers to four places.

    >>> score_and_spread([0.5, 0.7], Score("dice", "Dice")), score_and_spread([2.0], Score("mae", "MAE", "number"))
    ('60.00 ± 14.14 (2)', '2.0000 (1)')
    """
    return mean_and_spread(values) if score.kind == "share" else mean_and_spread(values, 1, 4)


def _gap(difference: Mapping[str, Any] | None, score: Score) -> list[str]:
    """A paired difference as three cells of a table."""
    if difference is None:
        return ["-", "-", "-"]
    scale, digits = (100, 2) if score.kind == "share" else (1, 4)
    low, high, p = difference["low"], difference["high"], difference["p_holm"]
    interval = "" if low is None else f" [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
    return [f"{scale * difference['mean']:+.{digits}f}{interval}", "-" if p is None else f"{p:.3g}",
            difference["says"].partition(";")[0]]


def _marked(results: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(method, network) of those that do not tell the classes apart with some seed."""
    return {(of["method"], of["node"]) for of in results.get("marks", ())}


def _ablation(study: Study, results: Mapping[str, Any], values: Values) -> dict[str, Any]:
    rows, marked, first = [], _marked(results), scores_in(results)[0]
    for full in dict.fromkeys(method.ablation_of for method in study.methods.values() if method.ablation_of):
        variants = [full, *(name for name, method in study.methods.items() if method.ablation_of == full)]
        for (node, metric), of in values.items():
            own = {name: of[name] for name in variants if name in of}
            for row in statistics.rows(node, metric, own, full, (), first.better) if metric == first.key else ():
                changed = ", ".join(study.methods[row["method"]].set) or "-"
                rows.append([row["method"], "-" if row["method"] == full else changed,
                             node + " (!)" * ((row["method"], node) in marked),
                             score_and_spread(row["values"], first), *_gap(row["difference"], first)])
    columns = ["variant", "change", "network", _head(first),
               f"over the full method ({_unit(first)}95 % interval)", "p (Holm)", "says"]
    return _table("Ablation", columns, rows, "Held against the full method; p is adjusted over its ablations.")


def _cost(cells: Sequence[Cell]) -> dict[str, Any]:
    nodes: dict[str, Mapping[str, Any]] = {}
    about = ""
    for run in (cell.run for cell in cells if COST in evaluated(cell.run)):
        cost = cost_of(run)
        about = f"{cost['machine']}. FLOPs: {cost['convention']}."
        for node, of in cost["nodes"].items():
            if nodes.get(node, {"compression": None})["compression"] is None:
                nodes[node] = of
    rows = [[node, f"{of['parameters']:,}", "-" if of["compression"] is None else f"{of['compression']:.2f}x",
             f"{of['flops'] / 1e6:,.1f}", f"{of['bytes'] / 2**20:.2f}",
             *(f"{of['latency'][size]['median_ms']:.2f} [{of['latency'][size]['low_ms']:.2f}, "
               f"{of['latency'][size]['high_ms']:.2f}]" for size in ("1", "32")),
             f"{of['latency']['32']['images_per_second']:,.0f}"] for node, of in nodes.items()]
    columns = ["network", "parameters", "compression", "MFLOPs an image", "MiB", "ms for 1 image", "ms for 32",
               "images/s at 32"]
    return _table("Cost", columns, rows, f"Median [quartiles]. {about}")


def _training(results: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for method, recipe in dict.fromkeys((cell["method"], cell["recipe"]) for cell in results["cells"]):
        own = [cell for cell in results["cells"] if (cell["method"], cell["recipe"]) == (method, recipe)
               and cell["status"] == "finished"]
        rows.append([method, recipe, mean_and_spread([cell["seconds_per_epoch"] for cell in own], 1),
                     mean_and_spread([cell["seconds"] for cell in own], 1, 0)])
    return _table("Time of training", ["method", "recipe", "seconds an epoch", "seconds in all"], rows,
                  "As it was, several runs at a time if so asked.")


def _mcnemar(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in results["mcnemar"]:
        found.setdefault((row["method"], row["node"]), []).append(row)
    rows = [[method, node, str(sum(row["only_method"] for row in of)), str(sum(row["only_baseline"] for row in of)),
             f"{sum(row['p'] < statistics.LEVEL for row in of)} of {len(of)}"] for (method, node), of in found.items()]
    if not rows:
        return []
    note = ("McNemar's exact test, seed by seed: it speaks of two trained networks, not of the methods. Counts are "
            "summed over the seeds; the p are not adjusted.")
    return [_table("Images that only one gets right", ["method", "network", "only the method", f"only "
                                                       f"{results['baseline']}", "seeds with p < 0.05"], rows, note)]


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, its columns aligned for whoever reads it in a terminal."""
    plain = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [columns, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*plain, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in plain]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
