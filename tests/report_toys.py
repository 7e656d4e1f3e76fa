"""Run folders and studies as other commands write them, without training anything."""

import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tutelage.runs.evaluations import Evaluation, write_cost, write_evaluation
from tutelage.runs.folder import Records, open_run
from tutelage.system.files import write_json

RECIPE = """[data]
name = "digits"

[models.teacher]
arch = "resnet8x4"
weights = "/nowhere/teacher"

[models.resnet8]
arch = "resnet8"

[models.mobilenetv2]
arch = "mobilenetv2"

[method]
name = "dual_student"
teacher = "teacher"
students = ["resnet8", "mobilenetv2"]
peer_warmup = 0.3

[train]
epochs = 3
seed = {seed}
"""
STUDENTS = ("resnet8", "mobilenetv2")
EDGES = ("labels->resnet8:cross_entropy", "labels->mobilenetv2:cross_entropy", "teacher->resnet8:kl/4",
         "teacher->mobilenetv2:kl/4", "mobilenetv2->resnet8:kl/4", "resnet8->mobilenetv2:kl/4")
CLASSES = ("zero", "one", "two")


def run(folder: Path, *, epochs: int = 3, seed: int = 0, config: str | None = None, edges: Sequence[str] = EDGES,
        nodes: Sequence[str] = ("teacher", *STUDENTS), finished: bool = True, broken: float | None = None) -> Path:
    """A run folder; `broken` stands in it for the accuracy of the first node."""
    folder.mkdir(parents=True)
    open_run(folder, config or RECIPE.format(seed=seed), "data")
    draw, records, metrics = random.Random(seed), Records(folder, tensorboard=False), {}
    records.add("start", 0, damaged=[], not_bit_identical=[], computed={}, cached=False, notes=[])
    for epoch in range(1, epochs + 1):
        scores = {node: {"top1": 1 - 0.6 / (epoch + i) - 0.02 * draw.random(), "top5": 0.99,
                         "nll": 1.7 / epoch + 0.1 * i, "ece": 0.11 / epoch} for i, node in enumerate(nodes)}
        if broken is not None:
            scores[nodes[0]]["top1"] = broken
        metrics = {"nodes": scores, "pairs": {f"{a}|{b}": {"agreement": 0.75} for a, b in combinations(nodes, 2)}}
        losses = {edge: (2 + i) / epoch + 0.1 * draw.random() for i, edge in enumerate(edges)
                  if epoch > 1 or not edge.startswith(STUDENTS)}
        records.add("epoch", 10 * epoch, epoch=epoch, losses=losses,
                    accuracy={node: scores[node]["top1"] for node in nodes}, metrics=metrics,
                    learning_rate=dict.fromkeys(nodes, 0.1 / epoch), seconds=1.5, images_per_second=800.0,
                    peak_bytes={"host": 1}, notes=[])
    if finished and epochs:
        records.add("finished", 10 * epochs, metrics=metrics)
        write_json(folder / "FINISHED", {"step": 10 * epochs, "metrics": metrics, "weights": {}})
    return folder


def evaluate(folder: Path, classes: Sequence[str] = CLASSES, *, split: str = "test", seed: int = 0,
             nodes: Sequence[str] = ("teacher", *STUDENTS, "ensemble"), picture: bytes | None = None) -> dict[str, Any]:
    """An evaluation in a run folder, with numbers that could be; returns its metrics."""
    draw, count = random.Random(seed), len(classes)
    shot = picture if picture is not None else png()
    trusted = [{"id": i, "file": f"most-{i:02d}.png", "label": i % count, "prediction": (i // 2) % count,
                "weight": 1 - i / 100} for i in range(6)]
    metrics = {"on": split, "rows": 100 * count, "classes": list(classes),
               "nodes": {node: _scores(draw, count, i) for i, node in enumerate(nodes)},
               "pairs": {f"{a}|{b}": {"agreement": 0.9 - 0.01 * i, "kl": 0.2 + 0.1 * i, "both_right": 0.85,
                                      "one_right": 0.1, "both_wrong": 0.05}
                         for i, a in enumerate(nodes) for b in nodes[i + 1 :]},
               "uncertainty": {
                   "teacher": "teacher", "options": {"temperature": 1.0, "power": 1.0},
                   "histogram": {"edges": [i / 20 for i in range(21)], "count": [int(1.35**i) for i in range(20)]},
                   "mean": 0.8, "mean_right": 0.85, "mean_wrong": 0.41, "auroc": 0.91,
                   "deciles": {"edges": [i / 10 for i in range(11)], "count": [10 * count] * 10,
                               "accuracy": {node: [min(1.0, 0.55 + 0.05 * i + 0.01 * k) for i in range(10)]
                                            for k, node in enumerate(nodes)}},
                   "per_class": [draw.random() for _ in classes], "most": trusted,
                   "least": [{**image, "weight": 0.1, "file": None} for image in trusted]}}
    images = {image["file"]: shot for image in trusted}
    labels = torch.zeros(2, dtype=torch.int64)
    write_evaluation(folder, Evaluation(metrics, {"teacher": torch.zeros(2, 2)}, labels, torch.arange(2), images))
    return metrics


def cost(folder: Path, nodes: Sequence[str] = ("teacher", *STUDENTS)) -> dict[str, Any]:
    """A cost.json in a run folder."""
    found = {"machine": {"processor": "a toy", "threads": 1}, "convention": "1 multiply-add = 2 FLOP", "nodes": {
        node: {"parameters": 1_200_000 // (i * i + 1), "flops": 50_000_000 // (i + 1),
               "bytes": 4_800_000 // (i * i + 1),
               "compression": float(i * i + 1), "latency": {
                   size: {"median_ms": 3.0 / (i + 1), "low_ms": 2.8 / (i + 1), "high_ms": 3.3 / (i + 1),
                          "images_per_second": int(size) * 333.0 * (i + 1), "n": 50} for size in ("1", "32")}}
        for i, node in enumerate(nodes)}}
    write_cost(folder, found)
    return found


def study(folder: Path, methods: Sequence[str] = ("distill", "dual_student"), seeds: int = 3) -> dict[str, Any]:
    """A study with its runs."""
    rows, cells = [], []
    folder.mkdir(exist_ok=True)
    for number, method in enumerate(methods):
        for seed in range(seeds):
            path = run(folder / "runs" / f"{method}-{seed}", seed=seed)
            cells.append({"method": method, "recipe": "r.toml", "seed": seed, "run": str(path.relative_to(folder)),
                          "seconds": 4.5, "seconds_per_epoch": 1.5, "status": "finished"})
        for node in STUDENTS:
            values = [0.9 + 0.01 * number + 0.002 * seed for seed in range(seeds)]
            gain = 0.01 * number
            rows.append({"method": method, "node": node, "metric": "top1", "n": seeds, "values": values,
                         "mean": math.fsum(values) / seeds, "sd": 0.002, "difference": None if not number else {
                             "mean": gain, "low": gain - 0.004, "high": gain + 0.004, "p": 0.01, "p_holm": 0.02,
                             "wilcoxon_p": None, "n": seeds, "says": "better than distill"}})
    found = {"on": "test", "seeds": list(range(seeds)), "baseline": methods[0], "machine": "a toy",
             "versions": {"torch": "2"}, "command": "tutelage compare x.toml", "methods": list(methods),
             "nodes": list(STUDENTS), "rows": rows, "cells": cells,
             "mcnemar": [{"method": methods[-1], "node": "resnet8", "seed": 0, "only_method": 12, "only_baseline": 5,
                          "p": 0.14}],
             "tables": {"accuracy": {"title": "Accuracy by experiment", "columns": ["method", "top-1 %"], "note": "",
                                    "rows": [[method, "90.00 ± 0.20 (3)"] for method in methods]}}}
    (folder / "results.json").write_text(json.dumps(found))
    return found


def png(size: int = 8) -> bytes:
    """A small picture."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(out, "PNG")
    return out.getvalue()


def peers(count: int) -> tuple[str, list[str], list[str]]:
    """The recipe of `count` students who all learn from each other, with its nodes and edges."""
    nodes = [f"student{i}" for i in range(count)]
    models = "\n".join(f'[models.{node}]\narch = "resnet8"\n' for node in nodes)
    config = f'[data]\nname = "digits"\n\n{models}\n[method]\nname = "mutual"\nstudents = {json.dumps(nodes)}\n'
    edges = [f"labels->{node}:cross_entropy" for node in nodes]
    return config, nodes, edges + [f"{a}->{b}:kl" for a in nodes for b in nodes if a != b]


def _scores(draw: random.Random, count: int, i: int) -> dict[str, Any]:
    scores: dict[str, Any] = {"top1": 0.9 + 0.01 * i, "top5": 0.995, "nll": 0.3, "brier": 0.12, "ece": 0.034,
                              "adaptive_ece": 0.031, "classwise_ece": 0.012, "macro_f1": 0.89, "aurc": 0.018,
                              "per_class": [draw.random() for _ in range(count)]}
    bins = [k / 15 + 0.033 for k in range(15)]
    scores["reliability"] = {"confidence": [None, *bins[1:]], "accuracy": [None, *(b * 0.93 for b in bins[1:])],
                             "count": [0, *(k * k for k in range(1, 15))]}
    scores["temperature"] = {"value": 1.4, "nll_before": 0.3, "nll_after": 0.27, "ece_before": 0.034,
                             "ece_after": 0.011}
    if count <= 200:
        scores["confusion"] = [[90 if a == b else draw.randrange(6) for b in range(count)] for a in range(count)]
    return scores


def numbers(value: Mapping[str, Any] | Sequence[Any] | object) -> list[float]:
    """Every number in a structure."""
    if isinstance(value, Mapping):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
