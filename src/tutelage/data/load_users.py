"""The interactions that the settings name -> the data of a recommender."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from tutelage.data.interaction_files import InteractionFile, read_interactions
from tutelage.data.interactions import content_of_pairs, core_of, each_pair_once, held_back, lists_of, popularity_groups
from tutelage.data.settings import OF_USERS, DataSettings
from tutelage.data.shop import write_shop
from tutelage.data.source import Data, digest
from tutelage.data.splits import first
from tutelage.data.stream import CPU
from tutelage.data.user_source import ItemLists, UserSource
from tutelage.errors import DataError, UsageError

CORE, CORE_OF_SHOP, GROUPS = 10, 5, 4


def load_users(settings: DataSettings, roots: Sequence[Path] | None, *, seed: int = 0,
               device: torch.device = CPU) -> Data:
    """The data of the first of `roots` that is a file; without `roots` the made set `shop`.

    `Data.classes` are the names of the items, `Data.shape` is (users, items), and an id is the number of a user.
    """
    if settings.name not in OF_USERS or settings.work != "recommendation":
        raise UsageError("a task that these data are not for", where="[data] task", found=settings.work,
                         expected=f"recommendation with {' or '.join(OF_USERS)}, and these with no other")
    found = each_pair_once(interactions_named(settings, roots), settings.doubled or "error")
    core = settings.core if settings.core is not None and roots is not None else (
        CORE_OF_SHOP if roots is None else CORE)
    split, wanted = settings.split or "per_user", settings.groups or GROUPS
    kept, splits = held_back(core_of(found, core), split, settings.validation)
    users, items = len(kept.user_names), len(kept.item_names)
    popularity = np.bincount(kept.items[splits["train"]], minlength=items)
    groups = torch.tensor(popularity_groups(popularity.tolist(), wanted))
    chosen = torch.arange(users)
    before, sources, manifest = np.zeros(len(kept.users), bool), {}, {}
    for name, rows in splits.items():
        own = ItemLists(*lists_of(kept.users[rows], kept.items[rows], users))
        seen = ItemLists(*lists_of(kept.users[before], kept.items[before], users))
        ids = own.counts.nonzero()[:, 0]
        if settings.limit is not None:
            chosen = ids[first(ids, settings.limit)] if name == "train" else chosen
            ids = ids[torch.isin(ids, chosen)]
        sources[name] = UserSource(ids, own, seen, groups, torch.from_numpy(popularity), seed, device, kept.user_names)
        manifest[name] = (ids, own.items)
        before = before | rows
    rule = f"core {core}, split {split}, validation {settings.validation:g}, groups {wanted}, limit {settings.limit}"
    sizes = ", ".join(str(size) for size in groups.bincount().tolist())
    notes = (*kept.notes, f"{users} users, {items} items, {int(splits['train'].sum())} interactions in train; groups "
                          f"of {sizes} items, the most popular first")
    preprocessing = {"kind": "interactions", "users": users, "items": items}
    seal = digest(settings.name, kept.item_names, manifest, content_of_pairs(kept), rule)
    return Data(settings.name, kept.item_names, (users, items), sources["train"], sources["validation"],
                sources["test"], preprocessing, seal, notes=notes)


def interactions_named(settings: DataSettings, roots: Sequence[Path] | None) -> InteractionFile:
    """The file that the settings mean, read; the made one without `roots`."""
    if roots is None:
        with TemporaryDirectory() as folder:
            return read_interactions(write_shop(Path(folder)))
    for root in roots:
        if root.is_file():
            return read_interactions(root, settings.columns)
    raise DataError("no file of interactions here", where=roots[0], expected="a CSV or parquet file",
                    fix="mend [data] root")
