"""A task of your own: where are two points in an image? A row is a point, and one that nobody marked counts nothing."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from tutelage import train
from tutelage.data import Data
from tutelage.methods.dual_student import dual_student
from tutelage.methods.scratch import scratch
from tutelage.tasks.task import Judge, Score, Task, Term
from tutelage.types import Batch, Rows


@dataclass(frozen=True)
class Points:  # [B, 2 points, 2 numbers] of each end and of the labels -> 2 B rows
    def __call__(self, ends, labels):
        marked = (labels >= 0).all(-1).flatten()
        return Rows({end: x.flatten(0, 1) for end, x in ends.items()}, labels.flatten(0, 1), counts=marked.float())

    def total(self, labels):  # so that a step may have several micro-batches
        return (labels >= 0).all(-1).sum()


def distance(student, teacher, labels):  # one number a row
    return (student - teacher).square().sum(-1)


def measure(taps, labels, ids):  # what is kept of each image
    return {"far": (taps[""] - labels).norm(dim=-1).where((labels >= 0).all(-1), torch.nan)}


POINTS = Task("points", (Score("error", "mean error", "number", better="lower"),), check=lambda data: None,
              judge=lambda data: Judge(measure, lambda kept: {"error": kept["far"].nanmean().item()}),
              learn=(Term(distance, rows=Points()),), imitate=(Term(distance, rows=Points()),))


class Dots:  # a source: images with two dots; the second is marked in every other image alone
    def __init__(self, ids):
        self.ids, self.labels = ids, torch.zeros_like(ids)  # 0: there is a label, which is no class

    def batches(self, plan, *, draw, views=("",)):
        for ids in (self.ids[rows] for rows in plan):
            at = torch.stack([ids * 7 % 8, ids * 3 % 8, ids * 5 % 8, ids // 8 % 8], 1).view(-1, 2, 2)
            images, places = torch.zeros(len(ids), 2, 8, 8), at / 8
            images[torch.arange(len(ids))[:, None], torch.arange(2), at[..., 0], at[..., 1]] = 1.0
            places[ids % 2 == 1, 1] = -1
            yield Batch(images, places, ids)


def network(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(128, width), nn.ReLU(), nn.Linear(width, 4), nn.Unflatten(1, (2, 2)))


data = Data("dots", (), (2, 8, 8), Dots(torch.arange(448)), Dots(torch.arange(448, 512)), None, {}, "dots", task=POINTS)
nets, adam = {"teacher": network(64), "a": network(8), "b": network(16)}, partial(torch.optim.Adam, lr=0.01)
for graph in (scratch("teacher", task=POINTS), dual_student("teacher", ["a", "b"], task=POINTS)):
    print(*train(graph, nets, data, epochs=8, optimizer=adam, batch_size=32), sep="\n")
