"""The part of a report on fused images: scores of each set, such as day and night, and images side by side."""

from tutelage.reporting.document import Column, DocumentTable, Gallery, Item, Picture, Section
from tutelage.reporting.formatting import written
from tutelage.reporting.schema import EvaluationRecord


def sets_section(evaluation: EvaluationRecord) -> Section:
    """The scores of each set of samples, where an evaluation has several."""
    there = {node: found for node, scores in evaluation.nodes.items() if (found := scores.get("by_set"))}
    scores = [score for score in evaluation.judged_by if any(score.key in found for found in there.values())]
    rows = [(node, name, found["count"][number], *(found.get(score.key, [None] * len(found["names"]))[number]
                                                   for score in scores))
            for node, found in there.items() for number, name in enumerate(found["names"])]
    columns = [Column("network"), Column("set"), Column("samples", "integer"),
               *(Column(score.title, score.kind) for score in scores)]
    items: list[Item] = [DocumentTable("Scores of each set", columns, rows)] if rows else []
    return Section("Sets", items)


def side_by_side_section(evaluation: EvaluationRecord) -> Section:
    """Samples from the worst to the best of a student: what it was given, and what each network says."""
    first = evaluation.judged_by[0]
    items: list[Item] = [
        Gallery(f"id {sample['id']}: {sample['node']} has {first.title} {written(sample['score'], first.kind)}",
                [Picture(evaluation.picture(file), (name,)) for name, file in sample["pictures"].items()], large=True)
        for sample in evaluation.metrics.get("shown") or []]
    return Section("Side by side, from the worst to the best", items)
