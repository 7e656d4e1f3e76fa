"""Everything that is wrong with a folder of images and masks, found by decoding every one of them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tutelage.data.assemble import SplitRows
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
from tutelage.data.folder import in_threads
from tutelage.data.images import pair, printable
from tutelage.data.mask_check import CheckedMasks, check_masks
from tutelage.data.mask_folder import MaskListing, list_masks
from tutelage.data.masks import mask_splits
from tutelage.data.settings import DataSettings
from tutelage.errors import UserError


@dataclass(frozen=True)
class MaskReport:
    """What `check_mask_folder` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split -> images; `shares` is split -> class -> its share of the pixels that count; `values` is class ->
    the values that mean it; `sizes` counts images by (width x height), the most frequent first.
    """

    root: str
    counts: dict[str, int]
    shares: dict[str, dict[str, float]]
    values: dict[str, list[int]]
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
        fields = {"root": self.root, "counts": self.counts, "shares": self.shares, "values": self.values,
                  "errors": [asdict(finding) for finding in self.errors],
                  "warnings": [asdict(finding) for finding in self.warnings], "sizes": self.sizes}
        return json.dumps(fields, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person; with `every`, each path is named."""
        lines = [f"{self.root}, images and masks"]
        lines += [f"  {split:<10} {count} images" for split, count in self.counts.items()]
        for number, (name, values) in enumerate(self.values.items()):
            shares = ", ".join(f"{found[name]:.2%} of {split}" for split, found in self.shares.items())
            lines.append(f"  class {number:<4} {printable(name)}, value {' and '.join(map(str, values[:4]))}, "
                         f"pixels: {shares}")
        lines.append("  sizes      " + counted_text(self.sizes))
        return "\n".join([*lines, *lines_of_findings((*self.errors, *self.warnings), every)])

    def __str__(self) -> str:
        return self.text()


def check_mask_folder(root: Path, settings: DataSettings | None = None) -> MaskReport:
    """Decode every image and mask below `root`, on all cores, and compare them; `settings` are those of a recipe."""
    settings = settings or DataSettings("folder", task="segmentation")
    pairs = list_masks(root, follow_symlinks=settings.follow_symlinks, unlabelled=settings.unlabelled)
    listing = pairs.listing
    look = partial(look_into_file, max_pixels=settings.max_pixels, value_range=settings.value_range)
    seen: list[SeenFile] = in_threads(look, [image.path for image in listing.images])
    wrong: list[tuple[UserError, str, bool]] = [(problem, problem.where or "", True) for problem in listing.problems]
    wrong += [(told.error, printable(listing.name(image)), True)
              for image, told in zip(listing.images, seen, strict=True) if told.error]
    checked, splits = None, dict[str, SplitRows]()
    try:
        checked = check_masks(replace(settings, on_bad_image="error"), pairs)
        here = {printable(image.path) for image in listing.images}  # what is wrong with these has been told
        wrong += [(problem, problem.where or "", True) for problem in checked.problems if problem.where not in here]
        splits = {} if listing.problems else mask_splits(settings, pairs)
    except UserError as error:
        wrong.append((error, error.where or "", True))
    findings = [*findings_of_errors(wrong, listing.root), *findings_of_leaks(listing, seen, splits),
                *findings_of_left_out(listing)]
    if checked is None:
        return MaskReport(printable(listing.root), _counts(pairs, splits), {}, {}, tuple(findings), {})
    shares = {split: _shares(checked, rows) for split, rows in splits.items()}
    values = {name: [value for value, own in checked.classes.numbers.items() if own == number]
              for number, name in enumerate(checked.classes.names)}
    sizes = {f"{width} x {height}": count for (width, height), count in Counter(checked.sizes).most_common()}
    findings += [*_absent(shares), *_noted(checked, settings)]
    return MaskReport(printable(listing.root), _counts(pairs, splits), shares, values, tuple(findings), sizes)


def _counts(pairs: MaskListing, splits: Mapping[str, SplitRows]) -> dict[str, int]:
    """Images of each split, as a run cuts them; of a folder that a run refuses, as the folder says."""
    if splits:
        return {split: len(rows.ids) for split, rows in splits.items()}
    return dict(Counter(image.split for image in pairs.listing.images))


def _shares(checked: CheckedMasks, rows: SplitRows) -> dict[str, float]:
    pixels = checked.pixels_of(rows.ids.tolist())
    shares = pixels / np.maximum(pixels.sum(), 1)
    return dict(zip(checked.classes.names, shares.tolist(), strict=True))


def _absent(shares: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    found = []
    for split, own in shares.items():
        lacking = tuple(printable(name) for name, share in own.items() if share == 0)
        if lacking:
            classes = "1 class has" if len(lacking) == 1 else f"{len(lacking)} classes have"
            found.append(Finding("absent", f"{classes} no pixel in {split}", len(lacking), lacking[0],
                                 f"add images of it: {split} says nothing of it", lacking))
    return found


def _noted(checked: CheckedMasks, settings: DataSettings) -> list[Finding]:
    """What is worth knowing of the classes, and of the proportions where the recipe says the size."""
    size = pair(settings.image_size) if settings.image_size else None
    found = [] if checked.told else [Finding(
        "names", "the classes have no names", 1, "classes.txt",
        'a file classes.txt, a name a line, or mask_values = { 0 = "background", VALUE = "class", ... } in [data]', ())]
    cut = checked.cut_at(size) if size else ""
    return [*found, Finding("cut", cut.partition(": ")[0], 1, cut.partition(": ")[2],
                            "give image_size = [HEIGHT, WIDTH] of their proportions to use them whole", ())
            ] if cut else found
