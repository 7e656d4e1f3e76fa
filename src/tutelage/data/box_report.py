"""Everything that is wrong with a folder of images with boxes, and how many and how large the boxes are."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tutelage.data.assemble import SplitRows
from tutelage.data.box_check import CheckedBoxes, check_boxes
from tutelage.data.box_folder import BoxListing
from tutelage.data.boxes import box_splits, listed_boxes, only_objects
from tutelage.data.check import (
    Finding,
    SeenFile,
    counted_text,
    findings_of_errors,
    findings_of_leaks,
    findings_of_left_out,
    lines_of_findings,
    look_into_file,
)
from tutelage.data.decoding import fit_factor
from tutelage.data.folder import in_threads
from tutelage.data.images import pair, printable
from tutelage.data.settings import DataSettings
from tutelage.errors import UserError

SIZES = {"small": 32**2, "medium": 96**2}
"""COCO's: a box of less pixels than the first is small, of less than the second medium, else large."""
USUAL_SIZE = 320
"""Of a side, where a recipe does not say the size."""
THIN = 2.0
"""Of a box with a side of less pixels little is left to see."""


@dataclass(frozen=True)
class BoxReport:
    """What `check_box_folder` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split -> images, `objects` split -> class -> boxes, `empty` split -> images without an object;
    `box_sizes` is split -> small, medium and large boxes, in pixels of an image that was fitted into `image_size`
    (height, width); `sizes` counts images by (width x height), the most frequent first.
    """

    root: str
    kind: str
    counts: dict[str, int]
    objects: dict[str, dict[str, int]]
    empty: dict[str, int]
    box_sizes: dict[str, dict[str, int]]
    image_size: tuple[int, int]
    findings: tuple[Finding, ...]
    sizes: dict[str, int]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops a run."""
        return tuple(finding for finding in self.findings if finding.error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What does not."""
        return tuple(finding for finding in self.findings if not finding.error)

    def as_json(self) -> str:
        """The report for a program: what `text` says, and every path."""
        fields = {key: value for key, value in vars(self).items() if key != "findings"}
        return json.dumps({**fields, "errors": [asdict(finding) for finding in self.errors],
                           "warnings": [asdict(finding) for finding in self.warnings]}, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person; with `every`, each path is named."""
        lines = [f"{self.root}, images with boxes ({self.kind})"]
        for split, count in self.counts.items():
            boxes = sum(self.objects.get(split, {}).values())
            bare = f", {self.empty[split]} of them without an object" if self.empty.get(split) else ""
            lines.append(f"  {split:<10} {count} images{bare}, {boxes} boxes")
        names = next(iter(self.objects.values()), {})
        for number, name in enumerate(names):
            counts = ", ".join(f"{found[name]} in {split}" for split, found in self.objects.items())
            lines.append(f"  class {number:<4} {printable(name)}: {counts}")
        for split, found in self.box_sizes.items():
            shown = ", ".join(f"{count} {word}" for word, count in found.items())
            lines.append(f"  {split:<10} boxes at {self.image_size[0]} x {self.image_size[1]}: {shown}")
        if self.box_sizes:
            lines.append("             (small: below 32 x 32 pixels; large: from 96 x 96)")
        lines.append("  sizes      " + counted_text(self.sizes))
        return "\n".join([*lines, *lines_of_findings((*self.errors, *self.warnings), every)])

    def __str__(self) -> str:
        return self.text()


def check_box_folder(root: Path, settings: DataSettings | None = None) -> BoxReport:
    """Decode every image below `root`, on all cores, and compare it with its boxes; `settings` are a recipe's."""
    settings = settings or DataSettings("folder", task="detection")
    found = listed_boxes(settings, root)
    listing, size = found.listing, pair(settings.image_size or USUAL_SIZE)
    look = partial(look_into_file, max_pixels=settings.max_pixels, value_range=settings.value_range)
    seen: list[SeenFile] = in_threads(look, [image.path for image in listing.images])
    wrong: list[tuple[UserError, str, bool]] = [(problem, problem.where or "", True) for problem in listing.problems]
    wrong += [(told.error, printable(listing.name(image)), True)
              for image, told in zip(listing.images, seen, strict=True) if told.error]
    checked = check_boxes(replace(settings, on_bad_image="error"), found)
    unread = {printable(image.path) for image, told in zip(listing.images, seen, strict=True) if told.error}
    wrong += [(problem, problem.where or "", True) for problem in checked.problems if problem.where not in unread]
    splits = dict[str, SplitRows]()
    try:
        checked = only_objects(settings, checked) if checked.names else checked
        splits = {} if listing.problems else box_splits(settings, found)
    except UserError as error:
        wrong.append((error, error.where or "", True))
    counted = {split: rows.ids.tolist() for split, rows in splits.items()}
    objects = {split: dict(zip(checked.names, checked.counts(places).tolist(), strict=True))
               for split, places in counted.items()}
    box_sizes = {split: _sizes(checked, places, size) for split, places in counted.items()}
    findings = [*findings_of_errors(wrong, listing.root), *findings_of_leaks(listing, seen, splits),
                *findings_of_left_out(listing), *_remarks(found, checked), *_absent(objects),
                *_thin(checked, found, size)]
    empty = {split: sum(not len(checked.classes[place]) for place in places) for split, places in counted.items()}
    sizes = Counter(f"{one[0]} x {one[1]}" for one in checked.sizes if one is not None)
    return BoxReport(printable(listing.root), found.kind or "of no kind", _counts(found, splits), objects, empty,
                     box_sizes, size, tuple(findings), dict(sizes.most_common()))


def _counts(found: BoxListing, splits: Mapping[str, SplitRows]) -> dict[str, int]:
    """Images of each split, as a run cuts them; of a folder that a run refuses, as the folder says."""
    if splits:
        return {split: len(rows.ids) for split, rows in splits.items()}
    return dict(Counter(image.split for image in found.listing.images))


def _sizes(checked: CheckedBoxes, places: list[int], into: tuple[int, int]) -> dict[str, int]:
    areas = [np.empty(0)]
    for place in places:
        size, boxes = checked.sizes[place], checked.boxes[place]
        if size is not None:
            areas.append((boxes[:, 2:] - boxes[:, :2]).prod(1) * fit_factor(size, into)**2)
    numbers = np.searchsorted([*SIZES.values()], np.concatenate(areas), "right")
    return dict(zip((*SIZES, "large"), np.bincount(numbers, minlength=3).tolist(), strict=True))


def _remarks(found: BoxListing, checked: CheckedBoxes) -> list[Finding]:
    return [Finding("boxes", text, 1, printable(found.listing.root), "none, if that is meant", ())
            for text in (*found.listing.remarks, *checked.notes)]


def _absent(objects: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    findings = []
    for split, counts in objects.items():
        lacking = tuple(printable(name) for name, count in counts.items() if not count)
        if lacking:
            classes = "1 class has" if len(lacking) == 1 else f"{len(lacking)} classes have"
            findings.append(Finding("absent", f"{classes} no box in {split}", len(lacking), lacking[0],
                                    f"add images of it: {split} says nothing of it", lacking))
    return findings


def _thin(checked: CheckedBoxes, found: BoxListing, into: tuple[int, int]) -> list[Finding]:
    """Boxes of which nothing is left to see at the size of the network's pictures."""
    paths, count = [], 0
    for image, size, boxes in zip(found.listing.images, checked.sizes, checked.boxes, strict=True):
        thin = 0 if size is None else int(((boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
                                           * fit_factor(size, into) < THIN).sum())
        if thin:
            paths.append(printable(found.listing.name(image)))
            count += thin
    if not count:
        return []
    return [Finding("thin", f"{count} boxes are less than {THIN:g} pixels wide or high at {into[0]} x {into[1]}", count,
                    paths[0], "give a larger image_size, or take them out", tuple(paths))]
