"""What the rows of a detector are: its places, of which `classes`, `boxes` and `centres` each compare a part.

What a network says is `models.dense_boxes`: [B, P, 9 + K]. Labels are {"boxes": [B, M, 4], "classes": [B, M]}. All
networks of a graph have the same places, so that row by row they speak of the same thing. What is summed over the
places of a batch is divided by how many of them are to find an object, or by 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.data.box_augment import UNKNOWN
from tutelage.errors import ModelError
from tutelage.models.dense_boxes import LEAD, NO_CENTRE, Places, unpack_places
from tutelage.tasks.detection.assign import Assigned, assign_by_centre, assign_by_overlap, centreness
from tutelage.types import BatchLabels, Rows

Assign = Callable[[Tensor, Tensor, Tensor, int], Assigned]
"""(places [B, P, 4], boxes [B, M, 4], classes [B, M], number of classes) -> what each place is to say."""


class Objects(NamedTuple):
    """The labels of a batch: boxes [B, M, 4] in pixels and class numbers [B, M], -1 for padding.

    Of an image of which nothing is known all classes are UNKNOWN.
    """

    boxes: Tensor
    classes: Tensor


class _Seen(NamedTuple):
    """Every end in its parts, by places; what these are to say; and which sample each row is of."""

    parts: Mapping[str, Places]
    wanted: Assigned
    sample: Tensor


@dataclass(frozen=True)
class PlaceRows:
    """A function of rows over the places of detectors: `part` says what of a place is compared."""

    name: str
    part: Callable[[_Seen], Rows]
    assign: Assign

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """The rows of these ends."""
        parts = {end: unpack_places(_packed(end, value)) for end, value in values.items()}
        _require_alike(values)
        objects = objects_of(labels)
        end = next(reversed(parts))
        places, count = parts[end].places.detach(), values[end].shape[-1] - LEAD
        wanted = self.assign(places, objects.boxes.to(places), objects.classes, count)
        unknown = (objects.classes == UNKNOWN).any(1, keepdim=True)
        wanted = wanted._replace(classes=wanted.classes.masked_fill(unknown, -1))
        batch = torch.arange(len(places), device=places.device)
        return self.part(_Seen(parts, wanted, batch.repeat_interleave(places.shape[1])))

    def check(self, values: Mapping[str, Tensor]) -> None:
        """Refuse networks whose places are not the same. It looks at numbers: for the start of a run."""
        grids = {end: unpack_places(_packed(end, value)).places for end, value in values.items()}
        (first, places), *others = grids.items()
        for end, other in others:
            if places.shape != other.shape or bool(((places - other).abs() > 1e-3).any()):
                raise _unlike({first: places, end: other})


def objects_of(labels: BatchLabels) -> Objects:
    """The labels of a batch as boxes and classes; ModelError if they are none."""
    if isinstance(labels, Tensor) or not {"boxes", "classes"} <= labels.keys():
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else f"{sorted(labels)}"
        raise ModelError("labels that are no boxes", where="labels", found=found,
                         expected='"boxes" [B, M, 4] and "classes" [B, M], -1 where there is no object')
    return Objects(labels["boxes"], labels["classes"].long())


def _classes(seen: _Seen) -> Rows:
    values = {end: parts.logits.flatten(0, 1) for end, parts in seen.parts.items()}
    labels, found = seen.wanted.classes.flatten(), _found(seen)
    # Without a label a place costs nothing on an edge from labels, and is heard from another network all the same.
    return Rows(values, {"classes": labels}, torch.ones_like(found), _at_least_one(found), seen.sample)


def _boxes(seen: _Seen) -> Rows:
    values = {end: parts.distances.flatten(0, 1) for end, parts in seen.parts.items()}
    found = _found(seen)
    return Rows(values, {"boxes": seen.wanted.boxes.flatten(0, 1).to(found.dtype)}, found, _at_least_one(found),
                seen.sample)


def _centres(seen: _Seen) -> Rows:
    values = {end: parts.centres.flatten() for end, parts in seen.parts.items()}
    found = _found(seen)
    for centres in values.values():  # a network may not say how central a place is
        found = found * (centres.detach() < NO_CENTRE)
    wanted = centreness(seen.wanted.boxes.flatten(0, 1)).to(found.dtype)
    return Rows(values, {"centres": wanted}, found, _at_least_one(found), seen.sample)


def _found(seen: _Seen) -> Tensor:
    """1 for a place that is to find an object, else 0."""
    logits = next(iter(seen.parts.values())).logits
    labels = seen.wanted.classes.flatten()
    return ((labels >= 0) & (labels < logits.shape[-1])).to(logits.dtype)


def _at_least_one(found: Tensor) -> Tensor:
    return found.sum().clamp(min=1)


def _packed(end: str, value: Tensor) -> Tensor:
    if value.dim() != 3 or value.shape[-1] <= LEAD:
        raise ModelError("an end that says nothing of places", where=f"end {end!r}", found=f"shape {list(value.shape)}",
                         expected=f"[B, places, {LEAD} + classes], see tutelage.models.dense_boxes",
                         fix="take a detector, such as tiny_fcos or torchvision:fcos_resnet50_fpn")
    return value


def _require_alike(values: Mapping[str, Tensor]) -> None:
    (first, one), *others = values.items()
    for end, other in others:
        if one.shape[1] != other.shape[1]:
            raise _unlike({name: unpack_places(value.detach()).places for name, value in ((first, one), (end, other))})
        if one.shape[-1] != other.shape[-1]:
            raise ModelError("detectors with unlike numbers of classes",
                             found=", ".join(f"{name}: {value.shape[-1] - LEAD}"
                                             for name, value in ((first, one), (end, other))),
                             expected="the same classes", fix='write classes = "by-name" for a teacher that knows more')


def _unlike(grids: Mapping[str, Tensor]) -> ModelError:
    return ModelError("detectors with unlike grids: their places are not the same",
                      found="; ".join(f"{name}: {_grid(places)}" for name, places in grids.items()),
                      expected="the same strides, and the same first place",
                      fix="give both networks the same strides (options), or take a teacher of the students' kind")


def _grid(places: Tensor) -> str:
    sizes = sorted({round(float(size), 2) for size in places[0, :, 2].unique()})
    shown = ", ".join(f"{size:g}" for size in sizes[:8]) + (", ..." if len(sizes) > 8 else "")
    x, y = places[0, 0, :2].tolist()
    return f"{places.shape[1]} places of sizes {shown}, the first at ({x:g}, {y:g})"


classes = PlaceRows("classes", _classes, assign_by_centre)
"""A row is a place: its logits [R, K], R = B P, and the class that it is to find, K for none, -1 where that is open."""
boxes = PlaceRows("boxes", _boxes, assign_by_centre)
"""A row is a place: the distances [R, 4] to the sides of its box. Only places that are to find an object count."""
centres = PlaceRows("centres", _centres, assign_by_centre)
"""A row is a place: the logit [R] of how central it is. Only places that are to find an object count."""
anchor_classes = PlaceRows("anchor_classes", _classes, assign_by_overlap)
"""`classes` of anchors, which find what they cover. It is open what one finds that covers nearly half of an object."""
anchor_boxes = PlaceRows("anchor_boxes", _boxes, assign_by_overlap)
"""`boxes` of anchors."""
