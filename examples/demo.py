"""`make demo`: on digits, a teacher, then two unlike students from scratch, by plain distillation, and by dual_student.

Each line it prints with `$` is a command that you can type yourself.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
RECIPE = "recipes/digits/dual_student.toml"
METHODS = {
    "scratch": ["method.hard=1.0", "method.soft=0.0", "method.peers=none"],
    "distill": ["method.uncertainty=false", "method.peers=none", "method.hard=0.5", "method.soft=0.5"],
    "dual_student": [],
}


def command(*words: str, threads: int) -> subprocess.Popen:
    print("$ tutelage", shlex.join(words), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen([sys.executable, "-m", "tutelage", *words], cwd=ROOT, env=environment,
                            stdout=subprocess.PIPE, text=True)


def wait(*processes: subprocess.Popen) -> list[str]:
    texts = [process.communicate()[0] for process in processes]
    for process in processes:
        if process.returncode:
            sys.exit(process.returncode)  # the command has said why
    return texts


def train(method: str, threads: int) -> subprocess.Popen:
    sets = [word for option in METHODS[method] for word in ("--set", option)]
    return command("train", RECIPE, "--out", str(RUNS / f"demo-{method}"), *sets, threads=threads)


def rows() -> list[list[str]]:
    texts = wait(*(command("evaluate", str(RUNS / f"demo-{method}"), "--on", "test", "--no-cost", "--json", threads=1)
                   for method in METHODS))
    metrics = {method: json.loads(text)["nodes"] for method, text in zip(METHODS, texts, strict=True)}
    versions = {method: records(method) for method in METHODS}
    count = parameters(RUNS / "demo-teacher" / "models" / "teacher.safetensors")
    table = [["method", "network", "top-1", "ECE", "parameters", "compression", "seconds"],
             row("teacher", "teacher", metrics["scratch"]["teacher"], count, count, records("teacher"))]
    for method in METHODS:
        for node in ("resnet8", "mobilenetv2"):
            own = parameters(RUNS / f"demo-{method}" / "models" / f"{node}.safetensors")
            table.append(row(method, node, metrics[method][node], own, count, versions[method]))
    return table


def row(method: str, node: str, scores: dict, own: int, teacher: int, seconds: float) -> list[str]:
    return [method, node, f"{scores['top1']:.2%}", f"{scores['ece']:.3f}", f"{own:,}", f"{teacher / own:.2f}x",
            f"{seconds:.0f}"]


def records(method: str) -> float:
    lines = (ROOT / RUNS / f"demo-{method}" / "records.jsonl").read_text().splitlines()
    return sum(record["seconds"] for record in map(json.loads, lines) if record["event"] == "epoch")


def parameters(path: Path) -> int:
    """How many numbers a file of weights holds, BatchNorm's statistics and counters left out; read from its header."""
    data = (ROOT / path).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    kept = [shape for name, shape in shapes.items()
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    total = 0
    for shape in kept:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def main() -> None:
    began, cores = time.perf_counter(), os.cpu_count() or 1
    wait(command("train", "recipes/digits/teacher.toml", "--out", str(RUNS / "demo-teacher"), threads=cores))
    half = max(1, cores // 2)
    wait(train("scratch", half), train("distill", half))
    wait(train("dual_student", cores))
    table = rows()
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\nOne seed on 358 test images: differences of a point or two are noise."
          f"\nThe run folders are {', '.join(str(RUNS / f'demo-{name}') for name in ['teacher', *METHODS])};"
          f" all of it took {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
