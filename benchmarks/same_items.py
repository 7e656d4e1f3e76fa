"""What `same.py` compares: each item is something that one side, BASE or HEAD, does, and what came of it as facts.

Only what outlives a move of the package's modules is used: commands, recipes, run folders and `tutelage`'s own names.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from same_facts import SHOWN, cache_facts, compare, folder_facts, lasting, study_facts

SHORT = ("data.limit=480", "train.epochs=3")
"""15 steps an epoch: so short that nothing is tuned, and what a network computes by follows from the recipe alone."""
EXACT, AUTO = "train.precision=exact", "train.precision=auto"
EXTRA = {"class_incremental": ("method.rounds=2",)}
TEACHERS = {  # run folder that recipes name -> the recipe that trains it, and what the head of that recipe has set
    "demo-teacher": ("teacher", ()),
    **{f"demo-teacher-after{epochs}": ("teacher", ("train.schedule=constant", f"train.epochs={epochs}"))
       for epochs in (2, 3, 5)},
    "digits-early": ("early", ()),
}
BY_RECIPE = {"teacher": "demo-teacher", "early": "digits-early",
             **{f"teacher_after{epochs}": f"demo-teacher-after{epochs}" for epochs in (2, 3, 5)}}
"""The recipe by which a recipe names its teacher -> the run folder, in which that recipe is found."""
Given = Sequence[tuple[bool, bool, bool]]
GIVEN: dict[str, tuple[str, Given, bool]] = {  # item -> recipe, (bf16, channels last, compiled) in turn; losses too
    "mixed": ("dual_student", [(True, True, False), (True, False, False), (False, False, False)], False),
    "layers": ("feature_only", [(True, True, False), (False, True, False)], False),
    "average": ("mean_teacher", [(True, True, False)], False),
    "compiled": ("dual_student", [(True, True, True), (False, True, True), (False, True, False)], True),
}
PATIENCE = 3600
"""Seconds for one process."""
DRIVER = """
import contextlib, json, pathlib, runpy, sys
import tutelage
if pathlib.Path(sys.argv[1]) not in pathlib.Path(tutelage.__file__).resolve().parents:
    sys.exit(f"tutelage comes from {tutelage.__file__}")
for words, to in json.loads(sys.argv[2]):
    sys.argv = ["tutelage", *words]
    with open(to, "w") as file, contextlib.redirect_stdout(file):
        try:
            runpy.run_module("tutelage", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
"""
"""Several commands in one process, so that torch is loaded once."""
EXAMPLE = """
import hashlib, json, runpy, sys
found = runpy.run_path(sys.argv[1], run_name="__main__")
weights = {}
for name, value in found.items():
    for key, network in (value.items() if isinstance(value, dict) else [("", value)]):
        if hasattr(network, "named_parameters") and not isinstance(network, type):
            digest = hashlib.sha256()
            for part, tensor in sorted(network.state_dict().items()):
                digest.update(json.dumps([part, tensor.tolist()]).encode())
            weights[f"{name} {key}".strip()] = digest.hexdigest()
with open(sys.argv[2], "w") as file:
    json.dump({"weights": weights, "metrics": found.get("scores", {})}, file, default=vars)
"""


class Failed(Exception):  # noqa: N818 - the item has, not this program
    """What an item asked for did not end well."""


@dataclass(frozen=True)
class Side:
    """One of the two versions: its files in `home`/tree, beside what it has found so far."""

    name: str
    home: Path

    @property
    def tree(self) -> Path:
        return self.home / "tree"

    def recipes(self) -> dict[str, dict[str, Any]]:
        """Path -> tables, of everything that can be trained."""
        tables = {path.relative_to(self.tree / "recipes").with_suffix("").as_posix(): tomllib.loads(path.read_text())
                  for path in sorted(self.tree.glob("recipes/**/*.toml"))}
        return {name: table for name, table in tables.items() if "models" in table}

    def examples(self) -> list[str]:
        return sorted(path.stem for path in self.tree.glob("examples/[0-9]*.py"))


@dataclass(frozen=True)
class Place:
    """Where an item is worked on by one side; `base` is the other one's version, for runs that are handed over."""

    side: Side
    item: str
    base: Side

    @property
    def slug(self) -> str:
        return self.item.replace("/", "-")

    @property
    def runs(self) -> Path:
        """Of this item, seen from the tree."""
        return Path("runs", "same", self.slug)

    @property
    def cache(self) -> Path:
        return self.side.home / "cache" / self.slug

    def start(self, *words: str) -> subprocess.Popen:
        """Python with the side's source first on the path, and nothing else of ours; what it says goes into a file."""
        own = {"PYTHONPATH": str(self.side.tree / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
               "TUTELAGE_CACHE": str(self.cache)}
        with self.log.open("a") as log:
            return subprocess.Popen([sys.executable, *words], cwd=self.side.tree, env={**os.environ, **own},
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run(self, *words: str) -> None:
        """The same to its end."""
        process = self.start(*words)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed(f"{self.side.name} was not done in {PATIENCE} s ({self.log})") from None
        if code:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            told = next((line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else "?")
            raise Failed(f"{self.side.name} failed: {told} ({self.log})")

    def commands(self, *commands: Sequence[str]) -> list[str]:
        """What each `tutelage` command prints."""
        said = [self.side.home / "said" / f"{self.slug}-{number}" for number in range(len(commands))]
        pairs = [[list(words), str(to)] for words, to in zip(commands, said, strict=True)]
        self.run("-c", DRIVER, str(self.side.tree / "src"), json.dumps(pairs))
        return [path.read_text() for path in said]

    def facts(self, *names: str) -> dict[str, Any]:
        """Of runs of this item; an item without a finished run has shown nothing."""
        found = {name: folder_facts(self.side.tree / self.runs / name) for name in names}
        if not all(found.values()):
            raise Failed(f"{self.side.name}: no finished run in {self.runs}")
        return found

    @property
    def log(self) -> Path:
        return self.side.home / "said" / f"{self.slug}.txt"


@dataclass(frozen=True)
class Item:
    """One line of the answer: what a side does for it, and whose teachers it needs."""

    name: str
    work: Callable[[Place], dict[str, Any]]
    recipes: tuple[str, ...] = ()


def train(recipe: str, out: Path, *sets: str) -> list[str]:
    """The words of the command."""
    words = [word for one in (*SHORT, *EXTRA.get(recipe, ()), *sets) for word in ("--set", one)]
    return ["train", f"recipes/digits/{recipe}.toml", "--out", str(out), *words]


def teacher(place: Place, name: str) -> dict[str, Any]:
    recipe, sets = TEACHERS[name]
    out = Path("runs", name)
    shutil.rmtree(place.side.tree / out, ignore_errors=True)
    words = [word for one in (EXACT, *sets) for word in ("--set", one)]
    place.commands(["train", f"recipes/digits/{recipe}.toml", "--out", str(out), *words])
    return folder_facts(place.side.tree / out)


def digits(place: Place, recipe: str) -> dict[str, Any]:
    exact, auto = place.runs / "exact", place.runs / "auto"
    place.commands(train(recipe, exact, EXACT), ["evaluate", str(exact), "--on", "test", "--no-cost"],
                   train(recipe, auto, AUTO))
    return place.facts("exact", "auto")


def graphs(place: Place) -> dict[str, Any]:
    names = list(place.side.recipes())
    said = place.commands(*(["graph", f"recipes/{name}.toml", "--json"] for name in names))
    return {name: lasting(json.loads(text)) for name, text in zip(names, said, strict=True)}


def stopped(place: Place, run: Path, until: str, *words: str) -> None:
    """Start a run, and kill it as soon as there is such a file."""
    process = place.start("-m", "tutelage", *words)
    try:
        while not any((place.side.tree / run).glob(until)):
            if process.poll() is not None:
                raise Failed(f"{place.side.name} ended before there was {until} ({place.log})")
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    if (place.side.tree / run / "FINISHED").exists():
        raise Failed(f"{place.side.name} was finished before it was killed")


def killed(place: Place) -> dict[str, Any]:
    """A run that is killed within an epoch and resumed, and the same one left alone."""
    words = partial(train, "dual_student")
    sets = (EXACT, "train.checkpoint_steps=4")
    stopped(place, place.runs / "killed", "checkpoints/step-*", *words(place.runs / "killed", *sets))
    place.commands(["train", "--resume", str(place.runs / "killed")], words(place.runs / "whole", *sets))
    found = place.facts("killed", "whole")
    apart = compare(found["whole"], found["killed"])[0]
    return found | ({"wrong": f"{place.side.name}, killed and resumed: {'; '.join(apart[:SHOWN])}"} if apart else {})


def handed_over(place: Place) -> dict[str, Any]:
    """A run that BASE starts, and each side resumes, measures and finds finished."""
    run = place.runs / "run"
    first = Place(place.base, f"{place.item}-{place.side.name}", place.base)
    clear(first)
    stopped(first, first.runs / "run", "checkpoints/step-*",
            *train("dual_student", first.runs / "run", EXACT, "train.checkpoint_steps=4"))
    shutil.copytree(place.base.tree / first.runs / "run", place.side.tree / run)
    place.commands(["train", "--resume", str(run)], ["evaluate", str(run), "--on", "validation", "--no-cost"])
    found = place.facts("run")
    clear(first)
    return found


def ranks(place: Place) -> dict[str, Any]:
    place.run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tutelage",
              *train("dual_student", place.runs / "run", EXACT))
    return place.facts("run")


def cached(place: Place, sets: Iterable[str]) -> dict[str, Any]:
    place.commands(train("dual_student", place.runs / "run", "train.cache=true", "train.draws=1", *sets))
    return place.facts("run") | {"cache": cache_facts(place.cache)}


def given(place: Place, name: str) -> dict[str, Any]:
    """A run whose choices are not what the tuner found: killed when they are written, it resumes with others."""
    recipe, choices, losses = GIVEN[name]
    run, path = place.runs / "run", place.side.tree / place.runs / "run" / "tuning.json"
    stopped(place, run, "tuning.json", *train(recipe, run, AUTO, "train.epochs=2"))
    if any(path.parent.glob("checkpoints/step-*")):
        raise Failed(f"{place.side.name} was in its second epoch before it was killed")
    tuning = json.loads(path.read_bytes())
    for number, choice in enumerate(tuning["choices"].values()):
        choice |= dict(zip(("bf16", "channels_last", "compiled"), choices[number % len(choices)], strict=True))
    path.write_text(json.dumps(tuning | {"compiled_losses": losses}))
    place.commands(["train", "--resume", str(run)])
    return place.facts("run")


def study(place: Place) -> dict[str, Any]:
    sets = [word for one in (*SHORT, "train.epochs=2") for word in ("--set", one)]
    words = ["compare", "recipes/digits/study.toml", "--seeds", "1", "--out", str(place.runs / "study"), "--json"]
    (said,) = place.commands([*words, *sets])
    return place.facts("study") | {"results": study_facts(json.loads(said))}


def example(place: Place, name: str) -> dict[str, Any]:
    said = place.side.home / "said" / f"{place.slug}.json"
    place.run("-c", EXAMPLE, f"examples/{name}.py", str(said))
    found = lasting(json.loads(said.read_bytes()))
    if not found["weights"]:
        raise Failed(f"{place.side.name}: the example has no network")
    return found


def items_of(base: Side, head: Side) -> tuple[list[Item], list[str]]:
    """All that can be compared, and notes on what only one side has."""
    recipes = [base.recipes(), head.recipes()]
    shared = [name.removeprefix("digits/") for name in recipes[0] if name.startswith("digits/") and name in recipes[1]]
    found = [Item("graph", graphs), *(Item(f"digits/{name}", partial(digits, recipe=name), (name,)) for name in shared)]
    if "dual_student" in shared:
        of = ("dual_student",)
        found += [Item("killed", killed, of), Item("handed_over", handed_over, of), Item("ranks", ranks, of),
                  Item("cached", partial(cached, sets=(EXACT,)), of),
                  Item("cache_top", partial(cached, sets=(AUTO, "train.cache_top=3")), of)]
    found += [Item(f"given/{name}", partial(given, name=name), (recipe,))
              for name, (recipe, _, _) in GIVEN.items() if recipe in shared]
    if all((side.tree / "recipes/digits/study.toml").exists() for side in (base, head)):
        found.append(Item("study", study))
    examples = [base.examples(), head.examples()]
    found += [Item(f"examples/{name}", partial(example, name=name)) for name in examples[0] if name in examples[1]]
    notes = [f"only in {side.name}: {name}" for side, own, other in ((base, 0, 1), (head, 1, 0))
             for kind in (recipes, examples) for name in kind[own] if name not in kind[other]]
    return found, notes


def teachers_of(side: Side, items: Iterable[Item]) -> list[str]:
    """The teachers that the items' recipes name."""
    recipes, found = side.recipes(), dict[str, None]()
    for name in (name for item in items for name in item.recipes):
        for network in recipes[f"digits/{name}"]["models"].values():
            weights = network.get("weights", "")
            folder = BY_RECIPE.get(weights["recipe"], "") if isinstance(weights, dict) else Path(weights).name
            found |= {folder: None} if folder in TEACHERS else {}
    return list(found)


def clear(place: Place) -> None:
    for path in (place.side.tree / place.runs, place.cache):
        shutil.rmtree(path, ignore_errors=True)


def find(item: Item, place: Place) -> dict[str, Any]:
    """What a side has found for an item, now or in an earlier call; its run folders are not kept."""
    kept = place.side.home / "facts" / f"{place.slug}{f'-{place.base.home.name}' * (item.name == 'handed_over')}.json"
    whole = not item.name.startswith("teacher/") or (place.side.tree / "runs" / item.name.removeprefix("teacher/")
                                                     / "FINISHED").exists()
    if kept.exists() and whole:
        return json.loads(kept.read_bytes())
    clear(place)
    place.log.unlink(missing_ok=True)
    found = item.work(place)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.replace(kept)
    clear(place)
    return found
