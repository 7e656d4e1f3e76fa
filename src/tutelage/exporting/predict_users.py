"""The best items of users, by a recommender of a run or by exported vectors."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tutelage.data.decoding import open_regular, printable
from tutelage.data.interaction_files import LARGEST_FILE, InteractionFile, read_interactions
from tutelage.data.interactions import lists_of
from tutelage.data.user_source import ItemLists, UserSource
from tutelage.errors import DataError, ModelError, SecurityError, UserError
from tutelage.exporting.vectors import VECTORS
from tutelage.models.network import body_of
from tutelage.models.recommend import Recommender
from tutelage.system import files
from tutelage.tasks.recommendation.judge import SHOWN, top_items

AT_ONCE = 2**24
"""Scores that are in memory together, at most; of one user all are."""


@dataclass(frozen=True, eq=False)
class ItemScorer:
    """What scores items for users: `scores` maps numbers of users [B] to [B, items].

    `taken` are the items that each user has already, None where nobody said; `columns` is how a file of interactions
    calls its columns, as in [data].
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    scores: Callable[[Tensor], Tensor]
    taken: ItemLists | None = None
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class TopItems:
    """The best items of a user, the best first, and their scores."""

    user: str
    items: tuple[str, ...]
    scores: tuple[float, ...]

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"user": self.user, "items": self.items, "scores": self.scores})

    def __str__(self) -> str:
        told = ", ".join(f"{printable(item)} {score:.3f}" for item, score in zip(self.items, self.scores, strict=True))
        return f"{printable(self.user)}  {told or 'no item is left'}"


@dataclass(frozen=True)
class UnknownUser:
    """A user of whom the recommender knows nothing, and why."""

    user: str
    error: UserError

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"user": self.user, "error": self.error.fields()})

    def __str__(self) -> str:
        return f"{printable(self.user)}  {self.error.what}"


def is_of_vectors(path: Path) -> bool:
    """Whether a .safetensors file holds the vectors of a recommender."""
    return _told(path).get("format") == VECTORS


def scorer_of_vectors(path: Path) -> ItemScorer:
    """The recommender of a file that `tutelage export` wrote; ModelError for one that is not whole."""
    told = _told(path)
    try:
        with safe_open(path, framework="pt") as opened:
            of_users, of_items = opened.get_tensor("users"), opened.get_tensor("items")
        users, items = json.loads(told["user_ids"]), json.loads(told["item_ids"])
        columns = json.loads(told.get("columns", "{}"))
        whole = (of_users.dim() == of_items.dim() == 2 and of_users.shape[1] == of_items.shape[1]
                 and bool(of_users.isfinite().all() & of_items.isfinite().all())
                 and (len(set(users)), len(set(items))) == (len(of_users), len(of_items))
                 and all(isinstance(name, str) for name in (*users, *items, *columns, *columns.values())))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ModelError("not vectors as `tutelage export` writes them", where=printable(path),
                         found=str(problem)[:200], fix="export them again") from None
    if not whole:
        raise ModelError("not vectors as `tutelage export` writes them", where=printable(path),
                         expected="finite numbers, and a name for each row", fix="export them again")
    return ItemScorer(tuple(users), tuple(items), lambda rows: of_users[rows].float() @ of_items.float().t(),
                      columns=columns)


@torch.no_grad()
def scorer_of_network(network: nn.Module, items: tuple[str, ...], sources: Sequence[UserSource],
                      columns: Mapping[str, str] | None = None) -> ItemScorer:
    """A network on its data: what users took in any of the splits is taken. ModelError where it is of other users."""
    body, names = body_of(network.eval()), sources[0].names
    if isinstance(body, Recommender):
        of_users, of_items = body.vectors()
        if (len(of_users), len(of_items)) != (len(names), len(items)):
            raise ModelError("the data have other users or items than the network", found=f"{len(names)} users, "
                             f"{len(items)} items", expected=f"{len(of_users)} users, {len(of_items)} items",
                             fix="restore the data that the run was trained on")
        scores = lambda rows: of_users[rows] @ of_items.t()  # noqa: E731
    else:
        scores = lambda rows: network(users=rows)  # noqa: E731
    pairs = [_pairs_of(source.relevant) for source in sources]
    return ItemScorer(names, items, scores, _lists(pairs, len(names)), columns)


def also_taken(scorer: ItemScorer, path: Path) -> ItemScorer:
    """With the items of a file of interactions taken too; users and items that are not known there do not count."""
    found = read_interactions(path, scorer.columns)
    there = [] if scorer.taken is None else [_pairs_of(scorer.taken)]
    return replace(scorer, taken=_lists([*there, _known(found, scorer)], len(scorer.users)))


def users_in(path: Path, column: str) -> list[str]:
    """The users that a text file names, each once, in order: those of the column, or a name on each line."""
    where = printable(path)
    with open_regular(path) as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise SecurityError("a file that is too large", where=where, expected=f"{LARGEST_FILE} bytes at most")
    try:
        lines = [line for line in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("not UTF-8 text", where=where, found=error, expected="a name of a user on each line") from None
    first = [name.strip() for name in lines[0]] if lines else []
    place = first.index(column) if column in first else 0
    if column not in first and any(len(line) > 1 for line in lines):
        raise DataError(f"there is no column {column!r}", where=f"{where}, line of names", found=", ".join(first[:20]),
                        expected=f"a column {column!r}, or a name of a user on each line")
    rows = lines[1:] if column in first else lines
    names = [line[place].strip() for line in rows if len(line) > place and line[place].strip()]
    if not names:
        raise DataError("this file names no user", where=where, expected="a name of a user on each line")
    return list(dict.fromkeys(names))


@torch.no_grad()
def recommend(scorer: ItemScorer, users: Sequence[str], top: int = SHOWN) -> Iterator[TopItems | UnknownUser]:
    """Of each user, in order, the `top` best items that it has not taken; an unknown user stops nothing."""
    numbers = {name: number for number, name in enumerate(scorer.users)}
    at_once = max(1, min(256, AT_ONCE // len(scorer.items)))
    for start in range(0, len(users), at_once):
        part = users[start : start + at_once]
        rows = torch.tensor([numbers[name] for name in part if name in numbers], dtype=torch.int64)
        scores = scorer.scores(rows).float()
        taken = torch.full((len(rows), 1), -1) if scorer.taken is None else scorer.taken.of(rows)
        best = top_items(scores, taken, top)
        said = iter(zip(best.tolist(), scores.gather(1, best.clamp(min=0)).tolist(), strict=True))
        for name in part:
            if name not in numbers:
                yield UnknownUser(name, DataError("a user that is not in the training data", where=printable(name)))
                continue
            items, values = next(said)
            kept = [place for place, item in enumerate(items) if item >= 0]
            yield TopItems(name, tuple(scorer.items[items[place]] for place in kept),
                           tuple(values[place] for place in kept))


def write_top_items(path: Path, found: Sequence[TopItems | UnknownUser]) -> None:
    """user,place,item,score, a row for each item, as CSV; a list of users as JSON, by the name of the file."""
    if path.suffix.lower() == ".json":
        files.write(path, ("[" + ",\n".join(one.as_json() for one in found) + "]\n").encode())
        return
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["user", "place", "item", "score"])
    for one in found:
        if isinstance(one, TopItems):
            rows.writerows([one.user, place, item, f"{score:.9g}"]
                           for place, (item, score) in enumerate(zip(one.items, one.scores, strict=True), 1))
    files.write(path, text.getvalue().encode())


def _told(path: Path) -> Mapping[str, str]:
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise ModelError("not a safetensors file", where=printable(path), found=str(problem)[:200]) from None


def _known(found: InteractionFile, scorer: ItemScorer) -> tuple[np.ndarray, np.ndarray]:
    """Those interactions whose user and item the scorer knows, by its numbers."""
    users, items = ({name: number for number, name in enumerate(names)} for names in (scorer.users, scorer.items))
    own = np.array([users.get(name, -1) for name in found.user_names], np.int64)[found.users]
    those = np.array([items.get(name, -1) for name in found.item_names], np.int64)[found.items]
    there = (own >= 0) & (those >= 0)
    return own[there], those[there]


def _pairs_of(lists: ItemLists) -> tuple[np.ndarray, np.ndarray]:
    users = torch.arange(len(lists.counts)).repeat_interleave(lists.counts)
    return users.numpy(), lists.items.numpy()


def _lists(pairs: Sequence[tuple[np.ndarray, np.ndarray]], users: int) -> ItemLists:
    """Lists of pairs of a user and an item; a pair may come twice."""
    return ItemLists(*lists_of(np.concatenate([one for one, _ in pairs]), np.concatenate([it for _, it in pairs]),
                               users))
