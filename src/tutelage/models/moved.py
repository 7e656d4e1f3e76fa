"""Modules of this package that had another name before: the error of a plugin that imports one says the new name."""

import re
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from tutelage.errors import UsageError

MOVED: Mapping[str, str] = {
    "tutelage.assessment": "tutelage.tasks.classification.evaluate",
    "tutelage.attacks": "tutelage.tasks.classification.attacks",
    "tutelage.benching": "tutelage.bench.recipe",
    "tutelage.benchmarking": "tutelage.bench.rows",
    "tutelage.caching": "tutelage.engine.teacher_cache.use",
    "tutelage.calibration": "tutelage.tasks.classification.calibration",
    "tutelage.candidates": "tutelage.analysis.search.space",
    "tutelage.checkpoint": "tutelage.runs.checkpoint",
    "tutelage.cli": "tutelage.cli.main",
    "tutelage.closed_form": "tutelage.graph.fused_losses",
    "tutelage.commands": "tutelage.cli.commands",
    "tutelage.comparison": "tutelage.studies.statistics",
    "tutelage.complexity": "tutelage.analysis.ntk",
    "tutelage.config": "tutelage.recipes.recipe",
    "tutelage.cost": "tutelage.models.cost",
    "tutelage.data.making": "tutelage.data.assemble",
    "tutelage.data.numbers": "tutelage.data.label_files",
    "tutelage.data.own": "tutelage.data.from_python",
    "tutelage.diswot": "tutelage.analysis.search.diswot",
    "tutelage.divergences": "tutelage.graph.divergences",
    "tutelage.evaluation": "tutelage.engine.predict",
    "tutelage.evolution": "tutelage.analysis.search.evolution",
    "tutelage.exploring": "tutelage.cli.analyse",
    "tutelage.exporting.rerun": "tutelage.exporting.run_exported",
    "tutelage.exporting.student": "tutelage.exporting.module",
    "tutelage.files": "tutelage.system.files",
    "tutelage.floor": "tutelage.bench.floor",
    "tutelage.graph": "tutelage.graph.graph",
    "tutelage.graph.BATCH_ENDS": "tutelage.graph.ends.BATCH_ENDS",
    "tutelage.graph.Computed": "tutelage.graph.nodes.Computed",
    "tutelage.graph.Controller": "tutelage.graph.controller.Controller",
    "tutelage.graph.Edge": "tutelage.graph.edge.Edge",
    "tutelage.graph.Ema": "tutelage.graph.nodes.Ema",
    "tutelage.graph.End": "tutelage.graph.ends.End",
    "tutelage.graph.Ensemble": "tutelage.graph.nodes.Ensemble",
    "tutelage.graph.Frozen": "tutelage.graph.nodes.Frozen",
    "tutelage.graph.Trained": "tutelage.graph.nodes.Trained",
    "tutelage.graph.describe": "tutelage.graph.naming.describe",
    "tutelage.graph.name_of": "tutelage.graph.naming.name_of",
    "tutelage.graph.parse_end": "tutelage.graph.ends.parse_end",
    "tutelage.graph.unbound": "tutelage.graph.naming.unbound",
    "tutelage.guard": "tutelage.engine.monitor",
    "tutelage.incremental": "tutelage.recipes.class_phases",
    "tutelage.jobs": "tutelage.recipes.job",
    "tutelage.kept_rows": "tutelage.engine.teacher_cache.codecs",
    "tutelage.knowledge_quality": "tutelage.analysis.layer_quality",
    "tutelage.loop": "tutelage.engine.loop",
    "tutelage.machine": "tutelage.system.machine",
    "tutelage.metrics": "tutelage.tasks.classification.metrics",
    "tutelage.models.network.logits_of": "tutelage.graph.taps.logits_of",
    "tutelage.models.taps": "tutelage.graph.taps",
    "tutelage.naive": "tutelage.bench.naive_loop",
    "tutelage.objective": "tutelage.graph.objective",
    "tutelage.optim": "tutelage.engine.optimizers",
    "tutelage.parts": "tutelage.graph.modules",
    "tutelage.predicting": "tutelage.exporting.predict",
    "tutelage.preparation": "tutelage.engine.dry_run",
    "tutelage.randomness": "tutelage.system.random",
    "tutelage.recording": "tutelage.engine.cuda_graph",
    "tutelage.records": "tutelage.runs.folder",
    "tutelage.reporting.diagram": "tutelage.reporting.graph_model",
    "tutelage.reporting.drawing": "tutelage.reporting.graph_svg",
    "tutelage.reporting.evaluated": "tutelage.reporting.schema",
    "tutelage.reporting.grouping": "tutelage.reporting.groups",
    "tutelage.reporting.judging": "tutelage.reporting.sections.evaluation",
    "tutelage.reporting.learning": "tutelage.reporting.sections.training",
    "tutelage.reporting.making": "tutelage.reporting.build",
    "tutelage.reporting.overview": "tutelage.reporting.sections.overview",
    "tutelage.reporting.page": "tutelage.reporting.html",
    "tutelage.reporting.plain": "tutelage.reporting.markdown_csv_json",
    "tutelage.reporting.reading": "tutelage.reporting.run_folder",
    "tutelage.reporting.studying": "tutelage.reporting.sections.study",
    "tutelage.reporting.trusting": "tutelage.reporting.sections.certainty",
    "tutelage.reporting.wording": "tutelage.reporting.formatting",
    "tutelage.reporting.writing": "tutelage.reporting.write",
    "tutelage.results": "tutelage.runs.evaluations",
    "tutelage.running": "tutelage.engine.precision",
    "tutelage.sample_weights": "tutelage.graph.sample_weights",
    "tutelage.schedules": "tutelage.graph.schedules",
    "tutelage.searching": "tutelage.analysis.search.run",
    "tutelage.sequence": "tutelage.recipes.sequence",
    "tutelage.settings": "tutelage.engine.settings",
    "tutelage.shipping": "tutelage.exporting.from_run",
    "tutelage.starting": "tutelage.recipes.init",
    "tutelage.studies": "tutelage.studies.study",
    "tutelage.studying": "tutelage.studies.compare",
    "tutelage.supervision": "tutelage.analysis.supervision",
    "tutelage.tabulating": "tutelage.studies.tables",
    "tutelage.teacher_cache": "tutelage.engine.teacher_cache.store",
    "tutelage.terminal": "tutelage.cli.terminal",
    "tutelage.training": "tutelage.engine.train",
    "tutelage.tuning": "tutelage.engine.autotune",
    "tutelage.uncertainty": "tutelage.tasks.classification.teacher_certainty",
    "tutelage.words": "tutelage.recipes.lookup",
    "tutelage.working": "tutelage.studies.executor",
    "tutelage.world": "tutelage.system.distributed",
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
