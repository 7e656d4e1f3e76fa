"""What `tutelage train` does: a recipe in its run folder, after its teachers if that is asked for, told on the way."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.cli.terminal import note, say, show, show_checks
from tutelage.recipes.job import Job, train_recipe
from tutelage.recipes.names import usual_run, word_of
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe, settings_of
from tutelage.recipes.teachers import runs_of_recipe, teachers_first, with_teachers
from tutelage.runs.folder import finished, marks_of_run, refuse_others
from tutelage.system.distributed import World, connect, lead


@dataclass(frozen=True)
class Call:
    """How `tutelage train` was called: what its runs share. `asked` gives the number of a signal, else 0."""

    asked: Callable[[], int]
    as_json: bool
    quick: bool = False
    plugins: Sequence[str] = ()
    download: bool = False


def train_teachers(folder: Path, words: Recipe, file: Path, world: World, call: Call) -> None:
    """Train the teachers that a recipe names by recipe, each after its own, into their run folders in ./runs.

    What is finished is left as it is, what was begun goes on, and nothing of the command's --set is for them. The words
    of all recipes, and `folder`, into which this one is to go, are looked at before the first is trained.
    """
    sets = ["data.download=true"] if call.download else []
    teachers = {teacher: read_recipe(teacher, sets, quick=call.quick, plugins=call.plugins)
                for teacher in teachers_first(words, file)}
    for path, recipe in {**teachers, file: words}.items():
        settings_of(recipe, graph_of(recipe, path))
    refuse_others(folder)
    for teacher, own in teachers.items():
        if call.quick:
            place = usual_run(teacher, quick=True)
        else:
            runs = runs_of_recipe(teacher, own)
            lead(world, None)  # all ranks have looked before one of them writes
            if runs.finished:
                if world.main:
                    _say_finished(runs.finished[0], call.as_json)
                continue
            place = runs.begun[0] if runs.begun else runs.usual
        if world.main and not call.as_json:
            say(f"{word_of(teacher)} -> {place}\n")
        train_into(place, own, teacher, connect(own.train.device), call)
        lead(world, None)
        if world.main and not call.as_json:
            say("")


def train_into(folder: Path, words: Recipe, where: Path, world: World, call: Call,
               numerics: Path | None = None) -> None:
    """Train a recipe, which was read from `where`, in its run folder, and show it."""
    words = with_teachers(words, folder, where)
    if _is_finished(folder, words.text_in(folder)):
        if world.main:
            _say_finished(folder, call.as_json)
        return

    def started(job: Job, place: Path) -> None:
        if world.main and not call.as_json:
            say((f"{place}\n\n" if place != folder else "") + f"{job.graph}\n")
        for text in job.notes if world.main else ():
            note(text)

    for job, event in train_recipe(words, folder, world, call.asked, where, started, numerics,
                                    lambda checks: show_checks(checks, call.as_json)):
        if world.main and event is not None:
            show(event, job.settings.epochs, call.as_json)
    if world.main:
        marks = marks_of_run(folder)
        say(json.dumps({"event": "finished", "out": str(folder), "marks": marks}) if call.as_json else
            "\n".join([*(f"{node} {text}" for node, text in marks.items()), f"finished: {folder}"]))


def _is_finished(folder: Path, config: str) -> bool:
    """Whether this very run is done; another run in the folder is left to `open_run` to refuse."""
    return finished(folder) is not None and (folder / "config.toml").read_text(encoding="utf-8") == config


def _say_finished(folder: Path, as_json: bool) -> None:
    say(json.dumps({"event": "already finished", "out": str(folder)}) if as_json else f"already finished: {folder}")
