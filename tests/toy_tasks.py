"""Toy tasks: maps of logits, compared pixel by pixel; numbers alone; and points with both, whose labels have names."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task, Term
from tutelage.types import BatchLabels, Rows


def pixels(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    """Maps [B, K, h, w] and masks [B, h, w] -> a row a pixel; those with the label -1 do not count."""
    rows = {end: maps.permute(0, 2, 3, 1).flatten(0, 2) for end, maps in values.items()}
    of = torch.arange(len(labels))[:, None].expand(-1, labels[0].numel()).flatten()
    return Rows(rows, labels.flatten(), (labels.flatten() >= 0).to(torch.float64), sample=of)


def channels(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    """Maps [B, K, h, w] -> a row a channel [B K, h w]."""
    rows = {end: maps.flatten(2).flatten(0, 1) for end, maps in values.items()}
    return Rows(rows, torch.full((len(next(iter(rows.values()))),), -1))


def points(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    """Ends [B, P, ...] and labels [B, P, ...] by name -> a row a point; those of the class -1 do not count."""
    flat = {name: each.flatten(0, 1) for name, each in labels.items()}
    return Rows({end: each.flatten(0, 1) for end, each in values.items()}, flat, (flat["kind"] >= 0).to(torch.float64))


def distance(student: Tensor, teacher: Tensor, labels: object = None) -> Tensor:
    """Mean absolute difference: [R]. It reads labels and networks alike."""
    return (student - teacher).abs().flatten(1).mean(-1)


def height_loss(student: Tensor, teacher: Tensor, labels: object = None) -> Tensor:
    """Squared difference of one number a row: [R]."""
    return (student - teacher).square().flatten(1).sum(-1)


def toy(name: str, learn: list[Term], imitate: list[Term], **more) -> Task:
    """A task that is classification but for its name and what is learned."""
    return replace(CLASSIFICATION, name=name, learn=tuple(learn), imitate=tuple(imitate), classifies=False, **more)


PIXELS = toy("toy_pixels", [Term(cross_entropy, rows=pixels, soft=True)], [Term(kl, rows=pixels, soft=True)],
             rows=(pixels, channels), places=pixels)
NUMBERS = toy("toy_numbers", [Term(distance, "place", "place"), Term(height_loss, "height", "height", weight=0.5)],
              [Term(distance, "place"), Term(height_loss, "height", weight=0.5)])
POINTS = toy("toy_points", [Term(cross_entropy, "kind", "kind", points, soft=True),
                            Term(distance, "box", "box", points, weight=2.0)],
             [Term(kl, "kind", rows=points, soft=True), Term(distance, "box", rows=points, weight=2.0)], rows=(points,))
