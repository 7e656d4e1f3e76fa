"""A report made from folders: what each of them is, its parts in order, and what is needed to do it again."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import ModelError
from tutelage.reporting.document import Column, Document, DocumentTable, Item, Section, Text
from tutelage.reporting.groups import Group, distinct, group_runs, member_of
from tutelage.reporting.run_folder import is_run, read_run
from tutelage.reporting.sections.certainty import gain_section, uncertainty_section
from tutelage.reporting.sections.classes import class_gain_section
from tutelage.reporting.sections.evaluation import evaluation_section
from tutelage.reporting.sections.fleet import fleet_section, fleets_section
from tutelage.reporting.sections.overview import cost_section, exports_section, glance_section
from tutelage.reporting.sections.study import StudyRecord, is_study, read_study_record, study_section
from tutelage.reporting.sections.training import curves_section, graph_section

MOST_CONFIGS = 12
MOST_OPEN = 3
"""Recipes whose details are open at first."""


def make_document(folders: Sequence[Path]) -> Document:
    """The whole report of run folders and study folders; ModelError for what is neither, or is damaged."""
    studies, members = list[StudyRecord](), []
    for folder in dict.fromkeys(folders):
        if is_study(folder):
            studies.append(read_study_record(folder))
        elif is_run(folder):
            members.append(member_of(read_run(folder)))
        else:
            raise ModelError("neither a run folder nor a study", where=folder,
                             found="no such folder" if not folder.exists() else "no run.json and no results.json",
                             expected="the --out of `tutelage train` or `tutelage compare`")
    groups = distinct([*(group for study in studies for group in study.groups), *group_runs(members)])
    sections = [glance_section(groups)] if groups else []
    sections += [study_section(study) for study in studies]
    sections.append(fleets_section(groups))
    sections += [_group_section(group, len(groups) > MOST_OPEN) for group in groups]
    baselines = [study.results["baseline"] for study in studies]
    sections += [gain_section(groups), class_gain_section(groups, baselines), cost_section(groups)] if groups else []
    sections += [exports_section(list(folders)), _repeat_section(groups, studies, folders)]
    names = [study.folder.name for study in studies] or [group.name for group in groups]
    listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    title = listed if len(names) <= 4 else f"{len(names)} recipes"
    runs = sum(len(group.members) for group in groups)
    return Document(title, f"{runs} {'run' if runs == 1 else 'runs'} of {len(groups)} "
                           f"{'recipe' if len(groups) == 1 else 'recipes'}",
                    [section for section in sections if not section.empty])


def _group_section(group: Group, folded: bool) -> Section:
    """All of one recipe."""
    parts = [graph_section(group), curves_section(group), evaluation_section(group), uncertainty_section(group),
             fleet_section(group)]
    return Section(group.name, parts=[part for part in parts if not part.empty], folded=folded)


def _repeat_section(groups: Sequence[Group], studies: Sequence[StudyRecord], folders: Sequence[Path]) -> Section:
    """The exact configuration, versions and command of each run; of one run for each recipe, the configuration."""
    members = [member for group in groups for member in group.members]
    items: list[Item] = []
    keys = list(dict.fromkeys(key for member in members for key in member.run.versions if key != "command"))
    if members:
        rows = [(key, *(_plain(member.run.versions.get(key)) for member in members)) for key in keys]
        alike = all(len(set(row[1:])) == 1 for row in rows)
        heads = ["every run"] if alike and len(members) > 1 else [member.name for member in members]
        columns = [Column("what"), *(Column(head) for head in heads)]
        items.append(DocumentTable("Versions and machine", columns, [row[: len(columns)] for row in rows]))
        commands = [(member.name, _plain(member.run.versions.get("command"))) for member in members]
        items.append(DocumentTable("Commands", (Column("run"), Column("command")), commands))
    for study in studies:
        if (command := study.results.get("command")) is not None:
            items.append(Text("", json.dumps(command) if not isinstance(command, str) else command,
                              f"Command of {study.folder.name}"))
    for group in groups[:MOST_CONFIGS]:
        items.append(Text("", group.first.run.config, f"config.toml of {group.first.name}"))
    if len(groups) > MOST_CONFIGS:
        items.append(Text(f"The configurations of {len(groups) - MOST_CONFIGS} more recipes are in their run folders."))
    items.append(Text("This report:", shlex.join(["tutelage", "report", *map(str, folders)])))
    return Section("How to do it again", items)


def _plain(value: object) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
