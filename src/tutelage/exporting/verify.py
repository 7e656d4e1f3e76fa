"""The bytes of an export, run again in a clean process on held-out images, and held against the network itself."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
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
from tutelage.errors import DataError, ModelError
from tutelage.exporting.module import Choice, Student, about
from tutelage.graph.taps import logits_of
from tutelage.system import files
from tutelage.tasks.classification import metrics

IMAGES = 500
FEW = 32
"""All images run in batches of 7; so many of them also alone and in pairs."""
SIZES = (1, 2, 7)
BOUND = 1e-4
RESIZED_BOUND = 2e-2
"""Largest difference of a logit, relative to the largest logit (or 1). A resize may move a pixel by 1 level of 255."""
AGREEMENT = 0.98
_SIZES = ((1.3, 0, 7), (2.0, 5, 0), (1.0, 0, 0), (3.1, 0, 20))
"""How much larger, and how many pixels more above and below, left and right."""


@dataclass(frozen=True)
class Trial:
    """A batch: of how many images (the last may have fewer), what the file is given, and the network's own logits."""

    size: int
    given: Tensor
    wanted: Tensor


def plain_images(source: Source, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The prepared images [N, C, H, W] in [0, 1] of these rows, without augmentation, and their labels."""
    if not len(rows):
        raise DataError("there is no image to run the file on", fix="--on another split")
    batches = list(source.batches(rows.split(64), draw=None))
    inputs = [batch.inputs for batch in batches]
    assert all(isinstance(images, Tensor) for images in inputs), "one view was asked for"
    return (torch.cat([images.cpu() for images in inputs if isinstance(images, Tensor)]),
            torch.cat([batch.labels.cpu() for batch in batches]))


def chosen_rows(source: Source, limit: int) -> Tensor:
    """So many rows of a split, the same every time."""
    return first(source.ids, limit)


@torch.no_grad()
def trials(student: Student, images: Tensor, choice: Choice) -> list[Trial]:
    """What the file is asked; for a file that resizes, the images as if they had come in other sizes."""
    made = []
    for size in SIZES:
        rows = torch.arange(len(images) if size == SIZES[-1] else min(FEW, len(images)))
        for number, part in enumerate(rows.split(size)):
            given, seen = images[part], images[part]
            if choice.resize:
                given, seen = _as_they_came(images[part], student, number)
            made.append(Trial(size, given, logits_of(student.network(seen))))
    return made


def _as_they_came(images: Tensor, student: Student, number: int) -> tuple[Tensor, Tensor]:
    """The images larger and with more around them, of other proportions, and what training's `prepare` makes of those.

    What is added lies outside of what `prepare` takes out, so that each is still the picture that it was.
    """
    how = student.prepared
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
                          **{f"{number:06d}": trial.given for number, trial in enumerate(asked)}}, told)
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


def compared(asked: Sequence[Trial], answers: Sequence[np.ndarray], labels: Tensor) -> dict[str, Any]:
    """The numbers of the re-run, as they go into the JSON beside the file."""
    gaps: dict[int, list[float]] = {size: [] for size in SIZES}
    for trial, answer in zip(asked, answers, strict=True):
        if answer.shape != trial.wanted.shape:
            raise ModelError("the exported file gives another shape", where=f"a batch of {len(trial.wanted)}",
                             found=list(answer.shape), expected=list(trial.wanted.shape), fix="another --format")
        gaps[trial.size].append(np.abs(answer - trial.wanted.numpy()).max().item())
    every = [pair for pair in zip(asked, answers, strict=True) if pair[0].size == SIZES[-1]]
    theirs = torch.from_numpy(np.concatenate([answer for _, answer in every]))
    own = torch.cat([trial.wanted for trial, _ in every])
    known = labels >= 0
    largest = {str(size): float(np.max(found)) for size, found in gaps.items()}  # of numpy, for NaN must show
    worst = float(np.max(list(largest.values())))
    return {"images": len(labels), "labelled": int(known.sum()), "largest_difference": worst,
            "relative_difference": worst / max(1.0, own.abs().max().item()), "largest_difference_by_batch": largest,
            "agreement": metrics.agreement(theirs, own), "accuracy": _accuracy(theirs[known], labels[known]),
            "accuracy_of_network": _accuracy(own[known], labels[known])}


def require_faithful(student: Student, choice: Choice, numbers: dict[str, Any], agreement: float) -> dict[str, float]:
    """Refuse a file over its bound; the bound that it kept. Accuracy alone would not see flips that make up for it."""
    if choice.int8:
        bound = {"agreement": agreement}
        kept = numbers["agreement"] >= agreement and np.isfinite(numbers["largest_difference"])
        fix = "export it without --int8, or lower --agreement if that is enough for you"
    else:
        bound = {"relative_difference": RESIZED_BOUND if choice.resize else BOUND}
        kept = numbers["relative_difference"] <= bound["relative_difference"]
        fix = "another --format; please report it with the network's name"
    if not kept:
        (name, limit), = bound.items()
        raise ModelError("the exported file does not say what the network says; it was not kept",
                         where=f"network {student.node!r}, {numbers['images']} images",
                         found=f"largest difference of a logit {numbers['largest_difference']:.3g}, relative "
                               f"{numbers['relative_difference']:.3g}; agreement {numbers['agreement']:.4f}",
                         expected=f"{name.replace('_', ' ')} {'>=' if choice.int8 else '<='} {limit:g}", fix=fix)
    return bound


def _accuracy(logits: Tensor, labels: Tensor) -> float | None:
    return metrics.top1(logits, labels) if len(labels) else None
