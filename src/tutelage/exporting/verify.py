"""The bytes of an export, run again in a clean process on held-out data, and held against the network itself."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import tutelage
from tutelage.data.images import as_image, as_tensor, prepare_image
from tutelage.data.source import Source
from tutelage.data.splits import first
from tutelage.data.text_preparation import TextPreparation
from tutelage.errors import DataError, ModelError
from tutelage.exporting.module import Choice, Student, about, input_names, said_of
from tutelage.exporting.text import given_to_file, shortened_text, view_for
from tutelage.models.dense_boxes import LEAD
from tutelage.system import files
from tutelage.tasks.classification import metrics
from tutelage.tasks.classification.skill import mark_of
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.detection.judge import truth_of
from tutelage.tasks.detection.predicted import detections_of
from tutelage.tasks.forecast.metrics import affinity, mae
from tutelage.tasks.forecast.rows import gaussians_of
from tutelage.tasks.segmentation.metrics import count_pixels, mask_scores
from tutelage.tasks.segmentation.task import first_class
from tutelage.tasks.series import SERIES
from tutelage.tasks.text.rows import tags_of
from tutelage.types import BatchLabels, View, one_tensor, plain_view, rows_in

IMAGES = 500
FEW = 32
"""All images run in batches of 7; so many of them also alone and in pairs."""
SIZES = (1, 2, 7)
BOUND = 1e-4
RESIZED_BOUND = 2e-2
"""Largest difference of a logit, relative to the largest logit (or 1). A resize may move a pixel by 1 level of 255."""
AGREEMENT = 0.98
ACCURACY_LOST = 0.01
"""Of 8-bit numbers: images whose class must stay, and by how much accuracy may fall (by one image at least)."""
INT8_ALONE = 2e-2
"""As `BOUND`, of 8-bit numbers: by how much a logit of an image may change with what is beside it in the batch."""
AGREED, RESIZED_AGREED = 0.999, 0.98
"""Of pixels, and of series at each of two lengths: the share whose class must stay, or all but one of them."""
LARGEST_ANSWER = 2**27
"""Logits of all maps together: of larger maps fewer images are run, but `FEW`."""
PIXELS_A_PLACE = 48
"""Of strides of 8, 16 and 32 pixels."""
_SIZES = ((1.3, 0, 7), (2.0, 5, 0), (1.0, 0, 0), (3.1, 0, 20))
"""How much larger, and how many pixels more above and below, left and right."""


@dataclass(frozen=True)
class Trial:
    """A batch: of how many images (the last may have fewer), what the file is given, and what the network says.

    `shortened` series are cut to half their length.
    """

    size: int
    given: View
    wanted: Tensor
    shortened: bool = False


def plain_images(source: Source, rows: Tensor) -> tuple[View, Tensor]:
    """The prepared images [N, C, H, W] in [0, 1] of these rows, or their series, not augmented; and their labels.

    Labels that are boxes are [N, M, 5]: left, top, right, lower, class.
    """
    if not len(rows):
        raise DataError("there is no image to run the file on", fix="--on another split")
    batches = list(source.batches(rows.split(64), draw=None))
    views = [plain_view(batch.inputs) for batch in batches]
    parts = [{"": view} if isinstance(view, Tensor) else view for view in views]
    whole = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
    if whole.keys() == {"images", "fused"}:  # what a folder of fused images brings is no network's input
        whole = {"": whole["images"]}
    labels = [_labels_of(batch.labels) for batch in batches]
    return whole.get("", whole), torch.cat(labels).cpu()


def _labels_of(labels: BatchLabels) -> Tensor:
    if isinstance(labels, Mapping) and "sources" in labels:  # a pair of images has no label beside itself
        return torch.full((len(labels["sources"]),), -1)
    if isinstance(labels, Mapping) and "target" in labels:
        return labels["target"]
    if isinstance(labels, Mapping):
        return truth_of(labels) if "boxes" in labels else tags_of(labels)[0]
    return one_tensor(labels)


def most_images(student: Student) -> int:
    """On how many images the file is run: fewer, where maps of logits are large, or places are many."""
    if student.detects:
        height, width = student.images.size
        columns = LEAD + len(student.classes)
        return max(FEW, min(IMAGES, PIXELS_A_PLACE * LARGEST_ANSWER // (height * width * columns)))
    if student.fuses:
        height, width = student.images.size
        return max(FEW, min(IMAGES, LARGEST_ANSWER // (8 * height * width)))
    if student.map_size is None:
        return IMAGES
    height, width = student.map_size
    return max(FEW, min(IMAGES, LARGEST_ANSWER // (height * width * len(student.classes))))


def chosen_rows(source: Source, limit: int) -> Tensor:
    """So many rows of a split, the same every time."""
    return first(source.ids, limit)


@torch.no_grad()
def trials(student: Student, images: View, choice: Choice) -> list[Trial]:
    """What the file is asked; for a file that resizes, the images as if they had come in other sizes.

    Series are asked at half their length too.
    """
    made = []
    for size in SIZES:
        rows = torch.arange(rows_in(images) if size == SIZES[-1] else min(FEW, rows_in(images)))
        for number, part in enumerate(rows.split(size)):
            seen = _rows_of(images, part)
            named = student.task == SERIES.name or student.forecasts or _is_text(student)
            given = named_inputs(student, seen) if named else seen
            if choice.resize:
                given, seen = _as_they_came(one_tensor(seen), student, number)
            wanted = said_of(student.network, seen, student.map_size)
            if student.detects:
                wanted = detections_of(wanted, student.images.size)
            if student.forecasts:
                wanted = gaussians_of(wanted, len(student.classes))
            made.append(Trial(size, given, wanted))
    if student.fuses:  # images of another size too
        height, width = student.images.size
        for part in torch.arange(min(FEW, rows_in(images))).split(SIZES[-1]):
            seen = one_tensor(_rows_of(images, part))[..., :max(1, height - 3), :max(1, width // 2 + 1)].contiguous()
            made.append(Trial(SIZES[-1], seen, said_of(student.network, seen, None), shortened=True))
    if student.task == SERIES.name:
        for part in torch.arange(rows_in(images)).split(SIZES[-1]):
            half = {name: tensor[..., :max(1, tensor.shape[-1] // 2)] for name, tensor in
                    named_inputs(student, _rows_of(images, part)).items()}
            seen = half if len(half) > 1 else half["values"]
            made.append(Trial(SIZES[-1], seen, said_of(student.network, seen, None), shortened=True))
    if _is_text(student):
        for part in torch.arange(rows_in(images)).split(SIZES[-1]):
            half = shortened_text(named_inputs(student, _rows_of(images, part)))
            made.append(Trial(SIZES[-1], half, said_of(student.network, view_for(student.network, half), None),
                              shortened=True))
    return made


def _is_text(student: Student) -> bool:
    return isinstance(student.prepared, TextPreparation)


def named_inputs(student: Student, view: View) -> dict[str, Tensor]:
    """The tensors of a view by the names that the file has for them."""
    if _is_text(student) and isinstance(view, Mapping):
        return given_to_file(student.network, view)
    return dict(view) if isinstance(view, Mapping) else {input_names(student)[0]: view}


def _by_name(given: View) -> Mapping[str, Tensor]:
    return {"images": given} if isinstance(given, Tensor) else given


def _rows_of(view: View, rows: Tensor) -> View:
    return view[rows] if isinstance(view, Tensor) else {name: tensor[rows] for name, tensor in view.items()}


def _as_they_came(images: Tensor, student: Student, number: int) -> tuple[Tensor, Tensor]:
    """The images larger and with more around them, of other proportions, and what training's `prepare` makes of those.

    What is added lies outside of what `prepare` takes out, so that each is still the picture that it was.
    """
    how = student.images
    factor, above, beside = _SIZES[number % len(_SIZES)]
    tall, wide = (round(factor * side) for side in how.size)
    over, aside = (round(side * (whole / cut - 1) / 2)
                   for side, whole, cut in zip((tall, wide), how.covers, how.size, strict=True))
    inner = tuple(slice(how.pad, how.pad + side) for side in how.size)

    def larger(channel: Tensor) -> Tensor:
        small = as_image((channel[inner] * 255).round().to(torch.uint8)[None])
        return as_tensor(small.resize((wide, tall), Image.Resampling.BICUBIC))[0]

    # Channel by channel, as Pillow does it too: a file of two or four bands is no image of Pillow's.
    large = torch.stack([torch.stack([larger(channel) for channel in image]) for image in images]).float()
    borders = [aside + beside] * 2 + [over + above] * 2
    given = torch.nn.functional.pad(large, borders, mode="replicate").to(torch.uint8)
    seen = torch.stack([torch.cat([prepare_image(as_image(channel[None]), how) for channel in image])
                        for image in given])
    return given.float() / 255, seen.float() / 255


def rerun(data: bytes, choice: Choice, asked: Sequence[Trial],
          plugins: Sequence[str]) -> tuple[list[np.ndarray], dict, list[float]]:
    """Logits of each trial as the file gives them, what the file says of itself, and seconds of single images."""
    told = {"format": choice.format, "sha256": hashlib.sha256(data).hexdigest(), "plugins": json.dumps(list(plugins))}
    request = files.pack({"file": torch.frombuffer(bytearray(data), dtype=torch.uint8),
                          **{f"{number:06d} {name}": tensor for number, trial in enumerate(asked)
                             for name, tensor in _by_name(trial.given).items()}}, told)
    here = str(Path(tutelage.__file__).parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-P", "-m", "tutelage.exporting.run_exported"], input=request,
                          capture_output=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ModelError("the exported file does not run", found=lines[-1][:500],
                         expected="logits of held-out images in a process of their own",
                         fix="another --format; please report it with the network's name")
    answer, said = files.unpack(done.stdout, "the answer of the re-run")
    seconds = answer.pop("seconds").tolist()
    return [answer[name].numpy() for name in sorted(answer)], json.loads(said["about"]), seconds


def require_same_words(student: Student, choice: Choice, said: dict) -> None:
    """Refuse a file whose classes, preparation or shapes are not those of the run."""
    wanted = about(student, choice)
    odd = sorted(key for key in {*said, *wanted} if said.get(key) != wanted.get(key))
    if odd:
        raise ModelError("the exported file does not say what the run says; it was not kept",
                         where=f"network {student.node!r}", found=f"another {', '.join(odd)}",
                         fix="another --format; please report it with the network's name")


def compared(asked: Sequence[Trial], answers: Sequence[np.ndarray], labels: Tensor,
             names: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of the re-run, as they go into the JSON beside the file; with the classes' `names` also its mark."""
    gaps: dict[int, list[float]] = {size: [] for size in SIZES}
    for trial, answer in zip(asked, answers, strict=True):
        if answer.shape != trial.wanted.shape:
            raise ModelError("the exported file gives another shape", where=f"a batch of {len(trial.wanted)}",
                             found=list(answer.shape), expected=list(trial.wanted.shape), fix="another --format")
        gaps[trial.size].append(np.abs(answer - trial.wanted.numpy()).max().item())
    theirs, own = _together(asked, answers)
    images, found = len(labels), dict[str, Any]()
    if own.dim() == 3:  # of words
        theirs, own, labels, names = theirs.flatten(0, 1), own.flatten(0, 1), labels.flatten(), ()
    if own.dim() == 4:
        found = {"pixels": labels.numel(), **_dice(theirs, own, labels, names)}
        theirs, own, labels, names = _by_pixel(theirs), _by_pixel(own), labels.flatten(), ()
    if any(trial.shortened for trial in asked):
        found = {"agreement_at_half_length": metrics.agreement(*map(_rows_of_logits, _together(asked, answers,
                                                                                              shortened=True)))}
    known = labels >= 0
    largest = {str(size): float(np.max(found)) for size, found in gaps.items()}  # of numpy, for NaN must show
    worst = float(np.max(list(largest.values())))
    size = max(1.0, own.abs().max().item())
    return {"images": images, "labelled": int(known.sum()), "largest_difference": worst,
            "relative_difference": worst / size, "alone_or_together": alone_or_together(asked, answers) / size,
            "largest_difference_by_batch": largest,
            "agreement": metrics.agreement(theirs, own), "accuracy": _accuracy(theirs[known], labels[known]),
            "accuracy_of_network": _accuracy(own[known], labels[known]),
            "mark": mark_of(theirs, labels, names) if names else None, **found}


def compared_numbers(asked: Sequence[Trial], answers: Sequence[np.ndarray], targets: Tensor) -> dict[str, Any]:
    """As `compared`, of forecasts: means and standard deviations, and the MAE of both, scaled."""
    gaps: dict[int, list[float]] = {size: [] for size in SIZES}
    for trial, answer in zip(asked, answers, strict=True):
        if answer.shape != trial.wanted.shape:
            raise ModelError("the exported file gives another shape", where=f"a batch of {len(trial.wanted)}",
                             found=list(answer.shape), expected=list(trial.wanted.shape), fix="another --format")
        gaps[trial.size].append(np.abs(answer - trial.wanted.numpy()).max().item())
    theirs, own = _together(asked, answers)
    largest = {str(size): float(np.max(found)) for size, found in gaps.items()}
    worst, size = float(np.max([*largest.values()])), max(1.0, own.abs().max().item())
    return {"images": len(targets), "largest_difference": worst, "relative_difference": worst / size,
            "alone_or_together": alone_or_together(asked, answers) / size, "largest_difference_by_batch": largest,
            "agreement": affinity(theirs, own), "mae": mae(theirs[..., 0], targets),
            "mae_of_network": mae(own[..., 0], targets)}


def _together(asked: Sequence[Trial], answers: Sequence[np.ndarray], shortened: bool = False) -> tuple[Tensor, Tensor]:
    """The logits of all images, each once: those of the file, and those of the network."""
    every = [pair for pair in zip(asked, answers, strict=True)
             if pair[0].size == SIZES[-1] and pair[0].shortened == shortened]
    return (torch.from_numpy(np.concatenate([answer for _, answer in every])),
            torch.cat([trial.wanted for trial, _ in every]))


def _rows_of_logits(logits: Tensor) -> Tensor:
    return logits.flatten(0, -2)


def _by_pixel(maps: Tensor) -> Tensor:
    return maps.movedim(1, -1).flatten(0, -2)


def _dice(theirs: Tensor, own: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Dice of the file and of the network; None where no pixel has a label, or none of a class that counts."""
    def dice(maps: Tensor) -> float | None:
        if not bool((labels >= 0).any()):
            return None
        found = mask_scores(count_pixels(maps.argmax(1), labels, maps.shape[1]), first_class(tuple(names)))["dice"]
        return None if found != found else found

    return {"dice": dice(theirs), "dice_of_network": dice(own)}


def alone_or_together(asked: Sequence[Trial], answers: Sequence[np.ndarray]) -> float:
    """The largest difference of a logit of the file between an image alone and the same image in the largest batch."""
    alone = [pair for pair in zip(asked, answers, strict=True) if pair[0].size == 1]
    together = [pair for pair in zip(asked, answers, strict=True)
                if pair[0].size == SIZES[-1] and not pair[0].shortened]
    gaps = [0.0]
    for number, (single, answer) in enumerate(alone):
        whole, answered = together[number // SIZES[-1]]
        place = number % SIZES[-1]
        beside = _by_name(_rows_of(whole.given, torch.tensor([place])))
        # Files that resize are given other sizes.
        if all(torch.equal(beside[name], tensor) for name, tensor in _by_name(single.given).items()):
            gaps.append(float(np.abs(answered[place] - answer[0]).max()))
    return float(np.max(gaps))


def require_faithful(student: Student, choice: Choice, numbers: dict[str, Any], agreement: float,
                     accuracy_lost: float = ACCURACY_LOST) -> dict[str, float]:
    """Refuse a file over its bounds; those that it kept. Accuracy alone would not see flips that make up for it."""
    alone = numbers.get("alone_or_together", 0.0)
    if choice.int8:
        lost = _lost(numbers)
        most = max(accuracy_lost, 1 / max(1, numbers.get("labelled", 0)))
        bound = {"agreement": agreement, "accuracy_lost": accuracy_lost, "alone_or_together": INT8_ALONE}
        kept = {f"agreement >= {agreement:g}": numbers["agreement"] >= agreement
                and bool(np.isfinite(numbers["largest_difference"])),
                **_agreed(numbers, agreement, ("agreement_at_half_length",)),
                f"accuracy lost <= {most:g}": lost <= most + 1e-12,
                f"an image alone as in a batch, to {INT8_ALONE:g}": alone <= INT8_ALONE}
        fix = "export it without --int8, or set --agreement and --accuracy-lost to what is enough for you"
    else:
        limit = RESIZED_BOUND if choice.resize else BOUND
        lost, bound = 0.0, {"relative_difference": limit}
        kept = {f"relative difference <= {limit:g}": numbers["relative_difference"] <= limit,
                f"an image alone as in a batch, to {limit:g}": alone <= limit}
        if student.task != CLASSIFICATION.name:
            bound["agreement"] = RESIZED_AGREED if choice.resize else AGREED
            kept |= _agreed(numbers, bound["agreement"])
        fix = "another --format; please report it with the network's name"
    if not all(kept.values()):
        raise ModelError("the exported file does not say what the network says; it was not kept",
                         where=f"network {student.node!r}, {numbers['images']} images",
                         found=f"largest difference of a logit {numbers['largest_difference']:.3g}, relative "
                               f"{numbers['relative_difference']:.3g}; agreement {numbers['agreement']:.4f}; an image "
                               f"alone differs by {alone:.3g}" + (f"; accuracy lost {lost:.4f}" if choice.int8 else ""),
                         expected="; ".join(words for words, held in kept.items() if not held), fix=fix)
    return bound


def _agreed(numbers: dict[str, Any], least: float,
            keys: Sequence[str] = ("agreement", "agreement_at_half_length")) -> dict[str, bool]:
    """Whether so many choices are the same, or all but one: of pixels, and of series at each length."""
    count = numbers.get("pixels", numbers["images"])
    return {f"{key.replace('_', ' ')}{' of pixels' if 'pixels' in numbers else ''} >= {least:g}":
            1 - numbers[key] <= max(1 - least, 1 / count) + 1e-12 for key in keys if key in numbers}


def _lost(numbers: dict[str, Any]) -> float:
    """By how much the accuracy has fallen, or Dice if that has fallen more; 0 without labels."""
    pairs = [(numbers.get(f"{key}_of_network"), numbers.get(key)) for key in ("accuracy", "dice")]
    return max([0.0, *(before - after for before, after in pairs if before is not None and after is not None)])


def _accuracy(logits: Tensor, labels: Tensor) -> float | None:
    return metrics.top1(logits, labels) if len(labels) else None
