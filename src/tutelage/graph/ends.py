"""The name of an end, taken apart: `node`, `node.tap`, `node@view` or `node.tap@view`."""

import re
from functools import cache
from typing import NamedTuple

from tutelage.errors import UsageError

BATCH_ENDS = ("labels", "ids")
_END = re.compile(r"(?P<node>[A-Za-z0-9_-]+)(?:\.(?P<tap>[^@]+))?(?:@(?P<view>[A-Za-z0-9_-]+))?")


class End(NamedTuple):
    """An end, taken apart: "" stands for the logits and for the plain view."""

    node: str
    tap: str
    view: str

    @property
    def name(self) -> str:
        """The end put together again."""
        return self.node + (f".{self.tap}" if self.tap else "") + (f"@{self.view}" if self.view else "")


@cache
def is_of_batch(end: str) -> bool:
    """Whether every batch brings this end: labels, one of several labels, or ids.

    >>> is_of_batch("labels.boxes"), is_of_batch("labels@strong")
    (True, False)
    """
    node, tap, view = parse_end(end)
    return node in BATCH_ENDS and not view and (not tap or node == "labels")


@cache
def parse_end(text: str) -> End:
    """Take the name of an end apart.

    >>> parse_end("teacher.layer4.1@strong")
    End(node='teacher', tap='layer4.1', view='strong')
    """
    match = _END.fullmatch(text)
    if match is None:
        raise UsageError("not the name of an end", found=repr(text),
                         expected="node, node.tap, node@view or node.tap@view; nodes and views of A-Z a-z 0-9 _ -")
    return End(match["node"], match["tap"] or "", match["view"] or "")


def is_end(text: str) -> bool:
    """Whether a text is the name of an end.

    >>> is_end("teacher.layer4"), is_end("two words")
    (True, False)
    """
    return _END.fullmatch(text) is not None
