"""The phases of a class-incremental method: runs one after another, what is remembered between them, their balance.

    OUT/1, OUT/2 ...      the phases, each an ordinary run folder
    OUT/trials/2-1 ...    what was tried before phase 2, ordinary run folders too, with reward.json
    OUT/rows/2.npy        ids of the images that phase 2 learns from; 2-train.npy and 2-small.npy those of its trials,
                          and 2-memory.npy those that are kept after it
    OUT/phases.json       what was chosen, and how good each phase was on validation images of the classes seen

Everything follows from these files, the recipe and hashes of its seed: after a stop anywhere the same call goes on. A
trial learns from a part of what is in memory and is rewarded by its accuracy on another part; no validation or test
image is looked at for that. (The code released with the paper measures rewards on test images.)
"""

import inspect
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.data.source import Data, Source
from tutelage.data.splits import classes_of, first
from tutelage.engine.train import load
from tutelage.errors import DataError
from tutelage.graph.taps import read
from tutelage.models.wrappers import FEATURES
from tutelage.recipes.methods import method
from tutelage.recipes.recipe import Recipe, graphs_of
from tutelage.recipes.sequence import one_of
from tutelage.runs.folder import read_json
from tutelage.system.distributed import World, lead
from tutelage.system.files import write, write_json
from tutelage.system.random import derive, uniform

PART = 256
"""Images that are looked at together."""


@dataclass(frozen=True)
class Phases:
    """What the phases of a recipe have in common."""

    recipe: Recipe
    out: Path
    data: Data
    world: World

    @property
    def options(self) -> SimpleNamespace:
        """The method's options, defaults filled in."""
        told = {key: value for key, value in self.recipe.method.items() if key != "name"}
        bound = inspect.signature(method(self.recipe.method["name"])).bind(**told)
        bound.apply_defaults()
        return SimpleNamespace(**bound.arguments)

    def classes(self, number: int) -> tuple[Tensor, Tensor]:
        """The old and the new classes of phase `number`, from 1 on."""
        asked = self.options
        return classes_of(len(self.data.classes), phase=number - 1, phases=asked.phases, start=asked.start,
                          order=asked.order)

    def rows(self, name: str, make: Callable[[], Tensor]) -> Path:
        """A file of ids, made by the first rank where it is not there."""
        path = self.out / "rows" / f"{name}.npy"
        missing = self.world.main and not path.exists()
        lead(self.world, (lambda: _write_ids(path, make())) if missing else None)
        return path


Train = Callable[[Recipe, Path], Iterator]


def train_phases(recipe: Recipe, out: Path, data: Data, world: World, train: Train) -> Iterator:
    """Train a recipe of `class_incremental` in `out`, phase by phase; `train` does one run."""
    phases = Phases(recipe, out, data, world)
    asked = phases.options
    log_weights, told = [0.0] * len(asked.actions), []
    for number, graph in enumerate(graphs_of(recipe), 1):
        rows = phases.rows(str(number), partial(learned_from, phases, number))
        one, chosen = _with_rows(one_of(recipe, graph, number, out), rows), None
        if number > 1 and asked.policy != "fixed":
            if asked.policy == "exp3_released":
                log_weights = [0.0] * len(asked.actions)
            chosen, log_weights = yield from _search(phases, number, one, log_weights, train)
            one = _with_action(one, asked.actions[chosen])
        yield from train(one, out / str(number))
        student = load(out / str(number), asked.student, plugins=recipe.plugins)[0].to(world.device)
        memory = phases.rows(f"{number}-memory", partial(remembered, phases, number, student))
        told.append({"phase": number, "classes": [data.classes[c] for c in phases.classes(number)[1].tolist()],
                     "action": None if chosen is None else list(asked.actions[chosen]),
                     **judged(phases, number, student, np.load(memory, allow_pickle=False))})
    mean = sum(phase["accuracy"] for phase in told) / len(told)
    if world.main:
        write_json(out / "phases.json", {"phases": told, "average_incremental_accuracy": mean})


def _search(phases: Phases, number: int, one: Recipe, log_weights: Sequence[float], train: Train) -> Any:
    """Try actions before a phase; which is chosen, and the weights of all."""
    asked, actions = phases.options, phases.options.actions
    grid = asked.policy == "grid"
    learn = phases.rows(f"{number}-train", lambda: rebuilt(phases, number)[0])
    small = phases.rows(f"{number}-small", lambda: rebuilt(phases, number)[1])
    rewards: dict[int, float] = {}
    for trial in range(len(actions) if grid else asked.rounds):
        shares = probabilities(log_weights, asked.rate)
        action = trial if grid else drawn_action(shares, derive(phases.recipe.train.seed, "action", number, trial))
        tried = _with_action(_with_rows(one, learn), actions[action])
        seed = derive(phases.recipe.train.seed, "trial", number, trial) % 2**31
        epochs = min(asked.trial_epochs, one.train.epochs)
        tried = replace(tried, train=replace(tried.train, epochs=epochs, warmup_epochs=0.0, seed=seed))
        folder = phases.out / "trials" / f"{number}-{trial + 1}"
        yield from train(tried, folder)
        rewards[action] = _reward(phases, number, folder, small)
        if not grid:
            log_weights = rewarded(log_weights, action, rewards[action], shares[action], asked.rate,
                                   released=asked.policy == "exp3_released")
    if grid:
        return max(rewards, key=lambda action: rewards[action]), log_weights
    key = derive(phases.recipe.train.seed, "action", number, "chosen")
    return drawn_action(probabilities(log_weights, asked.rate), key), log_weights


def probabilities(log_weights: Sequence[float], rate: float) -> list[float]:
    """Exp3's chance of each of K actions: (1 - rate) w_a / sum of w + rate / K (Auer et al., 2002).

    >>> probabilities([0.0, 0.0], 0.1)
    [0.5, 0.5]
    """
    highest = max(log_weights)
    weights = [math.exp(log - highest) for log in log_weights]
    return [(1 - rate) * weight / sum(weights) + rate / len(weights) for weight in weights]


def rewarded(log_weights: Sequence[float], action: int, reward: float, probability: float, rate: float, *,
             released: bool = False) -> list[float]:
    """The logarithms of the weights after a reward in [0, 1]: w_a <- w_a exp(rate * reward / probability / K).

    The released code takes the reward in percent, and does not divide it by the probability.
    """
    gain = 100 * reward if released else reward / probability
    return [log + (rate * gain / len(log_weights) if a == action else 0.0) for a, log in enumerate(log_weights)]


def drawn_action(shares: Sequence[float], key: int) -> int:
    """An action drawn by its chance; the same key draws the same one."""
    point = uniform(key, torch.zeros(1, dtype=torch.int64), 1).item()
    return min(int(np.searchsorted(np.cumsum(shares), point, side="right")), len(shares) - 1)


def learned_from(phases: Phases, number: int) -> Tensor:
    """The ids that a phase learns from: all of the new classes, and what is remembered of the old ones."""
    new = _of_classes(phases.data.train, phases.classes(number)[1])
    if not len(new):
        raise DataError("a phase without images", where=f"phase {number}", found="no image of its classes",
                        fix="fewer phases")
    return torch.cat([_memory(phases, number - 1), new]).sort().values


def rebuilt(phases: Phases, number: int) -> tuple[Tensor, Tensor]:
    """What the trials of a phase learn from, and a small balanced set to reward them: ids, all from memory.

    Of the old classes' exemplars every other one is set aside, of the new classes half as many as are remembered.
    """
    source, asked = phases.data.train, phases.options
    old, new = phases.classes(number)
    memory = _memory(phases, number - 1)
    labels = _labels(source, memory)
    learn, small = [], []
    for label in old.tolist():
        learn.append(memory[labels == label][::2])
        small.append(memory[labels == label][1::2])
    for label in new.tolist():
        ids = _of_classes(source, torch.tensor([label]))
        aside = torch.zeros(len(ids), dtype=torch.bool).index_fill(0, first(ids, asked.exemplars // 2), True)
        learn.append(ids[~aside])
        small.append(ids[aside])
    return torch.cat(learn).sort().values, torch.cat(small).sort().values


def remembered(phases: Phases, number: int, student: nn.Module) -> Tensor:
    """The ids that are kept after a phase: the old ones, and of each new class the exemplars chosen by herding."""
    kept = [_memory(phases, number - 1)]
    for label in phases.classes(number)[1].tolist():
        ids = _of_classes(phases.data.train, torch.tensor([label]))
        if len(ids):
            kept.append(ids[herded(_look(student, phases.data.train, ids)[1], phases.options.exemplars)])
    return torch.cat(kept)


def herded(features: Tensor, count: int) -> Tensor:
    """The rows of [N, D] whose running mean stays nearest the mean of all: [count] (Welling, 2009; iCaRL, 2017).

    >>> herded(torch.tensor([[0.0], [1.0], [4.0], [3.0]]), 2).tolist()
    [1, 3]
    """
    features = features.double()
    mean, total, left = features.mean(0), torch.zeros_like(features[0]), torch.ones(len(features), dtype=torch.bool)
    chosen: list[int] = []
    for size in range(1, min(count, len(features)) + 1):
        apart = ((total + features) / size - mean).square().sum(-1)
        chosen.append(int(apart.where(left, math.inf).argmin()))
        total, left[chosen[-1]] = total + features[chosen[-1]], False
    return torch.tensor(chosen)


def judged(phases: Phases, number: int, student: nn.Module, memory: np.ndarray) -> dict[str, float]:
    """Accuracy among the classes seen, on validation images of them: by the classifier, and by the nearest mean.

    The mean is that of the features of a class's exemplars (Rebuffi et al., 2017).
    """
    source, seen = phases.data.validation, torch.cat(phases.classes(number)).sort().values
    ids = _of_classes(source, seen)
    labels = _labels(source, ids)
    logits, features = _look(student, source, ids)
    kept = torch.from_numpy(memory)
    owners, own = _labels(phases.data.train, kept), _look(student, phases.data.train, kept)[1]
    means = torch.stack([own[owners == c].mean(0) if bool((owners == c).any()) else own[0] * math.nan for c in seen])
    nearest = torch.cdist(features, nn.functional.normalize(means, dim=-1)).nan_to_num(math.inf).argmin(-1)
    return {"accuracy": _share(seen[logits[:, seen].argmax(-1)] == labels),
            "accuracy_of_means": _share(seen[nearest] == labels)}


def _reward(phases: Phases, number: int, folder: Path, small: Path) -> float:
    """The accuracy of a trial on the images set aside, among the classes seen."""
    path = folder / "reward.json"

    def measure() -> None:
        student = load(folder, phases.options.student, plugins=phases.recipe.plugins)[0].to(phases.world.device)
        seen, ids = torch.cat(phases.classes(number)), torch.from_numpy(np.load(small, allow_pickle=False))
        logits, _ = _look(student, phases.data.train, ids)
        right = seen[logits[:, seen].argmax(-1)] == _labels(phases.data.train, ids)
        write_json(path, {"reward": _share(right)})

    lead(phases.world, measure if phases.world.main and not path.exists() else None)
    return float(read_json(path)["reward"])


def _with_rows(recipe: Recipe, rows: Path) -> Recipe:
    """The recipe on these rows alone, in batches no larger than they are many."""
    count = len(np.load(rows, allow_pickle=False))
    return replace(recipe, data=replace(recipe.data, only=str(rows.resolve()), every_class=False, limit=None,
                                        batch_size=min(recipe.data.batch_size, count)))


def _with_action(recipe: Recipe, action: Sequence[float]) -> Recipe:
    return replace(recipe, method={**recipe.method, "features": float(action[0]), "soft": float(action[1])})


@torch.no_grad()
def _look(student: nn.Module, source: Source, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and features [N, D], at norm 1, of these rows as they are, in eval mode."""
    student.eval()
    found = []
    for batch in source.batches(_places(source, ids).split(PART), draw=None):
        assert isinstance(batch.inputs, Tensor), "one view was asked for"
        found.append(read(student, batch.inputs, ["", FEATURES]))
    logits, features = (torch.cat([part[tap] for part in found]).float().cpu() for tap in ("", FEATURES))
    return logits, features


def _write_ids(path: Path, ids: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, ids.numpy(), allow_pickle=False)
    write(path, buffer.getvalue())


def _memory(phases: Phases, number: int) -> Tensor:
    if number == 0:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.load(phases.out / "rows" / f"{number}-memory.npy", allow_pickle=False))


def _of_classes(source: Source, classes: Tensor) -> Tensor:
    return source.ids[torch.isin(source.labels, classes)]


def _places(source: Source, ids: Tensor) -> Tensor:
    order = source.ids.argsort()
    return order[torch.searchsorted(source.ids[order], ids)]


def _labels(source: Source, ids: Tensor) -> Tensor:
    return source.labels[_places(source, ids)]


def _share(right: Tensor) -> float:
    return right.double().mean().item()
