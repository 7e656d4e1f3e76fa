"""Everything that is wrong with a folder of registered pairs, found by decoding every one of them."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

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
from tutelage.data.images import printable
from tutelage.data.pair_folder import list_pairs
from tutelage.data.pairs import cuts_of, is_coloured, pair_splits, sizes_of_pairs
from tutelage.data.settings import DataSettings
from tutelage.errors import UserError


@dataclass(frozen=True)
class PairReport:
    """What `check_pair_folder` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split -> pairs, `sets` set -> pairs ("" where nothing says of which they are), `coloured` how many
    visible images have colour; `sizes` counts pairs by (width x height), the most frequent first.
    """

    root: str
    counts: dict[str, int]
    sets: dict[str, int]
    coloured: int
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
        return json.dumps({"root": self.root, "counts": self.counts, "sets": self.sets, "coloured": self.coloured,
                           "errors": [asdict(finding) for finding in self.errors],
                           "warnings": [asdict(finding) for finding in self.warnings], "sizes": self.sizes}, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person; with `every`, each path is named."""
        lines = [f"{self.root}, pairs of infrared and visible images"]
        lines += [f"  {split:<10} {count} pairs" for split, count in self.counts.items()]
        if len(self.sets) > 1:
            lines.append("  sets       " + counted_text({name or "others": n for name, n in self.sets.items()}))
        lines.append("  sizes      " + counted_text(self.sizes))
        if self.coloured:
            lines.append(f"  colour     {self.coloured} visible images have it: their luma is fused, the colour is "
                         "kept for what `predict` writes")
        return "\n".join([*lines, *lines_of_findings((*self.errors, *self.warnings), every)])

    def __str__(self) -> str:
        return self.text()


def check_pair_folder(root: Path, settings: DataSettings | None = None, fused: Path | None = None) -> PairReport:
    """Decode every image below `root`, on all cores, and compare those of a pair; `settings` are those of a recipe."""
    settings = settings or DataSettings("folder", task="fusion")
    pairs = list_pairs(root, follow_symlinks=settings.follow_symlinks, fused=fused)
    listing, both = pairs.listing, pairs.files()
    look = partial(look_into_file, max_pixels=settings.max_pixels, value_range=settings.value_range)
    seen: list[SeenFile] = in_threads(look, [image.path for image in both.images])
    wrong: list[tuple[UserError, str, bool]] = [(problem, problem.where or "", True) for problem in listing.problems]
    wrong += [(told.error, printable(listing.name(image)), True)
              for image, told in zip(both.images, seen, strict=True) if told.error]
    damaged = {printable(image.path) for image, told in zip(both.images, seen, strict=True) if told.error}
    sizes, problems = sizes_of_pairs(pairs, settings)
    wrong += [(problem, problem.where or "", True) for problem in problems if problem.where not in damaged]
    splits = {}
    try:
        if sizes and not listing.problems:
            splits = pair_splits(settings, pairs)
            cuts_of(settings, [size for size in sizes if size is not None], 0)
    except UserError as error:
        wrong.append((error, error.where or "", True))
    findings = [*findings_of_errors(wrong, listing.root),
                *findings_of_leaks(listing, seen[::2], splits),
                *findings_of_left_out(listing)]
    good = [image.path for image, told in zip(listing.images, seen[::2], strict=True) if not told.error]
    coloured = sum(in_threads(partial(is_coloured, settings=settings), good))
    counts = {split: len(rows.ids) for split, rows in splits.items()} or dict(Counter(
        image.split for image in listing.images))
    there = Counter(f"{width} x {height}" for width, height in (size for size in sizes if size is not None))
    return PairReport(printable(listing.root), counts, dict(Counter(image.label for image in listing.images)), coloured,
                      tuple(findings), dict(there.most_common()))
