"""What a user can get wrong, one class for each exit code.

    UserError (a ValueError)
    |-- UsageError      2   a recipe, a flag, a graph: nothing was created
    |-- DataError       3   the images, the labels, the splits
    |-- ModelError      4   a network, its weights, a checkpoint
    |-- NumericError    5   a number stopped being one
    |-- ResourceError   6   disk, memory, file handles
    |-- BusyError       7   the run folder is in use
    |-- PeerError       8   another rank failed
    `-- SecurityError   9   refused: it could run foreign code or exhaust the machine

An error is one block: what happened, where, what was found, what was expected, and the fix. What is our own
mistake, not the user's, is an `assert`. `Interrupted` is no error: the run was asked to stop.
"""

from collections.abc import Iterable
from difflib import get_close_matches

FIELDS = ("where", "found", "expected", "fix")


class UserError(ValueError):
    """Something the user can mend, told in one block.

    >>> print(UserError("no such class", where="labels.txt, line 3", found="'trukc'", fix="write 'truck'"))
    no such class
      where     labels.txt, line 3
      found     'trukc'
      fix       write 'truck'
    """

    exit_code = 2
    kind = "usage"

    def __init__(self, what: str, *, where: object = None, found: object = None, expected: object = None,
                 fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        super().__init__(self.block())

    def block(self) -> str:
        """The error as lines for a person."""
        lines = [self.what]
        for name, text in self.fields().items():
            if name in FIELDS:
                lines.append(f"  {name:<9} " + text.replace("\n", "\n" + " " * 12))
        return "\n".join(lines)

    def fields(self) -> dict[str, str]:
        """The error as fields for a program (`--json`)."""
        values = {"error": self.kind, "what": self.what, "where": self.where, "found": self.found,
                  "expected": self.expected, "fix": self.fix}
        return {name: value for name, value in values.items() if value is not None}


class UsageError(UserError):
    """A recipe, a flag or a graph that cannot be meant."""


class DataError(UserError):
    """Images, labels or splits that cannot be used as they are."""

    exit_code = 3
    kind = "data"


class ModelError(UserError):
    """A network, its weights or a checkpoint that cannot be used."""

    exit_code = 4
    kind = "model"


class NumericError(UserError):
    """A loss or an output that is no longer a finite number."""

    exit_code = 5
    kind = "numeric"


class ResourceError(UserError):
    """The machine has too little of something: disk, memory, file handles."""

    exit_code = 6
    kind = "resource"


class BusyError(UserError):
    """Another process holds the run folder."""

    exit_code = 7
    kind = "busy"


class PeerError(UserError):
    """Another rank of this run failed; the group was stopped and can be resumed."""

    exit_code = 8
    kind = "peer"


class SecurityError(UserError):
    """Refused, because it could run foreign code or exhaust the machine."""

    exit_code = 9
    kind = "security"


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop, and has: a checkpoint is saved. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def placed(error: UserError, where: object, inside: str | None = None) -> UserError:
    """The same complaint with its place: `inside` (by default what it says itself) is within `where`.

    >>> print(placed(UsageError("no such network", where="arch"), "recipe.toml, [models.a]"))
    no such network
      where     recipe.toml, [models.a]: arch
    """
    inside = error.where if inside is None else inside
    return type(error)(error.what, where=f"{where}: {inside}" if inside else where, found=error.found,
                       expected=error.expected, fix=error.fix)


def unknown(kind: str, name: str, known: Iterable[str], *, where: object = None,
            error: type[UserError] = UsageError) -> UserError:
    """The error for a name that is not among the known ones, with the nearest of them.

    >>> print(unknown("method", "dual_studnet", ["distill", "dual_student"]))
    unknown method 'dual_studnet'
      expected  one of: distill, dual_student
      fix       did you mean 'dual_student'?
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    shown = ", ".join(names[:30]) + (f" ... ({len(names)} in all)" if len(names) > 30 else "")
    return error(f"unknown {kind} {name!r}", where=where, expected=f"one of: {shown}" if names else "none are known",
                 fix=f"did you mean {close[0]!r}?" if close else None)
