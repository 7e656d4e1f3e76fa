"""What is wrong with the interactions that a recipe names: the first thing that a run would stop at, and notes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tutelage.data.check import Finding
from tutelage.data.decoding import printable
from tutelage.data.interactions import each_pair_once
from tutelage.data.load_users import interactions_named, load_users
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, SecurityError, UserError


@dataclass(frozen=True)
class InteractionReport:
    """What `check_interactions` found. `counts` says how many users each split has, `notes` what was left out."""

    root: str
    counts: dict[str, int]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops a run."""
        return tuple(finding for finding in self.findings if finding.error)

    def as_json(self) -> str:
        """The report for a program."""
        return json.dumps({"root": self.root, "counts": self.counts, "notes": self.notes,
                           "errors": [asdict(finding) for finding in self.errors]}, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person."""
        lines = [self.root, *(f"  {split:<10} {count} users" for split, count in self.counts.items()),
                 *(f"  note       {note}" for note in self.notes)]
        for finding in self.findings:
            lines += [f"  error      {finding.what}", f"  {'':<12} where     {finding.example}",
                      f"  {'':<12} fix       {finding.fix}"]
        return "\n".join(lines if self.findings else [*lines, "  nothing wrong was found"])

    def __str__(self) -> str:
        return self.text()


def check_interactions(settings: DataSettings, roots: Sequence[Path]) -> InteractionReport:
    """Read, cut and group the interactions as a run would; with doubled ones, also what a run would keep without."""
    root, findings, notes = printable(roots[0]), list[Finding](), list[str]()
    try:
        file = interactions_named(settings, roots)
        try:
            each_pair_once(file, settings.doubled or "error")
        except DataError as error:
            findings.append(_stops(error, root))
            settings = replace(settings, doubled="merge")
        notes.append(f"{len(file.users)} interactions of {len(file.user_names)} users with {len(file.item_names)} items"
                     " in the file")
        data = load_users(settings, roots)
    except SecurityError:
        raise
    except UserError as error:
        return InteractionReport(root, {}, tuple(notes), (*findings, _stops(error, root)))
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return InteractionReport(root, {name: len(split.ids) for name, split in splits.items() if split is not None},
                             (*notes, *data.notes), tuple(findings))


def _stops(error: UserError, root: str) -> Finding:
    fix = error.fix or (f"expected {error.expected}" if error.expected else "mend the file")
    found = "" if error.found is None else f" ({error.found})"
    return Finding(error.kind, error.what, 1, f"{error.where or root}{found}", fix, (), True)
