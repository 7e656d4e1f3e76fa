"""Everything that is wrong with a folder of images, found by decoding every one of them."""

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tutelage.data import folder, images
from tutelage.data.file_kinds import SUFFIXES
from tutelage.errors import UserError

SHOWN = 20
"""Of the problems of a kind, so many are printed; the JSON has all."""


class Finding(NamedTuple):
    """One problem: what, and the files or folders it is about (relative to the folder, as printable text)."""

    what: str
    paths: tuple[str, ...]
    kind: str = "data"


@dataclass(frozen=True)
class Report:
    """What `check` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split -> class -> images; `modes` counts how the files hold their pixels (CMYK, P ...) and `sizes`
    their (width x height), the most frequent first.
    """

    root: str
    counts: dict[str, dict[str, int]]
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    modes: dict[str, int]
    sizes: dict[str, int]

    def as_json(self) -> str:
        """The report for a program."""
        fields = asdict(self)
        for kind in ("errors", "warnings"):
            fields[kind] = [finding._asdict() for finding in fields[kind]]
        return json.dumps(fields, indent=1)

    def __str__(self) -> str:
        lines = [self.root]
        for split, classes in self.counts.items():
            few, many = min(classes.values()), max(classes.values())
            total = sum(classes.values())
            lines.append(f"  {split:<10} {total} images in {len(classes)} classes, {few} to {many} each")
        lines.append("  sizes      " + _counted(self.sizes))
        lines.append("  modes      " + _counted(self.modes))
        for kind, findings in {"error": self.errors, "warning": self.warnings}.items():
            lines += [f"  {kind:<10} {finding.what}: {', '.join(finding.paths)}" for finding in findings[:SHOWN]]
            if len(findings) > SHOWN:
                lines.append(f"  ... and {len(findings) - SHOWN} more of kind {kind}")
        return "\n".join(lines) + ("" if self.errors or self.warnings else "\n  nothing wrong was found")


class _Seen(NamedTuple):
    """What decoding a file told: its error, or its mode, size, number of frames and content."""

    error: UserError | None
    mode: str = ""
    size: str = ""
    frames: int = 1
    mislabelled: bool = False
    content: str = ""


def check_folder(root: Path, *, max_pixels: int = images.MAX_PIXELS, follow_symlinks: bool = False) -> Report:
    """Decode every image below `root`, on all cores, and compare them with each other."""
    listing = folder.list_folder(root, follow_symlinks=follow_symlinks)
    seen = folder.in_threads(partial(_look, max_pixels=max_pixels), [image.path for image in listing.images])
    names = [_relative(image.path, listing.root) for image in listing.images]
    errors = [_finding(problem, problem.where or "", listing.root) for problem in listing.problems]
    errors += [_finding(told.error, name, listing.root) for told, name in zip(seen, names, strict=True) if told.error]
    good = [(image, name, told) for image, name, told in zip(listing.images, names, seen, strict=True)
            if not told.error]
    warnings = [*_ignored(listing), *_absent(listing), *_twins(listing.classes)]
    warnings += [Finding("more than one frame, only the first is used", (name,)) for _, name, told in good
                 if told.frames > 1]
    warnings += [Finding("the name ends otherwise than the content", (name,)) for _, name, told in good
                 if told.mislabelled]
    warnings += _duplicates(good)
    return Report(images.printable(listing.root), _counts(listing.images), tuple(errors), tuple(warnings),
                  dict(Counter(told.mode for _, _, told in good).most_common()),
                  dict(Counter(told.size for _, _, told in good).most_common()))


def _look(path: Path, max_pixels: int) -> _Seen:
    try:
        head = images.header(path, max_pixels)
        images.decode(path, 3, max_pixels)
        content = hashlib.sha256()
        with images.open_regular(path) as file:
            while part := file.read(2**20):
                content.update(part)
    except UserError as error:
        return _Seen(error)
    kind = {"MPO": "JPEG", "HEIF": "HEIC"}.get(str(head.format), str(head.format))
    mislabelled = path.suffix != "" and path.suffix.lower() not in SUFFIXES[kind]
    frames = getattr(head, "n_frames", 1)  # only formats with animations know it
    return _Seen(None, head.mode, f"{head.width} x {head.height}", frames, mislabelled, content.hexdigest())


def _duplicates(good: Iterable[tuple[folder.Image, str, _Seen]]) -> list[Finding]:
    """Files of the same bytes under two labels or in two splits; within one class they do little harm."""
    same = defaultdict(list)
    for image, name, told in good:
        same[told.content].append((image, name))
    findings = []
    for copies in same.values():
        places = {(image.split, image.label) for image, _ in copies}
        if len(places) > 1:
            kinds = [kind for kind, values in (("labels", {label for _, label in places}),
                                               ("splits", {split for split, _ in places})) if len(values) > 1]
            findings.append(Finding(f"the same image under several {' and '.join(kinds)}",
                                    tuple(name for _, name in copies), "duplicate"))
    return findings


def _ignored(listing: folder.Listing) -> list[Finding]:
    return [Finding("left out (hidden, the system's, or not an image)", (_relative(path, listing.root),), "ignored")
            for path in listing.ignored]


def _absent(listing: folder.Listing) -> list[Finding]:
    """Classes of train that another split has no image of."""
    counts = _counts(listing.images)
    return [Finding(f"no image of {name!r} in {split}", (), "absent")
            for split, found in counts.items() if split != "unlabelled"
            for name in listing.classes if name not in found]


def _twins(classes: Sequence[str]) -> list[Finding]:
    """Class names that a person, or another file system, could take for the same."""
    alike = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [Finding("class names that differ only in case or in Unicode form", tuple(map(images.printable, names)),
                    "twins")
            for names in alike.values() if len(names) > 1]


def _counts(found: Iterable[folder.Image]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for image in found:
        classes = counts.setdefault(image.split, {})
        classes[image.label] = classes.get(image.label, 0) + 1
    return counts


def _finding(error: UserError, where: str, root: Path) -> Finding:
    what = error.what if error.found is None else f"{error.what} ({error.found})"
    return Finding(what, (where.removeprefix(f"{images.printable(root)}/"),), error.kind)


def _relative(path: Path, root: Path) -> str:
    return images.printable(path.relative_to(root) if path.is_relative_to(root) else path)


def _counted(counts: dict[str, int]) -> str:
    shown = [f"{count} of {name}" for name, count in list(counts.items())[:8]]
    return ", ".join(shown) + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")
