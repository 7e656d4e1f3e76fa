"""`python benchmarks/same.py BASE`: whether this working tree computes the same bits as the commit BASE.

Both sides train the recipes of recipes/digits in short, once exactly and once as it is fast; runs that are killed and
resumed, that two ranks share, with a teacher cache, and with choices that are given; a study and the examples. What is
compared is what they mean: weights, losses by edge, scores, evaluations and graphs; no texts, times or paths. Then the
bench's rows of losses and overhead take turns. BASE runs in this environment, its own source first on the path.

Whatever a side has found is kept under --to by the content of its source, so BASE is trained once. One thread a run.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

from same_facts import SHOWN, compare, slowdowns, too_slow
from same_items import Failed, Item, Place, Side, find, items_of, teacher, teachers_of

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("src", "recipes", "examples")
"""What of a commit makes a difference."""
SPEED = {"losses": 5, "overhead": 15}
"""Group of rows -> rounds in one turn."""
TURNS, LIMIT = 5, 0.03


def judge(name: str, base: Any, head: Any) -> tuple[list[str], list[str]]:
    """What differs in an item and what is new, from what the sides have found or why they have not."""
    failed = [str(found) for found in (base, head) if isinstance(found, Failed)]
    if failed:
        return failed, []
    wrong = [found.pop("wrong") for found in (base, head) if "wrong" in found]
    if name == "graph":  # of recipes that only one side has there is a note
        base, head = ({recipe: of for recipe, of in one.items() if recipe in other}
                      for one, other in ((base, head), (head, base)))
    differences, notes = compare(base, head)
    return wrong + differences, notes


def attempt(item: Item, place: Place) -> Any:
    try:
        return find(item, place)
    except (Failed, LookupError, ValueError, OSError) as error:
        return error if isinstance(error, Failed) else Failed(f"{place.side.name}: {type(error).__name__}: {error}")


@dataclass
class Report:
    """What has been said so far; all differences go into `home`/differences.json."""

    home: Path
    total: int
    differences: dict[str, list[str]]
    notes: Counter[str]
    begun: float

    def add(self, name: str, differences: Sequence[str], notes: Iterable[str] = ()) -> None:
        """A line for each item as it is done."""
        self.differences[name] = list(differences)
        self.notes.update(f"only in HEAD: {place.rpartition(', ')[2]}" for place in notes)
        say = f"differs: {differences[0]}" if differences else "same"
        done, seconds = f"{len(self.differences)}/{self.total}", time.monotonic() - self.begun
        print(f"{done:>7} {seconds:6.0f} s  {name:<44} {say}", flush=True)

    def close(self) -> int:
        """The end of the answer, and the exit code."""
        for note, times in self.notes.items():
            print(f"note: {note}" + (f" ({times} times)" if times > 1 else ""))
        (self.home / "differences.json").write_text(json.dumps(self.differences, indent=1))
        bad = {name: told for name, told in self.differences.items() if told}
        for name, told in bad.items():
            more = [f"... and {len(told) - SHOWN} more"] * (len(told) > SHOWN)
            print("\n  ".join([f"{name} differs:", *told[:SHOWN], *more]))
        print(f"{len(bad)} of {self.total} items differ" if bad else "nothing differs")
        return int(bool(bad))


def work_off(items: Sequence[Item], base: Side, head: Side, jobs: int, report: Report) -> None:
    """Each item on both sides, so many processes at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        work: dict[Future, tuple[Item, Side]] = {
            pool.submit(attempt, item, Place(side, item.name, base)): (item, side)
            for item in items for side in (base, head)}
        found: dict[str, dict[str, Any]] = {}
        try:
            for future in as_completed(work):
                item, side = work[future]
                found.setdefault(item.name, {})[side.name] = future.result()
                if len(found[item.name]) == 2:
                    report.add(item.name, *judge(item.name, found[item.name][base.name], found[item.name][head.name]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def speed(group: str, base: Side, head: Side) -> list[str]:
    """Rows of the bench in which HEAD is slower; the sides take turns, and more of them while it seems so."""
    rows: dict[str, list[dict]] = {base.name: [], head.name: []}
    slow: list[str] = []
    for turn in range(3 * TURNS):
        for side in (base, head) if turn % 2 else (head, base):
            (said,) = Place(side, f"speed/{group}", base).commands(
                ["bench", "recipes/digits/dual_student.toml", "--only", group, "--rounds", str(SPEED[group]), "--json"])
            rows[side.name].append(json.loads(said))
        if (turn + 1) % TURNS == 0:
            slow = too_slow(slowdowns(rows[base.name], rows[head.name]), LIMIT)
            if not slow:
                break
    return slow


def side_of(name: str, files: dict[str, bytes], to: Path) -> Side:
    """A side whose folder is named by all that its findings depend on."""
    conditions: list[str] = [sys.version, platform.platform(), platform.node()]
    for library in ("torch", "numpy", "pillow"):
        try:
            conditions.append(version(library))
        except PackageNotFoundError:
            conditions.append("")
    digest = hashlib.sha256(json.dumps(conditions).encode())
    for own in ("same_facts.py", "same_items.py"):
        digest.update(Path(__file__).with_name(own).read_bytes())
    for path, data in sorted(files.items()):
        digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
    side = Side(name, to.resolve() / f"{name.lower()}-{digest.hexdigest()[:12]}")
    for folder in ("said", "facts"):
        (side.home / folder).mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        place = side.tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists() or place.read_bytes() != data:  # an earlier call may have been stopped while it wrote
            place.write_bytes(data)
    return side


def git(*words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace").strip())
    return done.stdout


def committed(revision: str) -> dict[str, bytes]:
    """The files of a commit that make a difference."""
    with tarfile.open(fileobj=BytesIO(git("archive", "--format=tar", revision))) as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in files.items() if file and name.split("/")[0] in PARTS}


def here() -> dict[str, bytes]:
    """Those of the working tree, whether committed or not."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS).decode().split("\0")
    return {name: (ROOT / name).read_bytes() for name in names if name and (ROOT / name).is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("--only", metavar="GLOB", action="append", help="only these items, as 'digits/*'")
    parser.add_argument("--to", metavar="DIR", type=Path, default=ROOT / "out" / "same", help="where to work")
    parser.add_argument("--jobs", metavar="N", type=int, default=len(os.sched_getaffinity(0)),
                        help="so many processes at a time; all processors by default")
    asked = parser.parse_args()
    revision = git("rev-parse", "--verify", f"{asked.base}^{{commit}}").decode().strip()
    base, head = side_of("BASE", committed(revision), asked.to), side_of("HEAD", here(), asked.to)
    known, notes = items_of(base, head)
    names = [*(item.name for item in known), *(f"speed/{group}" for group in SPEED)]
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in asked.only or ["*"])]
    if not wanted:
        sys.exit(f"no such item; there are: {', '.join(names)}")
    items = [item for item in known if item.name in wanted]
    fast = [name for name in wanted if name.startswith("speed/")]
    needed = dict.fromkeys([*teachers_of(base, items), *teachers_of(head, items)])
    teachers = [Item(f"teacher/{name}", partial(teacher, name=name)) for name in needed]
    print(f"BASE {revision[:12]} in {base.home}\nHEAD, the working tree, in {head.home}", flush=True)
    report = Report(head.home, len(teachers) + len(items) + len(fast), {}, Counter(notes), time.monotonic())
    work_off(teachers, base, head, asked.jobs, report)
    work_off(items, base, head, asked.jobs, report)
    for name in fast:
        try:
            report.add(name, speed(name.removeprefix("speed/"), base, head))
        except (Failed, ValueError, LookupError) as error:
            report.add(name, [str(error)])
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
