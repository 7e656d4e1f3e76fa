"""What tests say of all things at once, which says nothing where there are none."""

from collections.abc import Iterable


def every(items: Iterable[object]) -> bool:
    """`all(items)`, of at least one."""
    items = list(items)
    assert items, "nothing was looked at"
    return all(items)
