"""Data of registered pairs: a folder of infrared and visible images, or the set `pairs`, as the [data] table says."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tutelage.data import folder
from tutelage.data.assemble import KEPT_BYTES, SplitRows
from tutelage.data.images import Preparation, as_tensor, decode, pair, printable
from tutelage.data.leakage import Read, judge_files
from tutelage.data.listed_splits import splits_as_listed
from tutelage.data.made_pairs import PAIR_SIDE, PAIR_SPLITS, make_pairs, write_pairs
from tutelage.data.masks import PairsAt
from tutelage.data.pair_folder import PairListing, list_pairs
from tutelage.data.pair_source import SOURCES, CropPlan, PairSource
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, digest
from tutelage.data.splits import Cut, first
from tutelage.data.upright_size import Size, size_of_image
from tutelage.errors import DataError, UsageError, UserError
from tutelage.types import Content, ImageFiles

CROP = 96
"""Pixels of the sides of training crops, where nobody says it and the images are as large."""
LEAST_SIDE = 11
"""That of the window of SSIM."""
QUICK_OF_PAIRS = {"train": 32, "val": 16, "test": 16}
LOOKED_AT = 8
"""So many visible images are looked at for colour before a run."""
WHAT_IS_GIVEN = ("fused",)
"""The names of the one "class" of fusion: a network gives one image."""


def load_pairs(settings: DataSettings, place: PairsAt, fused: Path | None, *, seed: int = 0,
               quick: bool = False) -> Data:
    """The pairs that the settings name; crops are drawn from `seed`, splits never are. `fused`: a folder of them.

    With `quick`, 32 + 16 + 16 made pairs: of a folder they are written, and read as its own would be.
    """
    _require_fitting(settings)
    if settings.name == "pairs":
        return _made(settings, place, seed, quick)
    if quick:
        return _quick(settings, place, seed)
    return _folder(settings, place, fused, seed)


@dataclass(frozen=True)
class FilesOfPair:
    """Id -> the images of a pair as channels [2 or 3, H, W]: infrared, the luma of visible, and the fused one."""

    pairs: PairListing
    settings: DataSettings

    def __call__(self, place: int) -> Tensor:
        """Whatever is wrong with one of the files is an error that names it."""
        visible = self.pairs.listing.images[place].path
        paths = [self.pairs.infrared[place].path, visible, *self.pairs.fused[place:place + 1]]
        images = [decode(path, 1, self.settings.max_pixels, orientation=self.settings.orientation,
                         value_range=self.settings.value_range) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if image.size != images[1].size:
                raise unlike_sizes(path, image.size, visible, images[1].size)
        return torch.cat([as_tensor(image) for image in images])


def unlike_sizes(path: Path, size: Size, visible: Path, other: Size) -> DataError:
    """The error for an image that is not of the size of the visible one of its pair."""
    return DataError("the images of a pair have unlike sizes", where=printable(path), found=f"{size[0]} x {size[1]}, "
                     f"and {other[0]} x {other[1]} of {printable(visible)}", expected="registered images of one size",
                     fix="register and cut them, or remove the pair")


def sizes_of_pairs(pairs: PairListing, settings: DataSettings) -> tuple[list[Size | None], list[UserError]]:
    """Width and height of each pair, None where they cannot be told; and what is wrong with sizes and files."""
    files = [*(image.path for image in pairs.listing.images), *(image.path for image in pairs.infrared), *pairs.fused]
    seen = folder.in_threads(partial(size_of_image, settings=settings, whole=False), files)
    count, problems = len(pairs.infrared), [one for one in seen if isinstance(one, UserError)]
    sizes: list[Size | None] = [None if isinstance(one, UserError) else one for one in seen[:count]]
    for number, other in enumerate(seen[count:]):
        own = sizes[number % count]
        if own is not None and not isinstance(other, UserError) and other != own:
            problems.append(unlike_sizes(files[count + number], other, files[number % count], own))
    return sizes, problems


def pair_splits(settings: DataSettings, pairs: PairListing) -> dict[str, SplitRows]:
    """The rows of each split, ids being places in the listing, labels the groups: held out is of each group a share."""
    return splits_as_listed(settings, pairs.listing, torch.tensor(pairs.numbers(), dtype=torch.int64))


def cuts_of(settings: DataSettings, sizes: Sequence[Size], seed: int) -> tuple[CropPlan, str | None]:
    """How pairs of so many sizes are cut, and a note where held-out images are cut too.

    DataError for images that are smaller than what is asked for, or than the window of SSIM.
    """
    least = min(height for _, height in sizes), min(width for width, _ in sizes)
    whole = pair(settings.image_size) if settings.image_size else least
    crop = pair(settings.crop) if settings.crop else (min(CROP, whole[0]), min(CROP, whole[1]))
    for key, (height, width) in {"crop": crop, "image_size": whole, "": (LEAST_SIDE, LEAST_SIDE)}.items():
        small = [(w, h) for w, h in sizes if h < height or w < width]
        if small:
            asked = f"{width} x {height} at least, " + (f"as `{key}` asks" if key else "the window of SSIM")
            raise DataError(f"images smaller than {'the ' + key if key else 'the window of SSIM'}",
                            where="images of pairs", found=f"{len(small)} of {len(sizes)} pairs, such as "
                            f"{small[0][0]} x {small[0][1]} pixels", expected=asked,
                            fix=f"a smaller {key}, or take these pairs out" if key else "take these pairs out")
    if min(crop) < LEAST_SIDE or min(whole) < LEAST_SIDE:
        raise UsageError("crops smaller than the window of SSIM", where="[data] crop" if min(crop) < LEAST_SIDE else
                         "[data] image_size", found=list(crop if min(crop) < LEAST_SIDE else whole),
                         expected=f"{LEAST_SIDE} or more")
    drawn = settings.augment != "none"
    note = None if {(w, h) for w, h in sizes} == {(whole[1], whole[0])} else (
        f"images are of unlike sizes: what is not a crop for training is their central {whole[1]} x {whole[0]} pixels")
    return CropPlan(seed, whole, crop if drawn else None, settings.augment in (None, "crop-flip")), note


def _require_fitting(settings: DataSettings) -> None:
    """Refuse what cannot be done with pairs."""
    if settings.name not in ("folder", "pairs") or settings.work != "fusion":
        raise UsageError(f"the set {settings.name!r} is not one of {settings.work}", where="[data] name",
                         expected='name = "folder" or "pairs" for fusion')
    refused = {"augment": settings.augment in ("randaugment", "random-resized-crop"), "mixup": settings.mixup > 0,
               "cutmix": settings.cutmix > 0, "balance": settings.balance != "none", "labels": settings.labels,
               "only": settings.only, "unlabelled": settings.unlabelled,
               "on_bad_image": settings.on_bad_image == "skip"}
    for key, given in refused.items():
        if given:
            raise UsageError("a setting that does not go with pairs of images", where=f"[data] {key}",
                             found=repr(getattr(settings, key)), fix="leave it out")


def _folder(settings: DataSettings, place: PairsAt, fused: Path | None, seed: int, keeps: bool | None = None) -> Data:
    assert place.root is not None, "a folder has its path"
    pairs = list_pairs(place.root, follow_symlinks=settings.follow_symlinks, fused=fused)
    folder.require_sound(pairs.listing)
    sizes, problems = sizes_of_pairs(pairs, settings)
    listing = replace(pairs.listing, problems=tuple(problems))
    folder.require_sound(listing)
    known = [size for size in sizes if size is not None]
    how, cut_note = cuts_of(settings, known, seed)
    contents = folder.contents(pairs.files(), settings.max_pixels)
    splits = pair_splits(settings, pairs)
    splits, leaks, also = judge_files(settings.leakage, splits, listing, contents,
                                      Read(settings.max_pixels, settings.value_range))
    content = folder.folder_fingerprint(contents) + _digest_of_fused(pairs)
    rule = _rule(settings, how)
    size = sum(width * height for width, height in known) * (SOURCES + bool(pairs.fused))
    data = _data(settings, place, pairs.listing.classes, FilesOfPair(pairs, settings), splits, how, content, rule,
                 size <= KEPT_BYTES if keeps is None else keeps)

    def sealed(changed: Mapping[str, Content]) -> str:
        now = folder.folder_fingerprint({name: changed.get(name, was) for name, was in contents.items()})
        return digest(settings.name, WHAT_IS_GIVEN, splits, now + _digest_of_fused(pairs), rule)

    def named(where: str) -> str | None:
        return next((listing.name(one) for one in pairs.files().images if printable(one.path) == where), None)

    def damaged() -> list[str]:
        both = pairs.files()
        bad = folder.damaged(both, settings.max_pixels, settings.value_range)
        return [listing.name(both.images[number]) for number in bad]

    notes = [*listing.notes, *([cut_note] if cut_note else []), *colour_notes(pairs, settings), *leaks]
    return replace(data, files=ImageFiles(contents, sealed, named, damaged), also_in_training=also, notes=tuple(notes))


def colour_notes(pairs: PairListing, settings: DataSettings) -> list[str]:
    """A note where visible images are in colour, by a few of them."""
    places = first(torch.arange(len(pairs.infrared)), LOOKED_AT).tolist()
    paths = [pairs.listing.images[place].path for place in places]
    coloured = folder.in_threads(partial(is_coloured, settings=settings), paths)
    return ["visible images are in colour: their luma is fused, and `tutelage predict` gives the colour back"
            ] if any(coloured) else []


def is_coloured(path: Path, settings: DataSettings) -> bool:
    """Whether an image has colour: its channels differ somewhere by more than a lossy file of a grey image would."""
    image = decode(path, 3, settings.max_pixels, orientation=settings.orientation, value_range=settings.value_range)
    red, green, blue = as_tensor(image).int()
    return bool(torch.maximum((red - green).abs(), (green - blue).abs()).max() > 8)


def _digest_of_fused(pairs: PairListing) -> str:
    """What the fused files are: their names and bytes; "" where there are none."""
    if not pairs.fused:
        return ""
    found = hashlib.sha256()
    for path in pairs.fused:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _data(settings: DataSettings, place: PairsAt, groups: tuple[str, ...], read: Callable[[int], Tensor],
          splits: Mapping[str, SplitRows], how: CropPlan, content: str, rule: str, keeps: bool) -> Data:
    sources = {split: PairSource(rows.ids, rows.labels, groups, read, how, keeps, place.device)
               for split, rows in splits.items()}
    shape = (SOURCES, *how.whole)
    prepared = Preparation(SOURCES, how.whole, how.whole, 0, settings.orientation, settings.value_range)
    return Data(settings.name, WHAT_IS_GIVEN, shape, sources["train"], sources["validation"], sources.get("test"),
                prepared.as_json(), digest(settings.name, WHAT_IS_GIVEN, splits, content, rule),
                f"pairs of images, {how!r}")


def _rule(settings: DataSettings, how: CropPlan) -> str:
    """How rows are chosen and files are read."""
    rule = f"pairs of {how.whole}, validation {settings.validation:g}, limit {settings.limit}"
    if settings.test is not None:
        rule += f", test {settings.test}"
    if settings.value_range is not None:
        rule += f", values {settings.value_range[0]:g} to {settings.value_range[1]:g}"
    return f"{rule}, {settings.orientation}, split rule {settings.split_rule}"


def _made(settings: DataSettings, place: PairsAt, seed: int, quick: bool) -> Data:
    """The set made in code; where a recipe asks for fused images, their means."""
    made = make_pairs()
    images = made.pairs
    if settings.fused is not None:
        images = torch.cat([images, images.float().mean(1, keepdim=True).round().to(torch.uint8)], 1)
    parts = torch.arange(len(images)).split([*PAIR_SPLITS.values()])
    counts = [*QUICK_OF_PAIRS.values()] if quick else [*PAIR_SPLITS.values()]
    splits = {name: SplitRows(ids[:count], made.night[ids[:count]].long())
              for name, ids, count in zip(PAIR_SPLITS, parts, counts, strict=True)}
    train = splits["train"]
    kept = Cut(settings.split_rule).first(train.ids, train.labels, train.labels, settings.limit)
    splits["train"] = SplitRows(train.ids[kept], train.labels[kept])
    how, _ = cuts_of(settings, [(PAIR_SIDE, PAIR_SIDE)], seed)
    content = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return _data(settings, place, ("day", "night"), images.__getitem__, splits, how, content,
                 f"limit {settings.limit}, {how.whole}", False)


def _quick(settings: DataSettings, place: PairsAt, seed: int) -> Data:
    """Made pairs, written as the user's own may be, and read by what reads these."""
    with tempfile.TemporaryDirectory(prefix="tutelage-") as made:
        root, fused = Path(made, "pairs"), Path(made, "fused") if settings.fused is not None else None
        write_pairs(root, QUICK_OF_PAIRS, fused)
        plain = replace(settings, root=str(root), test=None, leakage="allow", value_range=None, image_size=None,
                        crop=None)
        data = _folder(plain, replace(place, root=root, workers=0), fused, seed, keeps=True)
        for source in (data.train, data.validation, data.test):
            assert isinstance(source, PairSource)
            list(source.batches([torch.arange(len(source.ids))], draw=None))  # read while the folder is there
    return replace(data, files=None)
