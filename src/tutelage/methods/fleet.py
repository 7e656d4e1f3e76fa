"""Devices that each learn from images of their own, and seldom hear each other, after Sun et al. (2024).

Cooperative distillation of tiny networks at the mobile edge, simulated in one process. Device k has rows X_k that
nobody else sees, and all have public rows P without labels. Every `every` steps each device sends what its network says
of P; a message is lost with the probability `drop`, and then the others go on with the last that came. With l(k) the
network of device l as of its last message, M devices, and a ground teacher where there is one:

    L_k = CE(z_k, y) over X_k + soft * D_T(teacher -> k) over P
        + peer / (M - 1) * sum over the l != k that were ever heard of D_T_p(l(k) -> k) over P

A device that was never heard teaches nobody, so that with drop = 1 each is alone. What a device would look up in the
message of another is worked out here by that network as it was, a node NAME_heard. The ground teacher is heard in every
step, and what it sends is not counted. Which messages are lost is a function of (seed, device, exchange). No more than
the title of the paper was at hand: all of this is our choice.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.graph.controller import Controller, RunView
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen, Kind, Trained
from tutelage.methods.peer_cohort import check_cohort
from tutelage.system.edge_devices import Device, RadioLink, arrivals, costs_of, flops_of_row
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import Batch, BatchLabels, Outputs, Rows, one_tensor, plain_view

HEARD = "_heard"
BYTES_OF_NUMBER = 2
"""A message is logits of the public rows, as float16."""
TRAINING = 3
"""A training step costs a forward pass and, about twice that, a backward one."""


def _of_classes(task: Task) -> bool:
    return task.name == CLASSIFICATION.name


FOR = _of_classes
"""Which tasks the method is for: classification alone, for shards are dealt out by classes."""


def fleet(students: Sequence[str], teacher: str | None = None, *, every: int = 20, drop: float = 0.0,
          soft: float = 1.0, temperature: float = 2.0, peer: float = 1.0, peer_temperature: float = 2.0,
          flops_per_second: float = 1e9, flops_per_joule: float = 1e9, transmit_watts: float = 0.5,
          bits_per_second: float = 2e6, latency: float = 0.02, task: Task = CLASSIFICATION) -> Graph:
    """Students on devices of their own, in the order of the shards; `[data] shards` deals these out.

    `every` is in steps, `drop` in [0, 1]. What a device computes and sends is counted by `flops_per_second` and
    `flops_per_joule` of its processor, `transmit_watts` of its radio, and `bits_per_second` and `latency` [s] of its
    link.
    """
    heard = {student: student + HEARD for student in students}
    check_cohort(teacher or "", students, reserved=list(heard.values()))
    if every < 1:
        raise UsageError("not a number of steps", where="every", found=every, expected="1 or more")
    if not 0 <= drop <= 1:
        raise UsageError("a share that cannot be", where="drop", found=drop, expected="0 .. 1")
    device, link = Device(flops_per_second, flops_per_joule, transmit_watts), RadioLink(bits_per_second, latency, drop)
    edges = [Edge(f"labels.shard{place}", f"{student}@shard{place}", cross_entropy, rows=own)
             for place, student in enumerate(students)]
    nodes: dict[str, Kind] = {**({teacher: Frozen()} if teacher else {}), **dict.fromkeys(students, Trained())}
    if teacher:
        edges += [Edge(teacher, f"{student}@shard{place}", kl, soft, temperature, rows=public)
                  for place, student in enumerate(students)]
    if len(students) > 1 and peer:
        nodes |= {heard[student]: Ema(student, decay=0.0, every=0) for student in students}
        edges += [Edge(heard[other], f"{student}@shard{place}", kl, peer / (len(students) - 1), peer_temperature,
                       rows=public)
                  for place, student in enumerate(students) for other in students if other != student]
    return Graph(nodes, edges, {"fleet": Fleet(students, every, device, link)})


def own(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    """The first half of each device's rows [2 B, ...]: its own."""
    return Rows({end: x[: len(x) // 2] for end, x in values.items()}, _half(labels, first=True))


def public(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    """The second half of each device's rows [2 B, ...]; of what was shown the public rows [B, ...] alone, all."""
    return Rows({end: x[len(x) // 2 :] if parse_end(end).view else x for end, x in values.items()},
                _half(labels, first=False))


def _half(labels: BatchLabels, *, first: bool) -> BatchLabels:
    assert isinstance(labels, Mapping), "the rows of a fleet have labels by device"
    return {name: x[: len(x) // 2] if first else x[len(x) // 2 :] for name, x in labels.items()}


class Fleet(Controller):
    """Hands on what the devices said, over links that fail, and counts what it costs. It has no state.

    All is a function of (seed, step), and so is the same after a resume.
    """

    def __init__(self, students: Sequence[str], every: int, device: Device, link: RadioLink) -> None:
        super().__init__()
        self.students, self.every, self.device, self.link = tuple(students), every, device, link
        self.flops: list[int] = []

    def before_forward(self, run: RunView, batch: Batch) -> Batch:
        """In a step of exchange, bring what arrives: the weights of its sender as they are now."""
        exchange, wait = divmod(run.step, self.every)
        for place, student in enumerate(self.students if not wait and not run.micro else ()):
            copy = run.models.get(student + HEARD)
            if copy is not None and bool(arrivals(run.settings.seed, place, exchange + 1, self.link.drop)[-1]):
                with torch.no_grad():
                    for mine, theirs in zip(_tensors(copy), _tensors(run.models[student]), strict=True):
                        mine.copy_(theirs)
        return batch

    def before_losses(self, run: RunView, outputs: Outputs, weights: dict[str, float]) -> None:
        """Who was never heard says nothing."""
        exchanges = run.step // self.every + 1
        silent = {student + HEARD for place, student in enumerate(self.students)
                  if not bool(arrivals(run.settings.seed, place, exchanges, self.link.drop).any())}
        for edge in run.graph.edges if silent else ():
            if parse_end(edge.teacher).node in silent:
                weights[edge.name] = 0.0

    def facts(self, run: RunView) -> dict[str, object]:
        """Device -> what it has cost so far."""
        if not self.flops:
            (few,) = run.data.train.batches([torch.arange(1)], draw=None)
            images = one_tensor(plain_view(few.inputs)).to(run.world.device)
            self.flops = [flops_of_row(run.models[student], images) for student in self.students]
        talks = any(student + HEARD in run.models for student in self.students)
        exchanges = -(-run.step // self.every) if talks else 0
        message = len(run.data.train.ids) * len(run.data.classes) * BYTES_OF_NUMBER
        rows = 2 * run.settings.batch_size * run.step
        return {student: costs_of(self.device, self.link, TRAINING * self.flops[place] * rows, message,
                                  arrivals(run.settings.seed, place, exchanges, self.link.drop))._asdict()
                for place, student in enumerate(self.students)}


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
