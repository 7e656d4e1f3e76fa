"""Keys that recipes were given later: a resolved recipe that was written before means what was done then.

Whoever adds a key whose default is not what was done before puts its table, name and old meaning into `ADDED`. A
recipe that a person wrote and that lacks the key means the default; one that a run folder or a study kept means the
old value, and whatever goes on there keeps it.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Keys = Mapping[str, Mapping[str, Any]]
"""Table -> key -> value."""
ADDED: Keys = {"data": {"orientation": "as stored", "leakage": "allow", "images_by": "suffix"}}
"""What these keys mean where a resolved recipe lacks them."""


def lacking(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of `ADDED`, what a resolved recipe lacks; nothing for one that a person wrote.

    Every resolved recipe says how its command was called, `[run] quick`, and no other does.
    """
    run = tables.get("run")
    if not isinstance(run, Mapping) or "quick" not in run:
        return {}
    missing = {table: {key: old for key, old in keys.items() if key not in tables[table]}
               for table, keys in ADDED.items() if isinstance(tables.get(table), Mapping)}
    return {table: keys for table, keys in missing.items() if keys}


def with_keys(tables: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """The tables of a recipe with these keys where it does not say them itself."""
    return {**tables, **{table: {**more, **tables[table]} for table, more in keys.items()
                         if isinstance(tables.get(table), Mapping)}}


def lacking_in(run: Path) -> dict[str, dict[str, Any]]:
    """`lacking` of the recipe that a run folder keeps; nothing where there is none."""
    try:
        return lacking(tomllib.loads((run / "config.toml").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def as_overrides(keys: Keys, data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Overrides that say the values which these keys have in a resolved recipe."""
    return [f"{table}.{key}={data[table][key]}" for table, more in keys.items() for key in more]
