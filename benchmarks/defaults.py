"""Which options of dual_student help over all conditions of recipes/defaults, from the runs that are there.

    python benchmarks/defaults.py benchmarks/results/defaults-validation.json out/defaults --to out/defaults.json

It reads folders of studies, and files that it wrote. A condition is one number: the mean over its runs of what a method
has more than `plain` with the same seed on the same machine, on the validation images of the last epoch. Printed is the
mean over conditions with its standard error, and every condition.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from tutelage.runs.folder import read_scores

METRICS = {"top1": ("top-1, points", 100.0), "nll": ("NLL", 1.0), "ece": ("ECE, points", 100.0)}
BASELINE = "plain"
Found = dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]
"""condition -> method -> source and seed -> node -> metric -> number."""


def read(sources: list[Path]) -> Found:
    """What the finished runs say; a study without conditions is one, named after its folder."""
    found: Found = defaultdict(lambda: defaultdict(dict))
    for source in sources:
        if source.is_file():
            for condition, methods in json.loads(source.read_bytes()).items():
                for method, runs in methods.items():
                    found[condition][method] |= {f"{source.stem}, {run}": scores for run, scores in runs.items()}
        for path in sorted(source.rglob("FINISHED")):
            *above, runs, method, seed = path.parent.relative_to(source.parent).parts
            nodes = read_scores(json.loads(path.read_bytes())["metrics"])["nodes"]
            if runs == "runs" and method != "teacher":
                found[above[-1]][method][f"{source.name}, {seed}"] = {
                    node: {metric: scores[metric] for metric in METRICS} for node, scores in nodes.items()
                    if node != "teacher"}
        for path in sorted(source.rglob("results.json")):  # where the runs were looked at together
            study = json.loads(path.read_bytes())
            for row in study["rows"]:
                if row["node"] == "ensemble" and row["metric"] in METRICS:
                    for seed, value in zip(study["seeds"], row["values"], strict=True):
                        run = found[path.parent.name][row["method"]][f"{source.name}, seed-{seed}"]
                        run.setdefault("ensemble", {})[row["metric"]] = value
    return found


def differences(found: Found, method: str, node: str, metric: str) -> dict[str, float]:
    """Condition -> mean over the seeds that both have of method - plain."""
    made = {}
    for condition, methods in found.items():
        apart = [scores[node][metric] - methods[BASELINE][seed][node][metric]
                 for seed, scores in methods.get(method, {}).items()
                 if node in scores and node in methods.get(BASELINE, {}).get(seed, {})]
        if apart:
            made[condition] = statistics.mean(apart)
    return made


def main(sources: list[Path], to: Path | None) -> None:
    """Print the tables."""
    found = read(sources)
    methods = list(dict.fromkeys(method for of in found.values() for method in of))
    nodes = sorted({node for of in found.values() for seeds in of.values() for run in seeds.values() for node in run})
    if to is not None:
        to.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    for node in nodes:
        for metric, (name, scale) in METRICS.items():
            print(f"\n{node}, {name}, minus {BASELINE}\n\n| method | mean ± SE (n) | {' | '.join(found)} |\n"
                  f"|{'---|' * (len(found) + 2)}")
            for method in (method for method in methods if method != BASELINE):
                apart = {condition: scale * value
                         for condition, value in differences(found, method, node, metric).items()}
                error = statistics.stdev(apart.values()) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
                each = " | ".join(f"{apart[condition]:+.2f}" if condition in apart else "" for condition in found)
                print(f"| {method} | {statistics.mean(apart.values()):+.2f} ± {error:.2f} ({len(apart)}) | {each} |")


if __name__ == "__main__":
    *given, last = sys.argv[1:]
    if "--to" in given:
        main([Path(word) for word in given[: given.index("--to")]], Path(last))
    else:
        main([Path(word) for word in [*given, last]], None)
