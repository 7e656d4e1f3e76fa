"""Which output of a network is which class of the data, by name.

A network's outputs are known by *spellings*: a tuple for each output, its own name first. ImageNet's come from timm:
(WordNet id, whole description, first lemma, further lemmas ...).
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from tutelage.errors import ModelError

Spellings = Sequence[tuple[str, ...]]
SHOWN = 20


def columns_by_name(wanted: Sequence[str], known: Spellings, where: object = None) -> tuple[int, ...]:
    """For each class wanted, the output that is meant by it; case and underscores do not matter.

    >>> columns_by_name(["Great_Tit", "crow"], [("crow",), ("jay",), ("great tit",)])
    (2, 0)
    """
    levels = _levels(known)
    hits = {name: _outputs(name, levels) for name in wanted}
    _refuse_missing([name for name in wanted if not hits[name]], known, where)
    for name in wanted:
        if len(hits[name]) > 1:
            options = "; ".join(f"{i}: {', '.join(known[i])}" for i in sorted(hits[name]))
            raise ModelError(f"class {name!r} is the name of {len(hits[name])} outputs", where=where, found=options,
                             fix="name the class by its WordNet id, or give a file of names as `classes`")
    columns = tuple(min(hits[name]) for name in wanted)
    _refuse_twice(wanted, columns, known, where)
    return columns


def columns_of_some(wanted: Sequence[str], known: Spellings, where: object = None) -> tuple[int, ...]:
    """As `columns_by_name`, with -1 for a class that no output is called; ModelError if that is so of all of them.

    >>> columns_of_some(["wren", "Crow"], [("crow",), ("jay",)])
    (-1, 0)
    """
    missing = set(unmatched(wanted, known))
    if len(missing) == len(set(wanted)):
        raise ModelError("the network knows none of the data's classes", where=where,
                         found=f"its outputs are {shortened([readable(names) for names in known])}",
                         expected=f"some of the data's: {shortened(wanted)}",
                         fix="name the classes of the data as the network does, or give a file of names as `classes`")
    columns = iter(columns_by_name([name for name in wanted if name not in missing], known, where))
    return tuple(-1 if name in missing else next(columns) for name in wanted)


def imagenet_spellings(count: int) -> Spellings | None:
    """The classes of timm's and torchvision's ImageNet networks with `count` outputs, or None where unknown."""
    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    descriptions = info.label_descriptions()
    return [(synset, text, *text.split(", ")) for synset, text in zip(info.label_names(), descriptions, strict=True)]


def read_names(path: str) -> tuple[str, ...]:
    """A file with one class name a line, in the order of a network's outputs."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelError("cannot read the file of class names", where=path, found=_reason(problem),
                         expected="one class name a line, UTF-8",
                         fix='mend the path, or write classes = "by-name"') from None
    names = tuple(line.strip() for line in lines if line.strip())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ModelError("class names must be there, and each once", where=path,
                         found=f"more than once: {twice[:SHOWN]}" if twice else "no name", fix="mend the file")
    return names


def unmatched(wanted: Sequence[str], known: Spellings) -> list[str]:
    """The classes wanted that no output is called."""
    levels = _levels(known)
    return [name for name in wanted if not _outputs(name, levels)]


def readable(spellings: tuple[str, ...]) -> str:
    """The one spelling of an output that a person knows it by: for ImageNet the first lemma."""
    return spellings[min(2, len(spellings) - 1)]


def plain(names: Sequence[str]) -> Spellings:
    """Names without other spellings."""
    return [(name,) for name in names]


def _levels(known: Spellings) -> list[Mapping[str, set[int]]]:
    # From the strictest reading to the loosest: "crane fly" must not be lost because "crane" is two things.
    own: dict[str, set[int]] = {}
    first: dict[str, set[int]] = {}
    rest: dict[str, set[int]] = {}
    for i, spellings in enumerate(known):
        own.setdefault(spellings[0], set()).add(i)
        for j, text in enumerate(spellings):
            (first if j < 3 else rest).setdefault(_simple(text), set()).add(i)
    return [own, first, rest]


def _outputs(name: str, levels: Sequence[Mapping[str, set[int]]]) -> set[int]:
    own, *loose = levels
    found = [own.get(name, set()), *(level.get(_simple(name), set()) for level in loose)]
    return next((hits for hits in found if hits), set())


def _refuse_missing(missing: Sequence[str], known: Spellings, where: object) -> None:
    if not missing:
        return
    close = get_close_matches(_simple(missing[0]), [_simple(text) for spellings in known for text in spellings], n=1)
    fix = f"did you mean {close[0]!r} by {missing[0]!r}? Or " if close else ""
    raise ModelError(
        f"the network does not know {len(missing)} of the data's classes", where=where, found=shortened(missing),
        expected=f"names among its {len(known)} outputs, such as {shortened([readable(names) for names in known[:3]])}",
        fix=fix + 'give a file of names as `classes`, or start a new head: head = "new"')


def _refuse_twice(wanted: Sequence[str], columns: Sequence[int], known: Spellings, where: object) -> None:
    for i, column in enumerate(columns):
        j = columns.index(column)
        if j < i:
            raise ModelError("two classes of the data are one output of the network", where=where,
                             found=f"{wanted[j]!r} and {wanted[i]!r} are output {column}: {', '.join(known[column])}",
                             fix="rename one of the two classes")


def shortened(names: Sequence[str]) -> str:
    """The first 20 names, and how many there are where there are more."""
    more = f" ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _simple(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name.casefold()).strip()


def _reason(problem: Exception) -> str:
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
