"""What run folders, studies and bench rows say, by meaning, so that two versions of the package can be compared.

Facts are JSON-able words and numbers: no times, paths, ids, versions or texts, and scores in one layout.
"""

import hashlib
import json
import statistics
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LEFT_OUT = {"event", "seconds", "seconds_per_epoch", "images_per_second", "peak_bytes", "notes", "machine", "versions",
            "command", "tables", "table", "run", "says"}
"""Keys of what differs from one time to the next, or is text for people."""
NAMES = ("method", "recipe", "node", "metric", "seed", "key")
"""Keys that say what a row of a study is of, or a score."""
SHOWN = 5
"""Differences that are printed of one item."""
SHORTENED = 60
"""Characters of a value that a difference shows."""


def scores_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Scores in the layout {"nodes": {node: ...}, "pairs": {"a|b": ...}}, whichever they were written in.

    The older layout has the nodes beside "agreement", which has a number for each pair.

    >>> old = {"a": {"top1": 0.5}, "b": {"top1": 0.25}, "agreement": {"a|b": 0.75}}
    >>> new = {"nodes": {"a": {"top1": 0.5}, "b": {"top1": 0.25}}, "pairs": {"a|b": {"agreement": 0.75}}}
    >>> scores_of(old) == scores_of(new) == new
    True
    """
    nodes = metrics.get("nodes")
    if isinstance(nodes, Mapping) and all(isinstance(of, Mapping) for of in nodes.values()):
        found = {"pairs": {}, **metrics}
    else:
        found = {"nodes": {node: of for node, of in metrics.items() if node != "agreement"},
                 "pairs": metrics.get("agreement", {})}
    pairs = {pair: of if isinstance(of, Mapping) else {"agreement": of} for pair, of in found["pairs"].items()}
    return {**found, "pairs": pairs}


def lasting(value: Any) -> Any:
    """The same without the keys of `LEFT_OUT`, and all that is called "metrics" in one layout."""
    if isinstance(value, Mapping):
        return {key: lasting(scores_of(of) if key == "metrics" and isinstance(of, Mapping) else of)
                for key, of in value.items() if key not in LEFT_OUT}
    return [lasting(of) for of in value] if isinstance(value, list) else value


def folder_facts(folder: Path) -> dict[str, Any]:
    """What every finished run in a folder has come to, by its place in there ("." for the folder itself)."""
    runs = {path.parent.relative_to(folder).as_posix(): run_facts(path.parent)
            for path in sorted(folder.rglob("FINISHED"))}
    others = {path.relative_to(folder).as_posix(): lasting(json.loads(path.read_bytes()))
              for path in sorted(folder.rglob("*.json")) if path.name in ("phases.json", "reward.json")}
    return {**runs, **others}


def run_facts(run: Path) -> dict[str, Any]:
    """Weights by SHA-256, losses by edge and scores of each epoch, how it computed, its last state and evaluations."""
    lines = (run / "records.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [record for record in map(json.loads, lines) if record["event"] == "epoch"]
    facts = {"tuning": json.loads((run / "tuning.json").read_bytes()), "epochs": epochs,  # the first to differ is shown
             "FINISHED": json.loads((run / "FINISHED").read_bytes())}
    facts = {name: lasting(value) for name, value in facts.items()}
    states = sorted((run / "checkpoints").glob("step-*/manifest.json"), key=lambda path: (len(str(path)), path))
    if states:
        manifest = json.loads(states[-1].read_bytes())
        facts["checkpoint"] = {"frozen": manifest.get("frozen"), "data": manifest.get("data"),
                               "files": {name: of["sha256"] for name, of in manifest["files"].items()}}
    for path in sorted((run / "evaluation").glob("*/metrics.json")):
        facts[f"evaluation/{path.parent.name}"] = {
            **lasting(scores_of(json.loads(path.read_bytes()))),
            **{of.stem: tensor_facts(of.read_bytes()) for of in sorted(path.parent.glob("*.safetensors"))}}
    return facts


def tensor_facts(data: bytes) -> dict[str, str]:
    """SHA-256 of each tensor of a safetensors file, with its type and shape."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    return {name: hashlib.sha256(json.dumps([of["dtype"], of["shape"]]).encode()
                                 + body[slice(*of["data_offsets"])]).hexdigest()
            for name, of in header.items() if name != "__metadata__"}


def study_facts(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a study found, each row by what it is of: the order of nodes is that of a file's tensors, which is any."""
    found: dict[str, Any] = {}
    for key, value in lasting(results).items():
        if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
            found[key] = {" ".join(str(row[name]) for name in NAMES if name in row): row for row in value}
            if len(found[key]) < len(value):
                raise ValueError(f"two rows of one name among {list(found[key])}")
        else:
            found[key] = sorted(value) if key == "nodes" else value
    return found


def cache_facts(folder: Path) -> dict[str, Any]:
    """What a teacher cache holds: its keys are the folders' names, its shards have manifests with SHA-256."""
    return {path.parent.relative_to(folder).as_posix(): json.loads(path.read_bytes())["files"]
            for path in sorted(folder.rglob("manifest.json"))}


def compare(base: Any, head: Any, where: str = "") -> tuple[list[str], list[str]]:
    """What is missing or other in `head`, and what is new there, each with its place.

    >>> compare({"a": 1.0, "b": 2.0}, {"a": 1.5, "c": 3.0})
    (['a: 1.0 -> 1.5', 'b: missing in HEAD'], ['c'])
    """
    differences, notes = [], []
    if isinstance(base, Mapping) and isinstance(head, Mapping):
        for key, value in base.items():
            place = f"{where}, {key}" if where else str(key)
            if key not in head:
                differences.append(f"{place}: missing in HEAD")
                continue
            more, new = compare(value, head[key], place)
            differences, notes = differences + more, notes + new
        return differences, notes + [f"{where}, {key}" if where else str(key) for key in head if key not in base]
    if isinstance(base, list) and isinstance(head, list) and len(base) == len(head):
        for number, (one, other) in enumerate(zip(base, head, strict=True)):
            more, new = compare(one, other, f"{where}, {number}")
            differences, notes = differences + more, notes + new
        return differences, notes
    same = base == head or (base != base and head != head)  # nan, on both sides
    return ([] if same else [f"{where}: {_short(base)} -> {_short(head)}"]), []


def slowdowns(base: Sequence[Mapping], head: Sequence[Mapping]) -> dict[str, list[float]]:
    """Row -> by how large a share HEAD is slower, turn by turn, from what `tutelage bench` printed in each turn.

    A row that is to be at most so much is a time, one that is to be at least so much is a speed.
    """
    found: dict[str, list[float]] = {}
    for one, other in zip(base, head, strict=True):
        values = {row["name"]: row["value"] for row in other["rows"]}
        for row in one["rows"]:
            if row["name"] not in values:
                raise ValueError(f"the row {row['name']!r} is missing in HEAD")
            ratio = values[row["name"]] / row["value"]
            found.setdefault(row["name"], []).append((ratio if row["reach"].startswith("<=") else 1 / ratio) - 1)
    return found


def too_slow(found: Mapping[str, Sequence[float]], limit: float) -> list[str]:
    """The rows whose median is above the limit, told with the least and the most of all turns."""
    return [f"{row}: {statistics.median(shares):.1%} slower [{min(shares):.1%}, {max(shares):.1%}] "
            f"in {len(shares)} turns" for row, shares in found.items() if statistics.median(shares) > limit]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHORTENED else f"{text[:SHORTENED]}..."
