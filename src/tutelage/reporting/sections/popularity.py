"""The part of a report on recommenders that says what items of unlike popularity get."""

from tutelage.reporting.document import Column, DocumentTable, Section
from tutelage.reporting.schema import EvaluationRecord

COLUMNS = (Column("group", "integer"), Column("network"), Column("items", "integer"), Column("Recall@10", "share"),
           Column("NDCG@10", "share"), Column("share shown", "share"))


def popularity_section(evaluation: EvaluationRecord) -> Section:
    """A row for each popularity group and network, and for the most popular items where the evaluation has them."""
    found = {node: groups for node, scores in evaluation.nodes.items()
             if (groups := scores.get("by_group")) is not None}
    plain = evaluation.metrics.get("baseline") or {}
    if found and isinstance(plain.get("by_group"), dict):
        found = {str(plain["name"]): plain["by_group"], **found}
    if not found:
        return Section("Popularity")
    rows = [(number + 1, name, groups["items"][number], *(groups[key][number] for key in ("recall", "ndcg", "share")))
            for number in range(len(next(iter(found.values()))["items"])) for name, groups in found.items()]
    return Section("Popularity", [DocumentTable(
        "By popularity of the items", COLUMNS, rows, "Group 1 has the most popular items; all groups have about as "
        "many interactions.")])
