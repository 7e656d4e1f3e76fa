"""The places that are relevant to one class, and how far a student is from a teacher there.

`relevant` are the places of detectors with the same grid. Where the teacher is a two-stage detector, what it says is of
regions that are in the data (`models.torchvision_detectors`): then a region is compared with the place of the student
that is for an object like it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.graph.divergences import binary_kl
from tutelage.models.dense_boxes import ABSENT, LEAD, Places, boxes_of, unpack_places
from tutelage.tasks.detection.assign import assign_by_centre, assign_by_overlap
from tutelage.tasks.detection.rows import Assign, objects_of
from tutelage.types import BatchLabels, Features, PerSample, Rows

LIKELY = 0.0
"""A logit above it is a probability above 0.5."""


@dataclass(frozen=True)
class Relevant:
    """The places of a class: those of its objects, and those where the teacher, the first end, finds it likely.

    `index` is the number of the class; without one, it is the class that the teacher knows.
    """

    name: str
    assign: Assign
    index: int | None = None

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name if self.index is None else f"{self.name}({self.index})"

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """The rows of these ends."""
        parts = {end: unpack_places(value) for end, value in values.items()}
        teacher = next(iter(parts.values()))
        objects = objects_of(labels)
        number = teacher.logits.shape[-1]
        alike = all(part.places.shape == teacher.places.shape for part in parts.values())
        assign = self.assign if alike else assign_by_overlap  # regions are for what they cover
        wanted = assign(teacher.places.detach(), objects.boxes.to(teacher.places), objects.classes, number).classes
        rows = {end: _at(part, teacher).flatten(0, 1) for end, part in parts.items()}
        likely = self._columns(teacher.logits.detach())
        labelled = torch.nn.functional.one_hot(wanted.clamp(min=0), number + 1)[..., :number].bool() & known(likely)
        found = ((likely > LIKELY) | labelled).any(-1).flatten().to(teacher.logits.dtype)
        batch = torch.arange(len(wanted), device=wanted.device)
        return Rows(rows, {"classes": wanted.flatten()}, found, found.sum().clamp(min=1),
                    batch.repeat_interleave(wanted.shape[1]))

    def check(self, values: Mapping[str, Tensor]) -> None:
        """Refuse a teacher of no class, or of several, before a run."""
        end, value = next(iter(values.items()))
        if value.dim() != 3 or value.shape[-1] <= LEAD:
            raise ModelError("an end that says nothing of places", where=f"end {end!r}",
                             found=f"shape {list(value.shape)}", expected=f"[B, places, {LEAD} + classes]")
        count = int(known(unpack_places(value).logits).flatten(0, 1).any(0).sum())
        if self.index is None and count != 1:
            raise ModelError("a teacher of one class is wanted", where=f"end {end!r}", found=f"{count} classes",
                             expected="1 of the data's classes", fix="with a teacher of several classes take method "
                             'distill; write classes = "known" for one that knows fewer than the data')

    def _columns(self, logits: Tensor) -> Tensor:
        """The logits of the class, all others being as of a class that is not known."""
        if self.index is None:
            return logits
        chosen = torch.arange(logits.shape[-1], device=logits.device) == self.index
        return logits.where(chosen, ABSENT)


def known(logits: Tensor) -> Tensor:
    """Whether a network knows the class of a logit."""
    return logits > ABSENT / 2


def one_class(student: Features, teacher: Features, labels: object = None, *, index: int | None = None,
              exclusive: bool = False) -> PerSample:
    """KL of yes and no of one class, teacher || student, in nats [R]: what each says of the others does not count.

    The class is that of column `index`, or the one that the teacher knows. `exclusive` logits are those of a softmax:
    the probability is the softmax's of the class, however it shares the rest.

    >>> logits = torch.tensor([[0.0, 0.0, 1.0]])
    >>> round(one_class(logits, torch.zeros(1, 3), index=2).item(), 6)
    0.120115
    """
    if exclusive:
        student, teacher = _logit_of_share(student), _logit_of_share(teacher)
    if index is not None:
        return binary_kl(student[:, index], teacher[:, index])
    there = known(teacher)
    rows = binary_kl(student.flatten(), teacher.where(there, 0.0).flatten()).view_as(student)
    return (rows * there).sum(-1)


def _logit_of_share(logits: Tensor) -> Tensor:
    """z_k - log sum of exp over the others, of each k: the sigmoid of it is softmax(z)_k."""
    count = logits.shape[-1]
    itself = torch.eye(count, dtype=torch.bool, device=logits.device)
    others = logits[..., None, :].expand(*logits.shape, count).masked_fill(itself, -torch.inf)
    return logits - others.logsumexp(-1)


def _at(part: Places, teacher: Places) -> Tensor:
    """The logits [B, P, K] of a network at the teacher's places: its own, or those that are for objects like them."""
    if part.places.shape == teacher.places.shape:
        return part.logits
    regions = boxes_of(teacher.places, teacher.places.new_full((), 0.5).expand_as(teacher.places))
    nearest = _place_for(part.places.detach(), regions.detach())
    return part.logits.gather(1, nearest[..., None].expand(-1, -1, part.logits.shape[-1]))


def _place_for(places: Tensor, regions: Tensor) -> Tensor:
    """Of each region [B, G, 4] the number [B, G] of the place [B, P, 4] that is for objects like it.

    Of the grid whose range holds half of the region's longer side, the place with the nearest centre.
    """
    centre = (regions[..., :2] + regions[..., 2:]) / 2
    half = (regions[..., 2:] - regions[..., :2]).amax(-1) / 2
    size = places[:, None, :, 2]
    # A grid is for objects whose farthest side is 4 to 8 sizes away: the best size is half of it over 6, in steps of 2.
    unlike = ((half[..., None] / 6).clamp(min=1e-6).log2() - size.log2()).abs()
    best = unlike <= unlike.amin(-1, keepdim=True) + 1e-6
    apart = (places[:, None, :, :2] - centre[:, :, None]).square().sum(-1)
    return apart.where(best, torch.inf).argmin(-1)


relevant = Relevant("relevant", assign_by_centre)
"""A row is a place, or a region; those count that are relevant to the one class that the teacher knows."""
anchor_relevant = Relevant("relevant", assign_by_overlap)
"""The same of anchors."""


def region(index: int) -> Relevant:
    """The places that are relevant to the class of this number."""
    return Relevant("region", assign_by_centre, index)
