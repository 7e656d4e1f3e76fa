"""Where a word of a recipe stands: its file, line and table, or the --set that it came from."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

Keys = tuple[str | int, ...]
"""From the top of a file: names of tables and keys; of the tables of a list, a number from 0 on."""

_TOKEN = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\])*"' r"|'''.*?'{3,5}|'[^']*'" r"|#[^\n]*|[\[\]{}\n]",
                    re.DOTALL)


@dataclass(frozen=True)
class Place:
    """A table of a file in TOML, or a key in it. It is looked up when it is told, which is when something is wrong.

    `file` is the file, or what is told in its place where there is none; `overrides` are "TABLE.KEY=VALUE", the last of
    a key counts.

    >>> text = '[data]\\nlabels = [\\n"seed =",\\n]\\n[train]\\nseed = 1'
    >>> print(Place("recipe.toml", text).of("train").at("seed"))
    recipe.toml, line 6, [train]
    >>> print(Place("recipe.toml", text, ("train.seed=2",)).of("train").at("seed"))
    recipe.toml, --set train.seed=2
    """

    file: object
    text: str = ""
    overrides: tuple[str, ...] = ()
    table: Keys = ()
    key: Keys = ()

    def of(self, *table: str | int) -> "Place":
        """A table of the same file."""
        return replace(self, table=table, key=())

    def at(self, *key: str | int) -> "Place":
        """A key within this place; one that is not there stands where the table stands that it should be in."""
        return replace(self, key=(*self.key, *key))

    def __str__(self) -> str:
        keys = (*self.table, *self.key)
        for override in reversed(self.overrides):
            path = override_keys(override)
            if keys[:len(path)] == path:
                return f"{self.file}, --set {override}"
        lines, into = line_numbers(self.text), {override_keys(override): override for override in self.overrides}
        while keys and keys not in lines and not any(path[:len(keys)] == keys for path in into):
            keys = keys[:-1]
        line = [f"line {lines[keys]}"] if keys in lines else []
        table = [shown_key(self.table)] if self.table else []
        sets = [f"--set {override}" for path, override in into.items() if keys and path[:len(keys)] == keys]
        return ", ".join([str(self.file), *line, *table, *sets])


def override_keys(override: str) -> tuple[str, ...]:
    """The keys of "TABLE.KEY=VALUE", from the top of the file."""
    return tuple(override.partition("=")[0].strip().split("."))


def shown_key(table: Keys) -> str:
    """A table as its header stands in a file; of a list, with its number from 1 on.

    >>> shown_key(("models", "a.b")), shown_key(("edges", 1))
    ('[models."a.b"]', '[[edges]] 2')
    """
    names = ".".join(name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
                     for name in table if isinstance(name, str))
    return f"[[{names}]] {table[-1] + 1}" if isinstance(table[-1], int) else f"[{names}]"


def line_numbers(text: str) -> dict[Keys, int]:
    """The line, from 1 on, on which each table, key and table of a list begins; `text` must be TOML."""
    found: dict[Keys, int] = {}
    lists: Counter[Keys] = Counter()
    table: Keys = ()
    for number, statement in _statements(text):
        held = tomllib.loads(statement)
        if not statement.lstrip().startswith("["):
            for keys in _keys(held):
                found.setdefault((*table, *keys), number)
            continue
        table = ()
        while held:
            [(name, held)] = held.items()
            table = (*table, name)
            found.setdefault(table, number)
            if isinstance(held, list):
                lists[table] += 1
                held = held[0]
            if table in lists:
                table = (*table, lists[table] - 1)
        found[table] = number
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with the number of its first line; lists and strings may go over several."""
    start, number, depth = 0, 1, 0
    for token in _TOKEN.finditer(text + "\n"):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and not depth:
            yield number, text[start:token.start()]
            number += text.count("\n", start, token.end())
            start = token.end()


def _keys(value: Any, path: Keys = ()) -> Iterator[Keys]:
    """Every key in a value, from the outermost on."""
    if isinstance(value, dict | list):
        for name, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, name)
            yield from _keys(inside, (*path, name))
