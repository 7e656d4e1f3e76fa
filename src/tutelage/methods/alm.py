"""ALM-KD and AMAL, adaptive mixing of losses: Sivasubramanian et al., AAAI 2023, arXiv:2202.03250.

Every training image has its own weights for its label and for each of M frozen teachers. From time to time these are
moved so that a step of the student by them lowers its loss on clean validation images. Rows i of a batch of B:

    L = 1/B sum_i [ l_i,0 CE(z_i, y_i) + sum_m l_i,m T^2 KL(softmax(z_m,i / T) || softmax(z_i / T)) ],   0 <= l <= 2

Looking ahead, only the last layer z = W h + b moves, by one step of plain descent at the learning rate e. For a pool of
training images i with features h_i [D] and g_i,m [C], the gradient for z_i of the m-th loss / B, and images v of V:

    z'_v  = z_v - e sum_i sum_m l_i,m g_i,m (1 + <h_i, h_v>)
    L_val = 1/V sum_v CE(z'_v, y_v)
    l_i,m <- clip(l_i,m - rho dL_val / dl_i,m)
           = clip(l_i,m + rho e < g_i,m, sum_v (1 + <h_i, h_v>) (softmax(z'_v) - onehot(y_v)) / V >)

so many times (`repeats`) for each pool, until all training images have had their turn. Convex, as in the paper's first
version and with one teacher: l_i,0 = 1 - l_i,1 in [0, 1], and g_i,1 - g_i,0 in the place of g_i,1. The gradient of L
reaches the student alone; the weights are no part of L. Equations and defaults are those of the authors' code. That a
pool is seen as this epoch draws it, and validation images as they are, is this project's choice.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.data.source import Source
from tutelage.errors import DataError, UsageError, UserError, placed
from tutelage.graph.controller import Controller, RunView
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.ends import End
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Table, pooled
from tutelage.graph.nodes import Computed, Frozen, Trained
from tutelage.graph.taps import read
from tutelage.system.distributed import gather_uneven
from tutelage.system.random import derive, permutation
from tutelage.types import Labels, Logits, Outputs, one_tensor

MIX = "mix"
LEAST = 1e-7
"""How near a weight comes to 0 and to 2."""


def alm(teachers: Sequence[str], student: str, layer: str, *, temperature: float = 4.0, soft: float = 0.9,
        hard: float | None = None, convex: bool = False, first: int = 10, every: int = 10, repeats: int = 5,
        rho: float = 1500.0, pool: int = 3, validation_batch: int = 1000) -> Graph:
    """The student learns from labels and frozen teachers, in a mixture of each image's own.

    `layer` is the student's layer in front of its classifier. The node `mix` is the table of the weights, which begin
    with `hard` (1 - soft by default) and `soft`. They are refreshed in the epochs `first`, `first` + `every`, ...,
    counted from 0, by pools of `pool` batches and so many validation images at a time.
    """
    if isinstance(teachers, str) or not teachers or len({*teachers, student, MIX}) != len(teachers) + 2:
        raise UsageError("one teacher or more and a student are needed, each named once, and none 'mix'",
                         where="teachers", found=repr(teachers))
    hard = 1 - soft if hard is None else hard
    _check(len(teachers), layer, soft, hard, convex, rho)
    for name, number, least in (("first", first, 0), ("every", every, 1), ("repeats", repeats, 1), ("pool", pool, 1),
                                ("validation_batch", validation_batch, 1)):
        if number < least:
            raise UsageError("a number out of range", where=name, found=number, expected=f"{least} or more")
    edges = [Edge("labels", student, cross_entropy, sample_weight=f"{MIX}.labels")]
    edges += [Edge(teacher, student, kl, temperature=temperature, sample_weight=f"{MIX}.{teacher}")
              for teacher in teachers]
    table = Table({"labels": hard, **dict.fromkeys(teachers, soft)})
    look = LookAhead(teachers, student, layer, temperature, convex, first, every, repeats, rho, pool, validation_batch)
    return Graph({**{teacher: Frozen() for teacher in teachers}, student: Trained(), MIX: Computed(("ids",), table)},
                 edges, {"look_ahead": look})


def _check(teachers: int, layer: str, soft: float, hard: float, convex: bool, rho: float) -> None:
    if not layer:
        raise UsageError("looking ahead needs the student's features", where="layer", found=repr(layer),
                         expected="the name of the layer in front of the classifier")
    if convex and teachers > 1:
        raise UsageError("a convex mixture is one of labels and one teacher", where="teachers", found=teachers,
                         expected="1", fix="convex = false")
    if convex and not math.isclose(hard + soft, 1):
        raise UsageError("a convex mixture sums to 1", where="hard", found=f"hard = {hard}, soft = {soft}",
                         fix="leave hard out")
    for name, weight in (("soft", soft), ("hard", hard)):
        if not 0 <= weight <= (1 if convex else 2):
            raise UsageError("a weight that cannot be", where=name, found=weight,
                             expected="0 .. 1" if convex else "0 .. 2")
    if not 0 <= rho < math.inf:
        raise UsageError("a step that cannot be", where="rho", found=rho, expected="0 or more")


class LookAhead(Controller):
    """Refreshes the table in the first step of an epoch, with effect from the next step on.

    `refreshes` counts; `change` is how far a weight moved in the last one, on average: 0.01 to 0.3 is sound.
    """

    refreshes: Tensor
    change: Tensor

    def __init__(self, teachers: Sequence[str], student: str, layer: str, temperature: float, convex: bool, first: int,
                 every: int, repeats: int, rho: float, pool: int, validation_batch: int) -> None:
        super().__init__()
        self.teachers, self.student, self.layer = tuple(teachers), student, layer
        self.temperature, self.convex, self.repeats, self.rho = temperature, convex, repeats, rho
        self.first, self.every, self.pool, self.validation_batch = first, every, pool, validation_batch
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("change", torch.zeros(()))

    @torch.no_grad()
    def before_losses(self, run: RunView, outputs: Outputs, weights: dict[str, float]) -> None:
        """Try the layer in the very first step; refresh when it is time, after the step's last micro-batch is seen."""
        if run.step == 0 and run.micro == 0:
            self._try(run)
        due = run.epoch >= self.first and (run.epoch - self.first) % self.every == 0
        if due and run.step % run.steps_per_epoch == 0 and run.micro == run.settings.accumulate - 1:
            student = run.models[self.student]
            student.eval()
            self._refresh(run)
            student.train()

    def _try(self, run: RunView) -> None:
        labelled = (run.data.validation.labels >= 0).nonzero()[:, 0]
        if not len(labelled):
            raise DataError("there is nothing to look ahead to", found="no validation image with a label")
        student = run.models[self.student]
        student.eval()
        try:
            (few,) = outputs_on(run, run.data.validation, [labelled[: 2 * run.world.size]], None, self._ends([]))
            pooled(few[f"{self.student}.{self.layer}"])
        except UserError as error:
            raise placed(error, f"node {self.student!r}, layer {self.layer!r}") from None
        student.train()

    def _ends(self, teachers: Sequence[str]) -> dict[str, list[str]]:
        return {self.student: ["", self.layer], **{teacher: [""] for teacher in teachers}}

    def _refresh(self, run: RunView) -> None:
        settings, data, features = run.settings, run.data, f"{self.student}.{self.layer}"
        table = run.graph.parts()[MIX]
        assert isinstance(table, Table)
        assert table.numbers is not None, "the dry pass has made it"
        before, rate = table.numbers.clone(), run.optimizers[self.student].param_groups[0]["lr"]
        labelled = (data.validation.labels >= 0).nonzero()[:, 0]
        labelled = labelled[permutation(derive(settings.seed, "validation", run.step), len(labelled))]
        blocks = [HeldOutOutputs(pooled(seen[features]), seen[self.student], seen["labels"]) for seen in
                  outputs_on(run, data.validation, _split(labelled, self.validation_batch), None, self._ends([]))]
        rows = permutation(derive(settings.seed, "pools", run.step), len(data.train.ids))
        pools = _split(rows, self.pool * settings.batch_size)
        for number, seen in enumerate(outputs_on(run, data.train, pools, run.draw, self._ends(self.teachers))):
            pulls = gradients(seen[self.student], [seen[teacher] for teacher in self.teachers], seen["labels"],
                              self.temperature) / settings.batch_size
            mix, held = table.numbers[seen["ids"]], blocks[number % len(blocks)]
            for _ in range(self.repeats):
                gain = self.rho * gains(mix, pulls, pooled(seen[features]), held, rate)
                mix = moved_mix(mix, gain, self.convex)
            table.numbers[seen["ids"]] = mix
        ids = data.train.ids.to(before.device)
        self.change.copy_((table.numbers[ids] - before[ids]).abs().mean())
        self.refreshes += 1


class HeldOutOutputs(NamedTuple):
    """What the student says of validation images: features [V, D], logits [V, C], and their labels [V]."""

    features: Tensor
    logits: Logits
    labels: Labels


def gradients(student: Logits, teachers: Sequence[Logits], labels: Labels, temperature: float) -> Tensor:
    """The gradients of each row's losses for its logits, [P, 1 + M, C]: of the labels', then of each teacher's."""
    target = labels
    if not labels.is_floating_point():
        target = F.one_hot(labels.clamp(min=0), student.shape[-1]) * (labels >= 0)[:, None]
    found = [target.sum(-1, keepdim=True) * student.softmax(-1) - target]
    p = (student / temperature).softmax(-1)
    found += [temperature * (p - (teacher / temperature).softmax(-1)) for teacher in teachers]
    return torch.stack(found, 1)


def gains(mix: Tensor, pulls: Tensor, features: Tensor, held: HeldOutOutputs, rate: float) -> Tensor:
    """How fast L_val falls with each weight of the mix [P, 1 + M], after a step of the last layer by this mix."""
    near = 1 + features @ held.features.mT
    ahead = held.logits - rate * near.mT @ (mix[..., None] * pulls).sum(1)
    slope = (ahead.softmax(-1) - F.one_hot(held.labels, ahead.shape[-1])) / len(ahead)
    return rate * (pulls * (near @ slope)[:, None]).sum(-1)


def moved_mix(mix: Tensor, gain: Tensor, convex: bool) -> Tensor:
    """The mix, moved and kept within its bounds."""
    if not convex:
        return (mix + gain).clamp(LEAST, 2 - LEAST)
    soft = (mix[:, 1] + gain[:, 1] - gain[:, 0]).clamp(0, 1)
    return torch.stack([1 - soft, soft], 1)


def outputs_on(run: RunView, source: Source, pools: Sequence[Tensor], draw: int | None,
               wanted: Mapping[str, Sequence[str]]) -> Iterator[Outputs]:
    """For each pool of rows what the networks say at the wanted taps, with labels and ids; ranks share the work."""
    world = run.world
    shares = [pool[world.rank :: world.size].split(run.settings.batch_size) for pool in pools]
    batches = source.batches([rows for share in shares for rows in share], draw=draw)
    for pool, share in zip(pools, shares, strict=True):
        found: dict[str, list[Tensor]] = defaultdict(list)
        for batch in islice(batches, len(share)):
            assert isinstance(batch.inputs, Tensor), "one view was asked for"
            images = batch.inputs.to(world.device)
            for node, taps in wanted.items():
                for tap, rows in read(run.models[node], images, taps).items():
                    found[End(node, tap, "").name].append(rows)
            found["labels"].append(one_tensor(batch.labels).to(world.device))
            found["ids"].append(batch.ids.to(world.device))
        yield {end: gather_uneven(torch.cat(rows), len(pool), world) for end, rows in found.items()}


def _split(rows: Tensor, size: int) -> Sequence[Tensor]:
    """The rows in pieces of about equal length, none longer than `size`."""
    return rows.tensor_split(math.ceil(len(rows) / size))
