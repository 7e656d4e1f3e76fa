"""What `search` and `analyse` found, as text for a person."""

import tomli_w

from tutelage.analysis.search.run import BASELINES, Search, recipe_words
from tutelage.analysis.supervision import Analysis
from tutelage.system.text import table


def complexity_text(analysis: Analysis) -> str:
    """An analysis as a person reads it."""
    how = analysis.settings
    rows = [["student", "targets", "T", "right", "complexity", "adjusted"]]
    for row in analysis.rows:
        rows.append([row.student, row.targets, "" if row.temperature is None else f"{row.temperature:g}",
                     f"{row.right:.1%}", f"{row.complexity:.4g}", f"{row.adjusted:.4g}"])
    return (f"{analysis.run}: {how.kernel} kernel, weights of the {how.weights}, {how.images} images of {how.on}\n\n"
            f"{table(rows)}\n\nThe smaller, the easier are the targets for the student. `adjusted` does not depend on "
            "the kernel's scale.")


def search_text(search: Search, show: int = 10) -> str:
    """A search as a person reads it: the best `show`, what the scores are worth, and the winner's table of a recipe."""
    how, best = search.settings, search.found[0]
    lines = [f"teacher {search.teacher} on {search.data}, all weights random: {how.initialisations} initialisations x "
             f"{how.batches} batches of {how.batch} images; semantic term {search.semantic}",
             f"{len(search.found)} of {search.of} candidates scored"
             + (f", {search.refused} refused as too large" if search.refused else ""), "",
             _candidates(search, show), ""]
    if search.with_parameters is not None:
        lines += [f"Rank correlation of score and number of parameters: {search.with_parameters:+.2f} (Spearman)."]
    if search.correlations:
        lines += ["", *_judged(search)]
    words = tomli_w.dumps({"models": {"student": recipe_words(best.architecture)}}).strip()
    lines += ["", f"The winner, {best.name}, in a recipe:", "", words]
    return "\n".join(lines)


def _candidates(search: Search, show: int) -> str:
    known = bool(search.correlations)
    rows = [["rank", "candidate", "score", "relation", "semantic", "rank sum", "parameters", "by parameters", "MFLOP",
             *(["accuracy"] if known else [])]]
    for one in search.found[:show]:
        accuracy = "" if one.accuracy is None else f"{one.accuracy:.2f}"
        rows.append([f"{one.rank:g}", one.name, f"{one.score:.5f}", f"{one.relation:.5f}", f"{one.semantic:.5f}",
                     f"{one.rank_sum:g}", f"{one.parameters}", f"{one.rank_by_parameters:g}", f"{one.flops / 1e6:.1f}",
                     *([accuracy] if known else [])])
    return table(rows)


def _judged(search: Search) -> list[str]:
    """How each measure orders the candidates whose accuracy is known; the baselines need no score at all."""
    count = sum(one.accuracy is not None for one in search.found)
    rows = [["", "Spearman", "Kendall"]]
    for measure, found in search.correlations.items():
        name = measure.replace("_", " ") + (" (baseline)" if measure in BASELINES else "")
        rows.append([name, *("-" if value is None else f"{value:+.2f}" for value in found.values())])
    lines = [f"Rank correlations with the known accuracy of {count} candidates:", table(rows)]
    ours, counted = (search.correlations[measure]["spearman"] for measure in ("score", "parameters"))
    if ours is not None and counted is not None and counted >= ours:
        lines += ["Counting parameters orders these candidates at least as well as the score."]
    return lines
