"""Keys that recipes were given later: a resolved recipe that was written before means what was done then.

Whoever adds a key whose default is not what was done before puts its table, name and old meaning into `ADDED`, or, of
an option of a method, its name and old meaning into `OLDER` in the method's file. A recipe that a person wrote and that
lacks the key means the default; one that a run folder or a study kept means the old value, and whatever goes on there
keeps it.
"""

import inspect
import json
import pkgutil
import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tutelage import methods

Keys = Mapping[str, Mapping[str, Any]]
"""Table -> key -> value; the options of a method stand under "method.NAME"."""
ADDED: Keys = {"data": {"orientation": "as stored", "split_rule": 1, "every_class": False,
                       "leakage": "allow", "images_by": "suffix"}}
"""What these keys mean where a resolved recipe lacks them."""


def lacking(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of `ADDED`, what a resolved recipe lacks; nothing for one that a person wrote.

    Every resolved recipe says how its command was called, `[run] quick`, and no other does.
    """
    run = tables.get("run")
    if not isinstance(run, Mapping) or "quick" not in run:
        return {}
    asked = {**ADDED, **_older_options(tables)}
    missing = {table: {key: old for key, old in keys.items() if key not in tables[table.partition(".")[0]]}
               for table, keys in asked.items() if _is_there(table, tables)}
    return {table: keys for table, keys in missing.items() if keys}


def resolved(method: Mapping[str, Any]) -> dict[str, Any]:
    """A [method] table with the defaults of those options that meant something else before they were there."""
    older = _older_options({"method": method})
    if not older:
        return dict(method)
    function = vars(_file_of(str(method["name"])))[str(method["name"])]
    usual = inspect.signature(function).parameters
    return {**method, **{key: usual[key].default for keys in older.values() for key in keys if key not in method}}


def with_keys(tables: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """The tables of a recipe with these keys where it does not say them itself."""
    more = {table.partition(".")[0]: values for table, values in keys.items() if _is_there(table, tables)}
    return {**tables, **{table: {**values, **tables[table]} for table, values in more.items()}}


def lacking_in(run: Path) -> dict[str, dict[str, Any]]:
    """`lacking` of the recipe that a run folder keeps; nothing where there is none."""
    try:
        return lacking(tomllib.loads((run / "config.toml").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def as_overrides(keys: Keys, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Overrides that say the values which these keys have in the tables of a resolved recipe."""
    return [f"{head}.{key}={json.dumps(tables[head][key])}" for table, more in keys.items() if _is_there(table, tables)
            for head in (table.partition(".")[0],) for key in more]


def _older_options(tables: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What options of this recipe's method meant before they were there, as the method's file says."""
    method = tables.get("method")
    name = method.get("name") if isinstance(method, Mapping) else None
    older = vars(_file_of(name)).get("OLDER", {}) if isinstance(name, str) and _is_method(name) else {}
    return {f"method.{name}": older} if older else {}


def _is_there(table: str, tables: Mapping[str, Any]) -> bool:
    head, _, name = table.partition(".")
    found = tables.get(head)
    return isinstance(found, Mapping) and (not name or found.get("name") == name)


def _is_method(name: str) -> bool:
    return any(module.name == name for module in pkgutil.iter_modules(methods.__path__))


def _file_of(method: str) -> ModuleType:
    return import_module(f"tutelage.methods.{method}")
