"""What frozen networks said about each image in each draw, kept on disk and looked up instead of computed again.

A draw is one augmentation of every image: a function of (seed, draw, view, id), so nothing about a crop is stored and
whoever draws again sees the same images. A cache belongs to one key, `key_of`: other weights, images or draws have
another folder. It holds, for each draw and end, shards of rows in the order of their ids:

    ROOT/teachers/KEY/draw-00003/END-00000/{values.npy, tops.npy or numbers.npy and beside.npy, manifest.json}

A shard is a whole folder or none, and checked when it is read; what is damaged or missing is computed again. Where room
is needed the cache that was used longest ago goes, unless a run has it open: from `open` to `close` it is in use.

How a row is kept says `codecs`. What a step uses is always what a cache would give back, also while it is being
filled, so a run has the same bits whether the cache was there or not. Under `exact` everything is kept as float32, bit
for bit.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.engine.teacher_cache.codecs import Columns, Form
from tutelage.errors import BusyError, ModelError, ResourceError, UserError
from tutelage.system.files import (
    disk_errors,
    in_use,
    is_locked,
    locked,
    read_folder,
    remove_folder,
    sweep,
    write_folder,
)

logger = logging.getLogger("tutelage")
SHARD_ROWS = 65536
FORMAT = 1


def key_of(**words: object) -> str:
    """SHA-256 of everything that what a teacher says depends on."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **words}, sort_keys=True).encode()).hexdigest()


@dataclass
class CachedEnd:
    """One end in one draw: the stored columns of all rows, and which rows are there."""

    columns: Columns
    there: Tensor
    whole: bool = False
    used: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())


@dataclass
class TeacherCache:
    """The outputs of some frozen ends for the rows with these `ids` ([N] int64, any order), one draw at a time.

    `folder` is the key's; `forms` say of each end how its rows are kept, `limit` the bytes that all caches beside
    this one may take on the disk. `weights` are (end, place) -> [B], the sample weights that are kept with the rows
    last looked up or recorded. What goes wrong with the disk is a note, never an error: training goes on.
    """

    folder: Path
    ids: Tensor
    forms: Mapping[str, Form]
    limit: int
    draw: int | None = None
    held: dict[str, CachedEnd] = field(default_factory=dict)
    weights: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    use: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.sorted, self.order = torch.sort(self.ids)
        self.at = self.sorted[:0]

    def open(self, draw: int) -> None:
        """Turn to another draw, and read what the disk has of it; until `close` no other run removes it."""
        with suppress(BusyError, ResourceError):  # a cache that is not there, or only just now
            self._keep()
        if draw == self.draw:
            return
        self.draw, self.held = draw, {}
        for end in self.forms:
            self._read(end)

    def close(self) -> None:
        """Let other runs remove it from the disk, if they need the room."""
        self.use.close()

    def look_up(self, ids: Tensor) -> dict[str, Tensor]:
        """End -> rows of these ids, for the ends that are whole; `record` will mean the same ids."""
        self.at = torch.searchsorted(self.sorted, ids)
        return {end: self._given(end, {name: column[self.at] for name, column in held.columns.items()})
                for end, held in self.held.items() if held.whole}

    def record(self, end: str, rows: Tensor) -> Tensor:
        """Keep rows that were computed, for the ids last looked up; gives what the cache will give for them."""
        columns = self.forms[end].encode(rows.detach().contiguous())  # as they will be read: strides may move last bits
        held = self.held.get(end) or self._empty(end, columns)
        for name, column in columns.items():
            held.columns[name][self.at] = column
        held.there.index_fill_(0, self.at, True)
        held.used = True
        return self._given(end, columns)

    def lacking(self, *, used: bool) -> list[str]:
        """The ends that are not whole; with `used`, of those that were recorded in this draw."""
        return [end for end in self.forms if (self.held[end].used and not self.held[end].whole if end in self.held
                                             else not used)]

    def missing(self, ends: Sequence[str]) -> Tensor:
        """Numbers of the rows that one of `ends` lacks: int64, in ascending order of ids."""
        there = torch.ones(len(self.ids), dtype=torch.bool)
        for end in ends:
            there &= self.held[end].there.cpu() if end in self.held else False
        return self.order.cpu()[~there]

    def finish(self, *, write: bool) -> None:
        """Call the used ends whole, and with `write` put them on the disk."""
        fresh = {end: held for end, held in self.held.items() if held.used and not held.whole}
        for held in fresh.values():
            assert bool(held.there.all()), "rows that are missing are computed before"
            held.whole = True
        if not fresh or not write:
            return
        try:
            _make_room(self.folder, sum(held.nbytes for held in fresh.values()), self.limit)
            self._keep()
            with locked(self.folder):
                for end, held in fresh.items():
                    self._write(end, held)
        except BusyError:
            pass  # another run is writing the same numbers, or removing them
        except (ResourceError, OSError) as error:
            self._note(f"the teacher's outputs are not kept: {error.what if isinstance(error, UserError) else error}")

    def bytes(self) -> int:
        """How much one draw takes, of the ends that are held."""
        return sum(held.nbytes for held in self.held.values())

    def _keep(self) -> None:
        """Say that the folder is in use, and used last now; again and again, for it may be another than before."""
        with ExitStack() as use:
            use.enter_context(in_use(self.folder))
            with suppress(OSError):  # somebody else's cache, which may be read all the same
                os.utime(self.folder)
            self.use.close()
            self.use = use.pop_all()

    def _given(self, end: str, columns: Columns) -> Tensor:
        form = self.forms[end]
        self.weights |= {(end, place): weight for place, weight in enumerate(form.weights(columns))}
        return form.decode(columns)

    def _empty(self, end: str, like: Columns) -> CachedEnd:
        rows, device = len(self.ids), next(iter(like.values())).device
        columns = {name: torch.empty((rows, *column.shape[1:]), dtype=column.dtype, device=device)
                   for name, column in like.items()}
        self.held[end] = CachedEnd(columns, torch.zeros(rows, dtype=torch.bool, device=device))
        return self.held[end]

    def _shard(self, end: str, first: int) -> Path:
        return self.folder / f"draw-{self.draw:05d}" / f"{list(self.forms).index(end)}-{first // SHARD_ROWS:05d}"

    def _write(self, end: str, held: CachedEnd) -> None:
        for first in range(0, len(self.ids), SHARD_ROWS):
            path, rows = self._shard(end, first), slice(first, first + SHARD_ROWS)
            with disk_errors(path, 0):
                path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            if path.exists():
                remove_folder(path)
            files = {f"{name}.npy": _npy(column[rows]) for name, column in held.columns.items()}
            write_folder(path, files, {"end": end, "draw": self.draw, "first": first, "key": self.folder.name})

    def _read(self, end: str) -> None:
        for first in range(0, len(self.ids), SHARD_ROWS):
            path = self._shard(end, first)
            try:
                if not path.exists():
                    continue
                manifest, files = read_folder(path)
                columns = {name: _from_npy(files[f"{name}.npy"]).to(self.ids.device) for name in self.forms[end].types}
                self._take(end, first, manifest, columns)
            except (ModelError, ResourceError, LookupError, ValueError, TypeError, OSError, RuntimeError) as error:
                self._note(f"a damaged block of the teacher cache is computed again: {path} ({error})".splitlines()[0])
        if end in self.held:
            self.held[end].whole = bool(self.held[end].there.all())
            self.held[end].used = not self.held[end].whole

    def _take(self, end: str, first: int, manifest: Mapping, columns: Columns) -> None:
        rows = slice(first, min(first + SHARD_ROWS, len(self.ids)))
        types = {name: column.dtype for name, column in columns.items()}
        about = {"key": self.folder.name, "end": end, "draw": self.draw, "first": first}
        if {word: manifest[word] for word in about} != about or types != self.forms[end].types:
            raise ValueError("of another cache, or another part of this one")
        if any(len(column) != rows.stop - first for column in columns.values()):
            raise ValueError(f"{[len(column) for column in columns.values()]} rows")
        held = self.held.get(end) or self._empty(end, columns)
        for name, column in columns.items():
            held.columns[name][rows] = column
        held.there[rows] = True

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            logger.warning("note: %s", note)


def _make_room(folder: Path, needed: int, limit: int) -> None:
    """Remove the free caches that were used longest ago until there is room; a ResourceError if that is not enough."""
    root = folder.parent
    sizes = _by_use(root)
    room, busy = limit - sum(sizes.values()) - needed, False
    with ExitStack() as stack:
        free = []
        for path in sizes:
            if room >= 0 or path == folder:
                continue
            if _is_free(path, stack):
                free.append(path)
                room += sizes[path]
            else:
                busy = True
        if room < 0:
            why = ": the others are in use" if busy else ""
            raise ResourceError(f"no room within the limit for caches{why}", where=root, found=f"{needed} bytes more",
                                expected=f"{limit} bytes in all", fix="raise [train] cache_gib, or lower draws")
        for path in free:
            remove_folder(path)
    with disk_errors(folder, needed):
        folder.mkdir(parents=True, exist_ok=True)


def _is_free(folder: Path, stack: ExitStack) -> bool:
    """Whether no run uses a cache, and none will until `stack` is closed."""
    try:
        stack.enter_context(in_use(folder, alone=True))
    except (BusyError, ResourceError):
        return False
    return not is_locked(folder)


def _by_use(root: Path) -> dict[Path, int]:
    """The caches and their bytes, what was used longest ago first; what is left of removed ones goes."""
    if not root.exists():
        return {}
    sweep(root)
    found = {}
    for path in root.iterdir():
        with suppress(FileNotFoundError):  # another run may be removing it
            if path.is_dir():
                found[path] = (path.stat().st_mtime_ns, _size(path))
    return {path: size for path, (_, size) in sorted(found.items(), key=lambda item: item[1][0])}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _npy(tensor: Tensor) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, tensor.cpu().contiguous().numpy(), allow_pickle=False)
    return file.getvalue()


def _from_npy(data: bytes) -> Tensor:
    return torch.from_numpy(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False).copy())
