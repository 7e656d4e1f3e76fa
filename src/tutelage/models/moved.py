"""Modules of this package that had another name before: the error of a plugin that imports one says the new name."""

import re
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from tutelage.errors import UsageError

MOVED: Mapping[str, str] = {
    "tutelage.divergences": "tutelage.graph.divergences",
    "tutelage.loop": "tutelage.engine.loop",
    "tutelage.parts": "tutelage.graph.modules",
    "tutelage.training": "tutelage.engine.train",
}
"""Old name of a module, or of a folder of modules -> its new name. It is read only where an import has failed."""


def import_plugin(name: str, where: object, moved: Mapping[str, str] = MOVED) -> ModuleType:
    """A module that the user allows; UsageError if it cannot be imported, with the new name of what has moved."""
    try:
        return import_module(name)
    except ImportError as problem:
        raise UsageError(f"cannot import the plugin {name!r}", where=where, found=problem,
                         fix=_fix(problem, moved)) from None


def _fix(problem: ImportError, moved: Mapping[str, str]) -> str:
    wanted = problem.name or ""
    if lacking := re.match(r"cannot import name '(\w+)'", str(problem)):
        wanted += f".{lacking[1]}"  # `from tutelage import loop`
    if old := max((old for old in moved if f"{wanted}.".startswith(f"{old}.")), key=len, default=None):
        return f"{old} is now {moved[old]}: mend the import"
    if wanted.startswith("tutelage."):
        return "mend the import: this version of tutelage has no such name"
    return "install it, or add its folder to PYTHONPATH"
