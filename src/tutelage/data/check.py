"""Everything that is wrong with a folder of images, found by decoding every one of them."""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from tutelage.data import folder, images
from tutelage.data.assemble import SplitRows
from tutelage.data.file_kinds import SUFFIXES
from tutelage.data.layout import WORDS
from tutelage.data.leakage import find_leaks, keys_of, pixel_hash
from tutelage.data.left_out import kinds_left_out
from tutelage.data.load import folder_rows
from tutelage.data.settings import DataSettings
from tutelage.errors import SecurityError, UserError

_BITS_OF_TIFF = 258


@dataclass(frozen=True)
class Finding:
    """All problems of a kind: what, how many, one example, and the fix.

    `paths` are the files or folders it is about, relative to the folder, as printable text; an `error` stops a run.
    """

    kind: str
    what: str
    count: int
    example: str
    fix: str
    paths: tuple[str, ...]
    error: bool = False


@dataclass(frozen=True)
class Report:
    """What `check_folder` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split -> class -> images; `modes` counts how the files hold their pixels (CMYK, P ...) and `sizes`
    their (width x height), the most frequent first.
    """

    root: str
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    modes: dict[str, int]
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
        fields = {"root": self.root, "counts": self.counts, "largest_and_smallest": self.balance(),
                  "errors": [asdict(finding) for finding in self.errors],
                  "warnings": [asdict(finding) for finding in self.warnings],
                  "modes": self.modes, "sizes": self.sizes}
        return json.dumps(fields, indent=1)

    def balance(self) -> dict[str, list[tuple[str, int]]]:
        """Split -> its largest and its smallest class, each with how many images it has."""
        return {split: [max(found.items(), key=lambda item: item[1]), min(found.items(), key=lambda item: item[1])]
                for split, found in self.counts.items() if split != "unlabelled"}

    def text(self, *, every: bool = False) -> str:
        """The report for a person; with `every`, each path is named."""
        lines = [self.root]
        for split, found in self.counts.items():
            total = sum(found.values())
            of = f" in {len(found)} classes" if split != "unlabelled" else ""
            lines.append(f"  {split:<10} {total} images{of}")
            (most, many), (least, few) = self.balance().get(split, [("", 0), ("", 0)])
            if few < many:
                lines.append(f"  {'':<10} largest class {images.printable(most)} ({many}), "
                             f"smallest {images.printable(least)} ({few})")
        lines += ["  sizes      " + counted_text(self.sizes), "  modes      " + counted_text(self.modes)]
        return "\n".join([*lines, *lines_of_findings((*self.errors, *self.warnings), every)])

    def __str__(self) -> str:
        return self.text()


class SeenFile(NamedTuple):
    """What decoding a file told: its error and whether a run minds, or its mode, size, frames, depth and pixels."""

    error: UserError | None
    at_the_door: bool = False
    mode: str = ""
    size: str = ""
    frames: int = 1
    mislabelled: bool = False
    deep: bool = False
    pixels: str = ""


class _Good(NamedTuple):
    image: folder.Image
    name: str
    told: SeenFile


def lines_of_findings(findings: Sequence[Finding], every: bool) -> list[str]:
    """What was found, for a person; with `every`, each path is named."""
    lines = []
    for finding in findings:
        lines.append(f"  {'error' if finding.error else 'warning':<10} {finding.what}")
        lines.append(f"  {'':<12} {'example' if finding.count > 1 else 'where':<9} {finding.example}")
        lines.append(f"  {'':<12} {'fix':<9} {finding.fix}")
        lines += [f"  {'':<22} {path}" for path in finding.paths] if every else []
    if not findings:
        lines.append("  nothing wrong was found")
    elif not every and any(finding.count > 1 for finding in findings):
        lines.append("  --list names everything")
    return lines


def check_folder(root: Path, *, max_pixels: int = images.MAX_PIXELS, follow_symlinks: bool = False,
                 value_range: images.Range | None = None) -> Report:
    """Decode every image below `root`, on all cores, and compare them with each other; the options are of [data]."""
    listing = folder.list_folder(root, follow_symlinks=follow_symlinks)
    seen = folder.in_threads(partial(look_into_file, max_pixels=max_pixels, value_range=value_range),
                             [image.path for image in listing.images])
    names = [_relative(image.path, listing.root) for image in listing.images]
    wrong = [(problem, problem.where or "", True) for problem in listing.problems]
    wrong += [(told.error, name, told.at_the_door or image.split != "unlabelled")
              for image, told, name in zip(listing.images, seen, names, strict=True) if told.error]
    good = [_Good(image, name, told) for image, name, told in zip(listing.images, names, seen, strict=True)
            if not told.error]
    try:
        splits = _as_listed(listing) if listing.problems else folder_rows(DataSettings("folder", str(root)), listing)[0]
    except UserError as error:
        splits = {}
        wrong.append((error, error.where or "", True))
    findings = [*findings_of_errors(wrong, listing.root), *findings_of_leaks(listing, seen, splits),
                *findings_of_left_out(listing), *_remarks(listing),
                *_absent(listing), *_too_small(listing, splits), *_twins(listing.classes), *_odd(good, listing)]
    return Report(images.printable(listing.root), _counts(listing.images), tuple(findings),
                  dict(Counter(one.told.mode for one in good).most_common()),
                  dict(Counter(one.told.size for one in good).most_common()))


def look_into_file(path: Path, max_pixels: int, value_range: images.Range | None) -> SeenFile:
    """Decode a file; what is wrong with it is told, not raised."""
    try:
        head = images.header(path, max_pixels)
        frames, deep = images.count_frames(path, max_pixels), _is_deep(head, path)
    except UserError as error:
        return SeenFile(error, at_the_door=True)
    try:
        decoded = images.decode(path, 3, max_pixels, value_range=value_range)
    except UserError as error:
        return SeenFile(error)
    suffix, kind = path.suffix.lower(), {"MPO": "JPEG", "HEIF": "HEIC"}.get(str(head.format), str(head.format))
    return SeenFile(None, False, head.mode, f"{head.width} x {head.height}", frames,
                 suffix != "" and suffix not in SUFFIXES.get(kind, (suffix,)), deep, pixel_hash(decoded))


def _is_deep(head: Image.Image, path: Path) -> bool:
    """Whether a file has more than 8 bits a channel, as far as its header tells."""
    if head.format == "PNG":
        with images.open_regular(path) as file:
            return file.read(25)[24:] == b"\x10"
    bits = getattr(head, "tag_v2", {}).get(_BITS_OF_TIFF, 8)
    return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def findings_of_errors(wrong: Iterable[tuple[UserError, str, bool]], root: Path) -> list[Finding]:
    """Errors of the same words as one."""
    groups: dict[tuple[str, bool], list[tuple[UserError, str]]] = defaultdict(list)
    for error, where, stops in wrong:
        groups[error.what, stops].append((error, where.removeprefix(f"{images.printable(root)}/")))
    found = []
    for (what, stops), those in groups.items():
        first, place = those[0]
        more = f" ({first.found})" if first.found is not None else ""
        found.append(Finding("security" if isinstance(first, SecurityError) else first.kind,
                             f"{len(those)} x {what}" if len(those) > 1 else what, len(those), place + more,
                             first.fix or f"expected: {first.expected}", tuple(place for _, place in those), stops))
    return found


def findings_of_leaks(listing: folder.Listing, seen: Sequence[SeenFile],
                      splits: Mapping[str, SplitRows]) -> list[Finding]:
    """The same image in two splits or under two classes; splits that are cut by rule are cut as a run cuts them."""
    keys = keys_of([told.pixels or None for told in seen])
    large = sum(image.size for image in listing.images) > folder.BYTES_HASHED_AT_ONCE
    found = []
    for leak in find_leaks(splits, keys):
        named = _names(listing)
        text = leak.told(len(splits[leak.split].ids), named)
        found.append(Finding("leakage", text.partition(": ")[0], len(leak.ids), text.partition(": ")[2],
                             'remove the copies, or set leakage = "drop" in [data], which leaves them out of training',
                             tuple(map(named, leak.ids.tolist())), leak.is_error("auto") and not large))
    return found


def _names(listing: folder.Listing) -> Callable[[int], str]:
    return lambda place: _relative(listing.images[place].path, listing.root)


def _as_listed(listing: folder.Listing) -> dict[str, SplitRows]:
    """The splits as their folders say, of a folder that a run refuses."""
    names, classes = {"all": "train", "val": "validation"}, sorted({image.label for image in listing.images})
    splits: dict[str, list[int]] = {}
    for place, image in enumerate(listing.images):
        if image.split != "unlabelled":
            splits.setdefault(names.get(image.split, image.split), []).append(place)
    return {split: SplitRows(torch.tensor(places), torch.tensor([classes.index(listing.images[place].label)
                                                            for place in places]))
            for split, places in splits.items()}


_FIXES = {"hidden": "none, unless images are meant: rename those",
          "folder": f"name it after a split ({', '.join(WORDS)}) if it is one, or move it away",
          "file": "remove it, or convert what should be an image to JPEG or PNG",
          "beside": "put the images into the folders of their classes"}


def findings_of_left_out(listing: folder.Listing) -> list[Finding]:
    """What is not used, a finding for each suffix and reason."""
    kinds = {one.path: one.kind for one in listing.left_out}
    found = []
    for kind in kinds_left_out(listing.left_out):
        paths = tuple(_relative(path, listing.root) for path in kind.paths)
        reason = "beside" if ": beside" in kind.what and kinds[kind.paths[0]] == "file" else kinds[kind.paths[0]]
        fix = kind.what.rpartition(": ")[2] if ": install" in kind.what else _FIXES[reason]
        found.append(Finding("left out", kind.what, len(paths), paths[0], fix, paths))
    return found


def _remarks(listing: folder.Listing) -> list[Finding]:
    return [Finding("layout", text.partition(": ")[0], 1, text.partition(": ")[2],
                    "rename them if they are classes, or put the class folders to train on into `train`", ())
            for text in listing.remarks]


def _absent(listing: folder.Listing) -> list[Finding]:
    """Classes of train that another split has no image of."""
    found = []
    for split, counts in _counts(listing.images).items():
        lacking = [images.printable(name) for name in listing.classes if name not in counts]
        if split in ("val", "test") and lacking:
            classes = "1 class has" if len(lacking) == 1 else f"{len(lacking)} classes have"
            found.append(Finding("absent", f"{classes} no image in {split}", len(lacking), lacking[0],
                                 f"add images of it to {split}, which says nothing of it", tuple(lacking)))
    return found


def _too_small(listing: folder.Listing, splits: Mapping[str, SplitRows]) -> list[Finding]:
    """Classes of which a run that cuts a split itself has nothing to hold out."""
    own = {image.split for image in listing.images}
    sizes = Counter(image.label for image in listing.images)
    found = []
    for split, name in {"validation": "val", "test": "test"}.items():
        if split in splits and name not in own and not listing.problems:
            there = set(splits[split].labels.tolist())
            lacking = [f"{images.printable(label)} ({sizes[label]})" for number, label in enumerate(listing.classes)
                       if number not in there]
            if lacking:
                classes = "1 class has" if len(lacking) == 1 else f"{len(lacking)} classes have"
                found.append(Finding("absent", f"{classes} too few images for {split}", len(lacking), lacking[0],
                                     f"add images of it: it is trained on, and {split} says nothing of it",
                                     tuple(lacking)))
    return found


def _twins(classes: Sequence[str]) -> list[Finding]:
    """Class names that a person, or another file system, could take for the same."""
    alike = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFC", name).casefold()].append(images.printable(name))
    twins = [", ".join(names) for names in alike.values() if len(names) > 1]
    return [Finding("twins", "class names that differ only in case or in Unicode form", len(twins), twins[0],
                    "put them into one folder, or rename one", tuple(twins))] if twins else []


def _odd(good: Sequence[_Good], listing: folder.Listing) -> list[Finding]:
    """Images that are used, perhaps otherwise than is meant."""
    deeper = {one.name for one in good if _depth(one.image, listing.root) > (2 if one.image.split == "all" else 3)
              and one.image.split != "unlabelled"}
    kinds = [("frames", "with more than one frame: only the first is used", "none, if the first frame is meant",
              [one.name for one in good if one.told.frames > 1]),
             ("name", "whose name ends otherwise than the content: the content counts", "rename it",
              [one.name for one in good if one.told.mislabelled]),
             ("depth", "with more than 8 bits a channel: 8 are used", "none, if 256 levels are enough",
              [one.name for one in good if one.told.deep]),
             ("deep", "in a folder inside a class folder: it counts for the class",
              "none, if that is meant; else move the folders up", [one.name for one in good if one.name in deeper])]
    return [Finding(kind, f"{len(paths)} image{'s' if len(paths) > 1 else ''} {what}", len(paths), paths[0], fix,
                    tuple(paths)) for kind, what, fix, paths in kinds if paths]


def _depth(image: folder.Image, root: Path) -> int:
    return len(image.path.relative_to(root).parts) if image.path.is_relative_to(root) else 0


def _counts(found: Iterable[folder.Image]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for image in found:
        classes = counts.setdefault(image.split, {})
        classes[image.label] = classes.get(image.label, 0) + 1
    return counts


def _relative(path: Path, root: Path) -> str:
    return images.printable(path.relative_to(root) if path.is_relative_to(root) else path)


def counted_text(counts: Mapping[str, int]) -> str:
    """The first eight of these, each with how many there are."""
    shown = [f"{count} of {name}" for name, count in list(counts.items())[:8]]
    return ", ".join(shown) + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")
