"""Interactions of users with items -> splits: k-core, held out by time or of each user, groups of like popularity.

Nothing here is drawn from a seed: which interaction is held out depends on the names of user and item, or on its time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tutelage.data.interaction_files import InteractionFile
from tutelage.data.splits import TEST_SHARE
from tutelage.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Distinct pairs of a user and an item, sorted by user and then item.

    `user_names` and `item_names` are those of the numbers in `users` and `items` [n]; `times` [n] is None where nobody
    knows them. `notes` tell what was left out.
    """

    user_names: tuple[str, ...]
    item_names: tuple[str, ...]
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    notes: tuple[str, ...] = ()


def each_pair_once(file: InteractionFile, doubled: str = "error") -> Interactions:
    """Each pair once; a pair that comes again is an error or, "merge", counts once, at its first time."""
    pairs = file.users * max(1, len(file.item_names)) + file.items
    order = np.lexsort((file.rows, file.times if file.times is not None else file.rows, pairs))
    first = np.ones(len(order), bool)
    first[1:] = pairs[order][1:] != pairs[order][:-1]
    if doubled == "error" and not first.all():
        again = order[~first][file.rows[order[~first]].argmin()]
        user, item = file.user_names[file.users[again]], file.item_names[file.items[again]]
        raise DataError("the same user and item more than once", where=f"{file.where}, row {file.rows[again]}",
                        found=f"user {user!r}, item {item!r} ({int((~first).sum())} such rows)",
                        expected="each pair once", fix='remove it, or write doubled = "merge" in [data]')
    kept = order[first]
    notes = ((f"{file.left_out} rows without user or item, or of a weight of 0 or less, are no interactions",)
             if file.left_out else ())
    return Interactions(file.user_names, file.item_names, file.users[kept], file.items[kept],
                        None if file.times is None else file.times[kept], notes)


def core_of(found: Interactions, least: int) -> Interactions:
    """Only users and items with `least` interactions or more, among those that are left: the k-core."""
    kept = np.ones(len(found.users), bool)
    while True:
        of_users = np.bincount(found.users[kept], minlength=len(found.user_names))
        of_items = np.bincount(found.items[kept], minlength=len(found.item_names))
        now = kept & (of_users[found.users] >= least) & (of_items[found.items] >= least)
        if now.sum() == kept.sum():
            break
        kept = now
    if not kept.any():
        raise DataError("no interaction is left", where=f"[data] core = {least}", found=f"{len(kept)} before",
                        expected=f"users and items with {least} interactions or more", fix="take a smaller core")
    return _only(found, kept)


def held_back(found: Interactions, split: str, validation: float) -> tuple[Interactions, dict[str, np.ndarray]]:
    """What can be split, and which of its interactions [n] are in each split.

    "per_user": a fifth of each user's for test, and `validation` of those that are left; a user keeps one at least in
    train and, with three or more, has one at least in each. "time": the last fifth of all for test, the last of the
    rest for validation; what has one time stays together, in the earlier split. A user with one interaction is left
    out; so are held out ones of users or items that train does not know. Both are told.
    """
    count = np.bincount(found.users, minlength=len(found.user_names))
    lonely = int((count == 1).sum())
    notes = found.notes
    if lonely:
        notes += (f"{lonely} users with a single interaction are left out: there is nothing to hold out of them",)
        found = _only(found, count[found.users] > 1)
    if not len(found.users):
        raise DataError("no user has two interactions", found=f"{lonely} users", expected="two of each at least")
    where = (_by_time if split == "time" else _per_user)(found, validation)
    known = np.isin(found.users, found.users[where == 0]) & np.isin(found.items, found.items[where == 0])
    unknown = int((~known).sum())
    if unknown:
        notes += (f"{unknown} held out interactions are left out: train knows not the user, or not the item",)
        places = np.full(len(known), -1)
        places[known] = where[known]
        found, where = _only(found, known), places[known]
    splits = {name: where == number for number, name in enumerate(SPLITS)}
    empty = [name for name, rows in splits.items() if not rows.any()]
    if empty:
        raise DataError(f"no interaction is left for {empty[0]}", where=f'[data] split = "{split}"',
                        found=f"{len(where)} interactions", expected="some in each split", fix="add interactions")
    return replace(found, notes=notes), splits


def popularity_groups(counts: Sequence[int], wanted: int) -> list[int]:
    """The group of each item, 0 for the most popular: groups of about the same number of interactions.

    Items go by falling count. A group is closed when the next item would lift it above the quota, the total by
    `wanted`; one that is above it alone is a group of its own; a tail below half of the quota goes to the last group.
    There may be fewer or more groups than are wanted.

    >>> popularity_groups([50, 30, 10, 5, 3, 1, 1], 3)
    [0, 1, 2, 2, 2, 2, 2]
    """
    if not 1 <= wanted <= max(1, len(counts)):
        raise UsageError("more groups than items", where="[data] groups", found=f"{wanted} groups, {len(counts)} items",
                         expected=f"1 .. {len(counts)}")
    quota = sum(counts) / wanted
    order = sorted(range(len(counts)), key=lambda item: (-counts[item], item))
    groups, number, filled, left = [0] * len(counts), 0, 0, sum(counts)
    for item in order:
        if filled and filled + counts[item] > quota and left >= quota / 2:
            number, filled = number + 1, 0
        groups[item], filled, left = number, filled + counts[item], left - counts[item]
    return groups


def content_of_pairs(found: Interactions) -> str:
    """The SHA-256 of the pairs, their names and their times."""
    seal = hashlib.sha256()
    for names in (found.user_names, found.item_names):
        seal.update("\0".join(names).encode() + b"\1")
    for numbers in (found.users, found.items, found.times):
        seal.update(b"" if numbers is None else np.ascontiguousarray(numbers).tobytes())
    return seal.hexdigest()


def _only(found: Interactions, kept: np.ndarray) -> Interactions:
    """Some of the interactions, and those users and items alone that have any; numbers are given anew."""
    users, items = found.users[kept], found.items[kept]
    old_users, new_users = np.unique(users, return_inverse=True)
    old_items, new_items = np.unique(items, return_inverse=True)
    return replace(found, user_names=tuple(found.user_names[old] for old in old_users),
                   item_names=tuple(found.item_names[old] for old in old_items), users=new_users, items=new_items,
                   times=None if found.times is None else found.times[kept])


def _per_user(found: Interactions, validation: float) -> np.ndarray:
    """0, 1 or 2 for each interaction: train, validation, test."""
    order = np.lexsort((_hashes(found), found.users))
    count = np.bincount(found.users)
    first = np.repeat(np.cumsum(count) - count, count)
    place, of = np.arange(len(order)) - first, np.repeat(count, count)
    test = np.maximum(np.round(of * TEST_SHARE), 1).astype(int)
    held = np.minimum(np.maximum(np.round((of - test) * validation), 1).astype(int), of - test - 1)
    where = np.empty(len(order), int)
    where[order] = np.where(place < test, 2, np.where(place < test + held, 1, 0))
    return where


def _by_time(found: Interactions, validation: float) -> np.ndarray:
    if found.times is None:
        raise UsageError("these interactions have no time", where="[data] split", found='"time"',
                         expected="a column `time`", fix='split = "per_user", or name the column in `columns`')
    order = np.sort(found.times)
    test = order[max(0, round(len(order) * (1 - TEST_SHARE)) - 1)]
    held = order[max(0, round(len(order) * (1 - TEST_SHARE) * (1 - validation)) - 1)]
    return np.where(found.times > test, 2, np.where(found.times > held, 1, 0))


def _hashes(found: Interactions) -> np.ndarray:
    """A number for each pair by the names of its user and item, wherever they stand in the file."""
    def of(names: Sequence[str]) -> np.ndarray:
        return np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
                         for name in names], np.uint64)
    mixed = (of(found.user_names)[found.users] * np.uint64(0x9E3779B97F4A7C15)) ^ of(found.item_names)[found.items]
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(27))


def lists_of(users: np.ndarray, items: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """The items of each of `count` users, one user after another and rising, and where those of each begin."""
    order = np.lexsort((items, users))
    starts = np.concatenate([[0], np.bincount(users, minlength=count).cumsum()])
    return torch.from_numpy(items[order].astype(np.int64)), torch.from_numpy(starts.astype(np.int64))
