"""Runs of one recipe that differ in their seed alone belong together: their spread is what the seed does."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.reporting.formatting import spread
from tutelage.reporting.graph_model import Diagram
from tutelage.reporting.run_folder import RunRecord
from tutelage.reporting.schema import SPLITS, Cost, EvaluationRecord, cost_record, evaluations_of
from tutelage.tasks.task import Score

VALIDATION = "validation, end of training"
"""Where a score comes from if no `tutelage evaluate` was run."""


@dataclass(frozen=True)
class Member:
    """One run with what was measured on it."""

    run: RunRecord
    name: str
    evaluations: Mapping[str, EvaluationRecord]
    cost: Cost | None


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, or of one method of a study."""

    name: str
    members: Sequence[Member]

    @property
    def diagram(self) -> Diagram:
        """The graph that they share."""
        return self.members[0].run.diagram

    @property
    def measured(self) -> str:
        """The split that the accuracies of this group are of: the most telling one that all its runs have."""
        for split in SPLITS:
            if all(split in member.evaluations for member in self.members):
                return split
        return VALIDATION

    @property
    def judged_by(self) -> tuple[Score, ...]:
        """The scores of the task, the first in front."""
        if self.measured == VALIDATION:
            return self.members[0].run.judged_by
        return self.members[0].evaluations[self.measured].judged_by

    def nodes(self) -> list[str]:
        """Every node with a score, those of the graph first."""
        first = [node.name for node in self.diagram.nodes]
        scored = [node for member in self.members for node in self.scores(member)]
        return [name for name in dict.fromkeys([*first, *scored]) if name in scored]

    def scores(self, member: Member) -> Mapping[str, Mapping[str, Any]]:
        """Node -> scores of one run, on the split that `measured` says."""
        if self.measured == VALIDATION:
            return member.run.scores
        return member.evaluations[self.measured].metrics["nodes"]

    def values(self, node: str, metric: str) -> list[float | None]:
        """One number of each run; None where a run does not have it."""
        return [self.scores(member).get(node, {}).get(metric) for member in self.members]

    def mean(self, node: str, metric: str) -> tuple[float | None, float | None]:
        """Mean and standard deviation over the runs."""
        return spread(self.values(node, metric))

    @property
    def first(self) -> Member:
        """The run whose details are shown."""
        return next((member for member in self.members if self.measured in member.evaluations), self.members[0])


def member_of(run: RunRecord, name: str = "") -> Member:
    """A run with its evaluations and its cost."""
    return Member(run, name or run.folder.name or str(run.folder), evaluations_of(run.folder), cost_record(run.folder))


def group_runs(members: Sequence[Member]) -> list[Group]:
    """The runs by recipe, in the order given; a group of several is named by what its folders' names share."""
    by_recipe: dict[str, list[Member]] = {}
    for member in members:
        by_recipe.setdefault(_without_seed(member.run.config), []).append(member)
    groups = []
    for together in by_recipe.values():
        name = together[0].name
        if len(together) > 1:
            name = _shared([member.name for member in together]) or name
        groups.append(Group(name, together))
    return groups


def distinct(groups: Sequence[Group]) -> list[Group]:
    """The same groups, no two of one name."""
    named: dict[str, Group] = {}
    for group in groups:
        name = group.name
        while name in named:
            name += "′"
        named[name] = Group(name, group.members)
    return list(named.values())


def network_of(run: RunRecord, node: str) -> str | None:
    """What a network is and for which data, as a recipe says it, without its weights; None where none does."""
    tables = tomllib.loads(run.config)
    network = tables.get("models", {}).get(node)
    if not isinstance(network, dict) or "data" not in tables:
        return None
    network = {key: value for key, value in network.items() if key not in ("weights", "pretrained")}
    return json.dumps([network, tables["data"]], sort_keys=True, default=str)


def _shared(names: Sequence[str]) -> str:
    """What the names begin with, up to the number that tells them apart."""
    alike = next((i for i, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1),
                 min(map(len, names)))
    return names[0][:alike].rstrip("-_. 0123456789")


def _without_seed(config: str) -> str:
    """A recipe without what a study changes from run to run: the seed, and the teacher's file of that seed."""
    tables = tomllib.loads(config)
    if "python" in tables:
        tables["python"].pop("seed", None)
    if isinstance(tables.get("train"), dict):
        tables["train"].pop("seed", None)
    for table in tables.get("models", {}).values():
        table.pop("weights", None)
    return json.dumps(tables, sort_keys=True, default=str)
