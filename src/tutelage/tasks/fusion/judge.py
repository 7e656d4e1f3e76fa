"""How networks that fuse are judged: by six numbers that need no true image, and by how near they are to a teacher."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tutelage.data.pair_source import PairSource
from tutelage.data.source import Data
from tutelage.errors import DataError
from tutelage.graph.image_maps import structural_similarity
from tutelage.tasks.fusion import metrics
from tutelage.tasks.fusion.rows import sources_of
from tutelage.tasks.fusion.strips import draw_strips
from tutelage.tasks.task import Evidence, Judge, Score
from tutelage.types import BatchLabels

SCORES = (
    Score("qabf", "Qabf"),
    Score("ssim", "SSIM", "number"),
    Score("mi", "MI", "number"),
    Score("en", "EN", "number"),
    Score("sd", "SD", "number"),
    Score("vif", "VIF", "number", each_epoch=False),
    Score("teacher_psnr", "PSNR to the teacher", "number", each_epoch=False),
    Score("teacher_ssim", "SSIM to the teacher", "number", each_epoch=False),
)
OF_EPOCHS = ("qabf", "ssim", "mi", "en", "sd")
"""The evidence of each image that is kept after every epoch; an evaluation has "vif" too."""
AT_ONCE = 8
"""Images whose numbers are worked out together."""


def judge_of_epochs(data: Data) -> Judge:
    """The judge of fused images after an epoch; its evidence is a number of each image for each score, and "group"."""
    return Judge(partial(_measure, False), partial(_summary, _groups_of(data)), by_sample=_by_image)


def judge_of_fusion(data: Data) -> Judge:
    """The judge of an evaluation, which has VIF too, "image" [N, 1, H, W] uint8, and compares with a teacher."""
    return Judge(partial(_measure, True), partial(_summary, _groups_of(data)), _agreement, by_sample=_by_image,
                 to_teacher=_to_teacher, passing=("image",), strips=draw_strips)


def _groups_of(data: Data) -> tuple[str, ...]:
    return data.train.groups if isinstance(data.train, PairSource) else ("",)


def _measure(whole: bool, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    images, sources = taps[""], sources_of(labels)
    if images.dim() != 4 or images.shape[1] != 1 or images.shape[2:] != sources.shape[2:]:
        return None
    images = images.clamp(0, 1)
    parts = [_numbers(image, source, whole)
             for image, source in zip(images.split(AT_ONCE), sources.split(AT_ONCE), strict=True)]
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    group = labels.get("group") if isinstance(labels, Mapping) else None
    found["group"] = torch.zeros_like(ids) if group is None else group
    return {**found, "image": metrics.levels_of(images).to(torch.uint8)} if whole else found


def _numbers(images: Tensor, sources: Tensor, whole: bool) -> Evidence:
    levels, theirs = metrics.levels_of(images), metrics.levels_of(sources)
    found = {"qabf": metrics.edges_kept(images, sources), "ssim": metrics.similarity_to_sources(images, sources),
             "mi": metrics.shared_information(levels, theirs), "en": metrics.level_entropy(levels),
             "sd": metrics.level_deviation(levels)}
    return {**found, "vif": metrics.fidelity_to_sources(images, sources)} if whole else found


def _summary(groups: tuple[str, ...], evidence: Evidence) -> dict[str, Any]:
    keys = [key for key in (*OF_EPOCHS, "vif") if key in evidence]
    if not len(evidence["qabf"]):
        raise DataError("there is nothing to evaluate on", found="no pair of images")
    found: dict[str, Any] = {key: evidence[key].double().nanmean().item() for key in keys}
    apart = [number for number in range(len(groups)) if bool((evidence["group"] == number).any())]
    if len(apart) > 1:
        found["by_set"] = {"names": [groups[number] or "others" for number in apart],
                           "count": [int((evidence["group"] == number).sum()) for number in apart],
                           **{key: [_mean(evidence[key][evidence["group"] == number]) for number in apart]
                              for key in keys}}
    return found


def _mean(values: Tensor) -> float | None:
    mean = values.double().nanmean().item()
    return None if mean != mean else mean


def _by_image(evidence: Evidence) -> Tensor:
    return evidence["qabf"]


def _to_teacher(own: Evidence, teacher: Evidence) -> dict[str, float]:
    """How near the images of a network are to a teacher's."""
    return {"teacher_psnr": metrics.psnr_of(own["image"], teacher["image"]), "teacher_ssim": _similar(own, teacher)}


def _agreement(one: Evidence, other: Evidence) -> float:
    return max(0.0, _similar(one, other))


def _similar(one: Evidence, other: Evidence) -> float:
    parts = zip(one["image"].split(AT_ONCE), other["image"].split(AT_ONCE), strict=True)
    return torch.cat([structural_similarity(a.float() / 255, b.float() / 255) for a, b in parts]).mean().item()
