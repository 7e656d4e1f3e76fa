"""Errors of the command line, told as every other error: typer finds them, the words are ours."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from typing import Any

import typer

from tutelage.errors import UsageError, UserError, unknown

Mistake: type[Exception] = typer.BadParameter.__bases__[0]
"""The class of all that typer says of a command line; typer gives it no public name."""


def usage_error(mistake: Any, words: Sequence[str]) -> UserError:
    """What typer says of a command line, as an error of ours; `words` are the command line."""
    kind, message, name = type(mistake).__name__, mistake.message, vars(mistake).get("option_name", "")
    context: Any = mistake.ctx
    command = context.command_path if context else "tutelage"
    fix = f"{command} --help"
    if kind == "NoSuchOption":
        meant = next((word.partition("=")[0] for word in words if word.startswith(name)), name)  # -out begins with -o
        return unknown("option", meant, _options(context.command.get_params(context)), where=command)
    if kind == "BadOptionUsage":
        given = [word for word in words if word.startswith(f"{name}=")]
        return UsageError(f"the option {name!r} takes no value", found=given[0]) if given else _no_value(name)
    if kind == "MissingParameter":
        shown = [*_options([mistake.param]), mistake.param.metavar]
        what = "option" if len(shown) > 1 else "argument"
        return UsageError(f"the {what} {shown[0]!r} is missing", where=command, fix=fix)
    if kind == "BadParameter":
        options = _options([mistake.param]) or [mistake.param.metavar]
        return UsageError("not a value for this option", where=options[0], found=value_of(words, *options),
                          expected=message)
    if no_command := re.match("No such command '(.*?)'", message):
        return unknown("command", no_command[1], context.command.commands, where=command)
    if extra := re.match(r"Got unexpected extra argument.*? \((.*)\)", message):
        return UsageError("too many arguments", where=command, found=extra[1], fix=fix)
    return UsageError(message[:1].lower() + message[1:].rstrip("."), where=command, fix=fix)


def check_values(command: Any, words: Sequence[str]) -> None:
    """Refuse `--out --quick`: typer would take the next option for the value that was forgotten."""
    words = list(takewhile(lambda word: word != "--", words))
    for word in words:
        command = vars(command).get("commands", {}).get(word, command)
    valued = _options(param for param in command.params if not vars(param).get("is_flag"))
    known = {"--help", *_options(command.params)}
    for word, after in pairwise(words):
        if word in valued and after in known:
            raise _no_value(word, after)


def value_of(words: Sequence[str], *options: str) -> str | None:
    """The value that a command line gives to an option, as `--out DIR` or as `--out=DIR`; the last counts.

    >>> value_of(["train", "--out", "a", "--out=b"], "--out", "--resume")
    'b'
    """
    found = None
    for word, after in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name in options:
            found = value if equals else after
    return found


def _no_value(option: str, after: str | None = None) -> UsageError:
    return UsageError(f"the option {option!r} needs a value", found=after, expected=f"{option} VALUE",
                      fix=f"{option}={after} if that is its value" if after else None)


def _options(params: Iterable[Any]) -> list[str]:
    """The names of the options among the parameters of a command."""
    return [name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]
