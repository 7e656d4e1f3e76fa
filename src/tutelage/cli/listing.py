"""The commands that say what there is: methods, tasks, and how unlike two texts are."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.commands import Debug, Json
from tutelage.cli.terminal import say
from tutelage.system.text import table


def methods(names: Annotated[bool, typer.Option("--names", help="Only the names.")] = False,
            task: Annotated[str | None, typer.Option(metavar="NAME", help="Only those for this task.")] = None,
            as_json: Json = False, debug: Debug = False) -> None:
    """List the methods: name, one line, paper.

    tutelage methods --task classification
    """
    from tutelage.recipes.methods import method, method_names
    from tutelage.tasks.named import task_named

    chosen = method_names(None if task is None else task_named(task, "--task"))
    lines = {name: (sys.modules[method(name).__module__].__doc__ or "").strip().splitlines()[0] for name in chosen}
    if as_json:
        say(json.dumps(lines))
    elif names:
        say("\n".join(lines))
    else:
        say(table([[name, line] for name, line in lines.items()]))


def tasks(as_json: Json = False, debug: Debug = False) -> None:
    """List the tasks: what each compares and by what, how it is scored, and which methods are for it.

    tutelage tasks
    """
    from tutelage.graph.graph import Graph
    from tutelage.graph.naming import name_of
    from tutelage.graph.nodes import Frozen, Trained
    from tutelage.recipes.methods import method_names
    from tutelage.tasks.named import TASKS

    found = {}
    for name, task in TASKS.items():
        edges = [*task.from_labels("student"), *task.from_network("teacher", "student")]
        graph = Graph({"teacher": Frozen(), "student": Trained()}, edges)
        found[name] = {"rows": [name_of(rows) for rows in task.rows], "edges": str(graph).split("\n\n")[1].splitlines(),
                       "scores": [{"key": score.key, "title": score.title, "better": score.better}
                                  for score in task.scores], "methods": method_names(task)}
    say(json.dumps(found) if as_json else "\n\n".join(_task_text(name, **about) for name, about in found.items()))


def _task_text(name: str, rows: list[str], edges: list[str], scores: list[dict[str, str]], methods: list[str]) -> str:
    keys = [score["key"] + " (lower is better)" * (score["better"] == "lower") for score in scores]
    words = (("rows", ["whole samples", *rows]), ("scores, best goes by the first", keys), ("methods", methods))
    return "\n".join([name, *(f"  {edge}" for edge in edges),
                      *(f"  {what}: {', '.join(each)}" for what, each in words)])


def corpus_distance(one: Annotated[Path, typer.Argument(metavar="A", help="A file, or a folder, of sentences.")],
                    other: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
                    as_json: Json = False, debug: Debug = False) -> None:
    """Say how unlike two texts are by their words: Jensen-Shannon divergence in bits, and the words that both have.

    tutelage corpus-distance wiki/sentences.txt my-sentences
    """
    from tutelage.data.corpus import distance_of_texts

    found = distance_of_texts(one, other)
    say(found.as_json() if as_json else str(found))
