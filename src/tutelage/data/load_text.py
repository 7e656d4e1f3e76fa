"""The sentences that the settings name -> the data of networks that read text."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tutelage.data.assemble import SplitRows, held_out
from tutelage.data.balance import notes_on_classes
from tutelage.data.sentences import OUT_OF_SCOPE, write_sentences
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, digest
from tutelage.data.splits import TEST_SHARE, Cut, first
from tutelage.data.stream import CPU
from tutelage.data.text_files import Sentence, find_text_files, plain_lines, read_sentences
from tutelage.data.text_preparation import Coder, TextPreparation, coder_of
from tutelage.data.text_settings import OWN_POOL, TASKS_OF_TEXT, TEXTS
from tutelage.data.text_source import Hiding, Pools, TextSource, Tokens, most_hidden
from tutelage.data.vocabulary import MARKS, build_vocabulary
from tutelage.errors import DataError, UsageError

QUICK = {"train": 64, "validation": 32, "test": 32}
LARGEST_PADDED = 2**33


@dataclass(frozen=True, eq=False)
class TextSet:
    """The sentences of a set by split, "all" or train, val and test; and pools of others by name."""

    splits: Mapping[str, tuple[Sentence, ...]]
    pools: Mapping[str, tuple[Sentence, ...]]
    out_of_scope: str | None = None


@dataclass(frozen=True, eq=False)
class _Cut:
    """All sentences, their class numbers [N] (-1: none), and which are in each split and pool.

    `training` are all that are not held out, also those that are left out of train: the vocabulary is made of them.
    """

    sentences: tuple[Sentence, ...]
    classes: tuple[str, ...]
    labels: Tensor
    splits: dict[str, Tensor]
    pools: dict[str, Tensor]
    training: Tensor
    notes: tuple[str, ...] = ()


def load_text(settings: DataSettings, roots: Sequence[Path] | None, homes: Sequence[Path], *, seed: int = 0,
              device: torch.device = CPU, quick: bool = False) -> Data:
    """The data of the first of `roots` where there are sentences; without `roots` the made set `sentences`.

    `homes` are the folders in which the paths of `texts` and tokenizers are looked for. `Data.classes` are intents,
    tags or, of words, the pieces; `Data.shape` is (pieces, length).
    """
    if settings.name not in TEXTS or settings.work not in TASKS_OF_TEXT:
        raise UsageError("a task that these data are not for", where="[data] task", found=settings.work,
                         expected=f"{', '.join(TASKS_OF_TEXT)} with {' or '.join(TEXTS)}, and these with no other")
    found = read_text_set(settings, roots, homes)
    cut = _cut(found, settings)
    if quick:
        cut = replace(cut, splits={name: rows[first(rows, QUICK[name])] for name, rows in cut.splits.items()},
                      pools={name: rows[:QUICK["train"]] for name, rows in cut.pools.items()})
    texts = [cut.sentences[row].words for rows in (cut.training, *cut.pools.values()) for row in rows.tolist()]
    coder: Coder = (build_vocabulary(texts, settings.vocabulary) if quick or settings.tokenizer is None else
                    coder_of(settings.tokenizer, homes))
    others = {name: coder if quick else coder_of(place, homes) for name, place in (settings.tokenizers or {}).items()}
    return _data(settings, cut, {"": coder, **others}, seed, device)


def read_text_set(settings: DataSettings, roots: Sequence[Path] | None, homes: Sequence[Path]) -> TextSet:
    """The files that the settings mean, read; the made ones without `roots`."""
    tagged, repair = settings.work == "slots", settings.broken_tags == "repair"
    if roots is None:
        splits, generic = _made(tagged)
        return TextSet(splits, dict.fromkeys(settings.pools, generic), OUT_OF_SCOPE)
    files = next((found for root in roots if (found := find_text_files(root, tagged=tagged))), {})
    if not files:
        raise DataError("no sentences here", where=roots[0], expected="a file of sentences, or a folder with train, "
                        "val and test", fix="mend [data] root")
    splits: dict[str, tuple[Sentence, ...]] = {}
    for split, path in files.items():
        parts = read_sentences(path, settings.columns, tagged=tagged, repair=repair)
        if list(parts) != ["all"] and len(files) > 1:
            raise DataError("a file of several splits beside others", where=path, found=", ".join(parts),
                            expected="one file for all splits, or one for each")
        splits |= {split if name == "all" else name: part for name, part in parts.items()}
    if not {"all", "train"} & splits.keys():
        raise DataError("no sentences for training", where=roots[0], found=", ".join(splits),
                        expected="a file whose name says train", fix="name it so, or give one file as root")
    pools = {name: plain_lines(_found(place, homes)) for name, place in (settings.texts or {}).items()}
    return TextSet(splits, pools, settings.out_of_scope)


@cache
def _made(tagged: bool) -> tuple[dict[str, tuple[Sentence, ...]], tuple[Sentence, ...]]:
    """The made sentences of each split, and those of a generic text."""
    with TemporaryDirectory() as folder:
        paths = write_sentences(Path(folder))
        splits = {split: read_sentences(paths[split], tagged=tagged)["all"] for split in ("train", "val", "test")}
        return splits, plain_lines(paths["generic"])


def _found(place: str, homes: Sequence[Path]) -> Path:
    return next((home / place for home in homes if (home / place).exists()), homes[0] / place)


def _cut(found: TextSet, settings: DataSettings) -> _Cut:
    """Splits and pools of the set; of sentences without a label in train it is told what becomes of them."""
    order = [split for split in ("all", "train", "val", "test") if split in found.splits]
    parts = [*(found.splits[split] for split in order), *found.pools.values()]
    sentences = tuple(one for part in parts for one in part)
    rows = dict(zip([*order, *found.pools], torch.arange(len(sentences)).split([len(part) for part in parts]),
                    strict=True))
    own = [sentences[row] for split in order for row in rows[split].tolist()]
    classes = _classes(found, own[:len(rows[order[0]])], settings.work)
    labels = torch.full((len(sentences),), -1)
    labels[:len(own)] = _labels(own, classes, found.out_of_scope, settings.work)
    strata = labels.clone()
    strata[:len(own)] = _strata(own, labels[:len(own)])
    splits, training, notes = _splits({split: rows[split] for split in order}, labels, strata, settings, len(classes))
    labels = torch.where(labels == len(classes), -1, labels)  # out of scope
    return _Cut(sentences, classes, labels, splits, {name: rows[name] for name in found.pools}, training, notes)


def _strata(own: Sequence[Sentence], labels: Tensor) -> Tensor:
    """By what rows are held out: by the sentences' labels, where all have one, whatever the task is.

    So the tasks of a chain hold out the same sentences, and their vocabularies are the same.
    """
    names = {name: number for number, name in enumerate(sorted({one.label for one in own if one.label is not None}))}
    if any(one.label is None for one in own):
        return labels
    return torch.tensor([names[one.label] for one in own if one.label is not None])


def _classes(found: TextSet, training: Sequence[Sentence], work: str) -> tuple[str, ...]:
    if work == "words":
        return ("word",)  # a sentence is what is learned: its pieces are the classes
    if work == "slots":
        slots = sorted({tag[2:] for one in training for tag in one.tags or () if tag != "O"})
        return ("O", *(f"{mark}-{slot}" for slot in slots for mark in "BI"))
    return tuple(sorted({one.label for one in training if one.label is not None} - {found.out_of_scope}))


def _labels(own: Sequence[Sentence], classes: tuple[str, ...], outside: str | None, work: str) -> Tensor:
    """A class number of each sentence, one more than there are for what is out of scope; 0 where it has no one class.

    DataError for a label, or a slot, that no training sentence has.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if work == "words":
        return torch.zeros(len(own), dtype=torch.int64)
    for one in own:
        strange = ([tag for tag in one.tags or () if tag not in numbers] if work == "slots" else
                   [one.label] if one.label not in (None, outside, *numbers) else [])
        if strange:
            raise DataError("a label that no training sentence has", where=one.where, found=repr(strange[0]),
                            expected=f"one of {len(classes)}, such as {classes[0]!r}" if classes else "labels in train",
                            fix='add sentences of it to train; or, if it means that a sentence is of no class, '
                                f'out_of_scope = "{strange[0]}" in [data]')
    if work == "slots":
        return torch.zeros(len(own), dtype=torch.int64)
    numbers |= {} if outside is None else {outside: len(classes)}
    return torch.tensor([-1 if one.label is None else numbers[one.label] for one in own])


def _splits(rows: dict[str, Tensor], labels: Tensor, strata: Tensor, settings: DataSettings,
            outside: int) -> tuple[dict[str, Tensor], Tensor, tuple[str, ...]]:
    """Train, validation and test, and all rows that are not held out; `outside` is out of scope and not trained on."""
    cut, notes = Cut(settings.split_rule), []
    found = {split: SplitRows(own, strata[own]) for split, own in rows.items()}
    if settings.test == "val" and ("val" not in found or "test" in found):
        raise DataError("there is no split `val` to test on, or one called `test` too", where="[data] test",
                        found=", ".join(found), expected="val, and no test", fix="leave `test` out")
    training = found.pop("all") if "all" in found else found.pop("train")
    held = {"test": "val"} if settings.test == "val" else {"validation": "val", "test": "test"}
    splits = {name: found[split] for name, split in held.items() if split in found}
    for name, share in (("test", TEST_SHARE), ("validation", settings.validation)):
        if name not in splits:
            training, splits[name] = held_out(training, share, name, cut)
    for name, own in splits.items():
        if bool((labels[own.ids] < 0).any()):
            raise DataError(f"a sentence without a label in {name}",
                            found=f"{int((labels[own.ids] < 0).sum())} of {len(own.ids)}",
                            fix="label them, or move them to train")
    whole, training = training.ids, SplitRows(training.ids, labels[training.ids])
    left = (training.labels == outside) | ((training.labels < 0) & (not settings.unlabelled))
    if bool(left.any()):
        out = int((training.labels == outside).sum())
        notes.append(f"{out} training sentences out of scope and {int(left.sum()) - out} without a label are left out")
        training = SplitRows(*(part[~left] for part in training))
    kept = cut.first(training.ids, training.labels, training.labels, settings.limit)
    chosen = {"train": training.ids[kept], **{name: splits[name].ids for name in ("validation", "test")}}
    return chosen, whole, tuple(notes)


def _data(settings: DataSettings, cut: _Cut, coders: Mapping[str, Coder], seed: int, device: torch.device) -> Data:
    work, coder = settings.work, coders[""]
    used = [*cut.splits.values(), *(cut.pools.values() if settings.mixture else ())]
    every = torch.cat(used)
    sentences = [cut.sentences[row] for row in every.tolist()]
    tokens, notes = dict[str, Tokens](), list(cut.notes)
    for name, one in coders.items():
        tokens[name], shortened = encoded(sentences, one, settings)
        notes += [f"{shortened} sentences are cut to {settings.length} pieces"] if shortened else []
    tags = _tags(sentences, tokens[""], cut.classes) if work == "slots" else None
    hiding = None
    if work == "words":
        marks = len(MARKS) if settings.tokenizer is None else 0
        most = most_hidden(tokens[""], settings.hidden)
        hiding = Hiding(settings.hidden, most, coder.hidden, coder.size, marks, seed)
    classes = coder.names if work == "words" else cut.classes
    place = dict(zip(every.tolist(), range(len(every)), strict=True))

    def source(ids: Tensor, pools: Pools | None = None) -> TextSource:
        rows = torch.tensor([place[row] for row in ids.tolist()])
        own = {name: Tokens(one.pieces[rows].to(device), one.first[rows].to(device), one.free[rows].to(device),
                            one.size, one.longest)
               for name, one in tokens.items()}
        mine = None if tags is None else tags[rows]
        labels = torch.zeros_like(ids) if work == "words" else cut.labels[ids]
        if pools is not None and work != "words":  # a transfer set has no labels
            labels, mine = torch.full_like(ids, -1), None if mine is None else torch.full_like(mine, -1)
        return TextSource(ids, labels, own, None if mine is None else mine.to(device), hiding, pools)

    splits = {name: source(ids) for name, ids in cut.splits.items() if name != "train"}
    train = source(cut.splits["train"]) if settings.mixture is None else source(*_mixed(cut, settings))
    sealed = {name: (one.ids, one.labels) for name, one in {"train": train, **splits}.items()}
    told = () if settings.mixture is not None or work != "sentences" else notes_on_classes(
        classes, {name: one[1] for name, one in sealed.items()}, ("sentence", "sentences"))
    prepared = TextPreparation(work, settings.length, coder, {name: one for name, one in coders.items() if name})
    rule = (f"validation {settings.validation:g}, limit {settings.limit}, split rule {settings.split_rule}, "
            f"vocabulary {settings.vocabulary}, length {settings.length}, mixture {settings.mixture}, "
            f"hidden {settings.hidden:g}")
    return Data(settings.name, classes, (coder.size, tokens[""].pieces.shape[1]), train, splits["validation"],
                splits["test"], prepared.as_json(), digest(settings.name, classes, sealed, _content(sentences), rule),
                f"hidden words, seed {seed}" if hiding else "none",
                notes=(*notes, *told, *_told_of_pools(train, settings)))


def _mixed(cut: _Cut, settings: DataSettings) -> tuple[Tensor, Pools]:
    pools = {OWN_POOL: cut.splits["train"], **cut.pools}
    pools = {name: ids if name == OWN_POOL else ids[first(ids, settings.limit)] for name, ids in pools.items()}
    mixture = settings.mixture or {}
    of = torch.arange(len(pools)).repeat_interleave(torch.tensor([len(ids) for ids in pools.values()]))
    return torch.cat([*pools.values()]), Pools(tuple(pools), of, tuple(mixture.get(name, 0.0) for name in pools))


def _told_of_pools(train: TextSource, settings: DataSettings) -> tuple[str, ...]:
    if train.pools is None:
        return ()
    sizes = train.pools.of.bincount(minlength=len(train.pools.names)).tolist()
    counts = train.pools.counts(settings.batch_size)
    return ("transfer set without labels: " + ", ".join(
        f"{count} of {settings.batch_size} sentences of every batch from {name!r} ({size})"
        for name, count, size in zip(train.pools.names, counts, sizes, strict=True)),)


def encoded(sentences: Sequence[Sentence], coder: Coder, settings: DataSettings) -> tuple[Tokens, int]:
    """The pieces of all sentences, padded to the longest; how many were cut. DataError for one that is too long."""
    found, cut = [], 0
    for one in sentences:
        pieces, begins, free = coder.encode(one.words)
        if len(pieces) > settings.length:
            if settings.too_long == "error":
                raise DataError("a sentence that is too long", where=one.where, found=f"{len(pieces)} pieces",
                                expected=f"{settings.length} at most, length in [data]",
                                fix='raise `length`, or write too_long = "cut" in [data]')
            cut += 1
            pieces, free = pieces[:settings.length], free[:settings.length]
            begins = [begin for begin in begins if begin < settings.length]
        if not any(free):
            raise DataError("a sentence without a piece of a word", where=one.where, found=" ".join(one.words)[:60])
        found.append((pieces, begins, free))
    longest = max(range(len(found)), key=lambda row: len(found[row][0]))
    length = len(found[longest][0])
    if 8 * length * len(found) > LARGEST_PADDED:
        raise DataError("sentences that are too large together", found=f"{len(found)} of up to {length} pieces",
                        expected=f"{LARGEST_PADDED} bytes at most", fix="cut long ones, or take fewer")
    return Tokens(_padded([pieces for pieces, _, _ in found], length, -1),
                  _padded([begins for _, begins, _ in found], max(len(begins) for _, begins, _ in found), -1),
                  _padded([free for _, _, free in found], length, 0).bool(), coder.size, sentences[longest].where), cut


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.int64)


def _tags(sentences: Sequence[Sentence], tokens: Tokens, classes: tuple[str, ...]) -> Tensor:
    """[N, W] class numbers of tags, -1 where there is no word, or where it was cut off, or where it has none."""
    numbers = {name: number for number, name in enumerate(classes)}
    tags = _padded([[numbers[tag] for tag in one.tags or ()][:tokens.first.shape[1]] for one in sentences],
                   tokens.first.shape[1], -1)
    return torch.where(tokens.first >= 0, tags, -1)


def _content(sentences: Sequence[Sentence]) -> str:
    seal = hashlib.sha256()
    for one in sentences:
        seal.update("\0".join((*one.words, one.label or "", *(one.tags or ()), "\1")).encode())
    return seal.hexdigest()

