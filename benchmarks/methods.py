"""One table from the studies of recipes/methods.toml.

    python benchmarks/methods.py out/methods > benchmarks/results/methods.md

For each method, network and set of images: top-1 on test images, mean ± sd (n), its difference to plain distillation,
and the median seconds that an epoch took (two studies ran side by side).
"""

import statistics
import sys
from pathlib import Path

from tutelage.studies.statistics import comparison_of


def row_of(results: dict, method: str, node: str) -> str:
    """Top-1 and difference of one network, or nothing where it was not trained."""
    for row in results["rows"]:
        if (row["method"], row["node"], row["metric"]) == (method, node, "top1"):
            apart = row["difference"]
            told = f"{100 * row['mean']:.1f} ± {100 * row['sd']:.1f} ({row['n']})"
            return told if apart is None else f"{told}, {100 * apart['mean']:+.1f}, {apart['says'].partition(';')[0]}"
    return ""


def seconds_of(results: dict, method: str) -> str:
    """Median over the runs of a method, of several recipes added up."""
    cells = [cell for cell in results["cells"] if cell["method"] == method and cell["seconds_per_epoch"] is not None]
    each = {str(cell["recipe"]): [] for cell in cells}
    for cell in cells:
        each[str(cell["recipe"])].append(cell["seconds_per_epoch"])
    return f"{sum(map(statistics.median, each.values())):.1f}"


def main(folder: Path) -> None:
    """Print the table."""
    studies = {path.parent.name: comparison_of(path.parent) for path in sorted(folder.glob("*/results.json"))}
    first = next(iter(studies.values()))
    print(f"# Every method on {', '.join(studies)}\n")
    for node in ("resnet8", "mobilenetv2", "resnet8x4"):
        print(f"## {node}\n\n| method | {' | '.join(studies)} | s/epoch |\n|{'---|' * (len(studies) + 2)}")
        for method in first["methods"]:
            cells = [row_of(results, method, node) for results in studies.values()]
            seconds = [seconds_of(results, method) for results in studies.values()]
            if any(cells):
                print(f"| {method} | {' | '.join(cells)} | {' / '.join(seconds)} |")
        print()
    print(f"`{first['command']}`\n\n{first['machine']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
