"""What `tutelage init` writes for a file of interactions, and how `check-data` cuts one."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tutelage.data.decoding import open_regular
from tutelage.data.interaction_files import COLUMNS, INTERACTION_SUFFIXES, NEEDED, read_interactions
from tutelage.data.interactions import core_of, each_pair_once
from tutelage.data.load_users import CORE, GROUPS, load_users
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

STEPS = 1600
TEACHER = Architecture("mf", options={"dim": 64})
STUDENTS = {"narrow": Architecture("mf", options={"dim": 8}), "spread": Architecture("lightgcn", options={"dim": 8})}
CALLED = {"user": ("user", "userid", "customer", "customerid", "visitorid", "memberid"),
          "item": ("item", "itemid", "product", "productid", "article", "articleid", "stockcode", "sku", "movieid",
                   "trackid"),
          "time": ("time", "timestamp", "date", "datetime", "invoicedate", "orderdate"),
          "weight": ("weight", "quantity")}
"""What files call the columns, without case, spaces and underscores; the first name that a file has counts."""
MOST_OF_LINE = 65536


def has_users_and_items(place: Path) -> bool:
    """Whether a file is a CSV table with columns `user` and `item`."""
    if place.suffix.lower() != ".csv" or not place.is_file():
        return False
    return set(NEEDED) <= set(_names_in(place))


def settings_of_interactions(given: Path) -> tuple[DataSettings, list[str]]:
    """The [data] table that fits a file of interactions, and what is to be told of it.

    The core is the largest of 10, 5, 2 and 1 that keeps half of the interactions; pairs that come again are merged
    only where there are some. Whatever cannot be read is an error.
    """
    root = given.resolve()
    columns = _called(_names_in(given)) if given.suffix.lower() == ".csv" else None
    settings = DataSettings("interactions", root=str(root), columns=columns or None)
    if given.suffix.lower() not in INTERACTION_SUFFIXES or not given.is_file():
        return settings, []
    file, notes = read_interactions(root, settings.columns), []
    pairs = each_pair_once(file, "merge")
    again = len(file.users) - len(pairs.users)
    if again:
        settings = replace(settings, doubled="merge")
        notes.append(f"  {again} rows name a user and an item that an earlier row has: they count once")
    for core in (CORE, 5, 2, 1):
        try:
            kept = core_of(pairs, core)
        except DataError:
            continue
        if 2 * len(kept.users) >= len(pairs.users):
            return replace(settings, core=core, groups=min(GROUPS, len(kept.item_names))), notes
    return settings, notes


def start_of_users(given: Path) -> Start:
    """Read a file of interactions; whatever would stop a run is an error."""
    settings, notes = settings_of_interactions(given)
    data = load_users(settings, [given.resolve()])
    users, items = data.shape
    batch = batch_that_fits(users, (512, 256, 128, 64, 32, 16, 8), 5)
    told = f"{given}: {users} users and {items} items after a core of {settings.core}"
    lines = ['name = "interactions"', f"root = {json.dumps(settings.root)}", f"core = {settings.core}",
             f"groups = {settings.groups}", f"batch_size = {batch}"]
    if settings.columns:
        named = ", ".join(f"{key} = {json.dumps(name)}" for key, name in settings.columns.items())
        lines.append(f"columns = {{ {named} }}")
    if settings.doubled:
        lines.append('doubled = "merge"             # a pair that comes again counts once')
    if settings.columns is None or "time" in settings.columns:
        lines.append('split = "per_user"            # or "time": the latest fifth of all for test')
    return Start("\n".join([told, *notes, *(f"  {note}" for note in data.notes)]), f"{users} users and {items} items",
                 "users", "recommendation", "\n".join(lines), epochs_of(STEPS, batch, users, 20, 400), 0.01, TEACHER,
                 STUDENTS, "adamw", weight_decay=0.1)


def _called(names: Sequence[str]) -> dict[str, str]:
    """Column -> how these names call it, where one of them does; empty where all needed ones are called as they are."""
    plain = {name.lower().replace("_", "").replace(" ", ""): name for name in reversed(names)}
    found = {key: next((plain[one] for one in CALLED[key] if one in plain), None) for key in COLUMNS}
    if set(NEEDED) <= set(names):
        return {}
    return {key: name for key, name in found.items() if name is not None}


def _names_in(place: Path) -> list[str]:
    with open_regular(place) as file:
        line = file.readline(MOST_OF_LINE)
    text = line.decode("utf-8-sig", errors="replace")
    return [name.strip() for name in next(csv.reader([text.rstrip("\r\n")]), [])]
