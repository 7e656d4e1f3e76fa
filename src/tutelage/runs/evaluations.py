"""What was measured of a run, in its folder: written whole, read back checked, and the same for whoever reads it.

    evaluation/SPLIT/   metrics.json   logits.safetensors   most-00.png ...   least-00.png ...
    evaluation/cost/    cost.json

`logits.safetensors` holds "labels" [N] int64 (-1: none), "ids" [N] int64, and "logits.NODE" [N, C] float32 for every
node that classifies. Where the task is another, evidence.safetensors is there instead: "labels", "ids", and
"evidence.NODE.NAME" [N, ...], what the task's judge keeps of each row; and worst-NODE-00.png ... if the task draws.
docs/evaluation.md says what each number of the two JSON files means. A number that is not defined is null. Each folder
has a manifest with the SHA-256 of its files.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tutelage.errors import ModelError, UsageError
from tutelage.system.files import locked, pack, read_folder, sweep, unpack, write_folder

SPLITS = ("train", "validation", "test")
FOLDER, COST = "evaluation", "cost"
METRICS_FILE, LOGITS_FILE, COST_FILE = "metrics.json", "logits.safetensors", "cost.json"
EVIDENCE_FILE = "evidence.safetensors"
_LOGITS, _EVIDENCE = "logits.", "evidence."


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A run on one of its splits: what metrics.json says, the logits behind it, and PNG files by their names.

    Where the task is not to tell classes apart there are no logits, but the evidence of each node by its name.
    """

    metrics: dict[str, Any]
    logits: Mapping[str, Tensor]
    labels: Tensor
    ids: Tensor
    images: Mapping[str, bytes]
    evidence: Mapping[str, Mapping[str, Tensor]] | None = None

    @property
    def split(self) -> str:
        """The split that it is of."""
        return self.metrics["on"]


def write_evaluation(run: Path, evaluation: Evaluation) -> Path:
    """Put an evaluation into the run's folder, in the place of an earlier one of this split."""
    rows = {"labels": evaluation.labels, "ids": evaluation.ids}
    if evaluation.evidence is None:
        name, tensors = LOGITS_FILE, {f"{_LOGITS}{node}": x.float() for node, x in evaluation.logits.items()}
    else:
        name, tensors = EVIDENCE_FILE, {f"{_EVIDENCE}{node}.{what}": x for node, seen in evaluation.evidence.items()
                                        for what, x in seen.items()}
    files = {METRICS_FILE: as_json(evaluation.metrics), name: pack({**rows, **tensors}), **evaluation.images}
    return _write(run, evaluation.split, files)


def write_cost(run: Path, cost: Mapping[str, Any]) -> Path:
    """Put what the networks cost into the run's folder, in the place of an earlier measurement."""
    return _write(run, COST, {COST_FILE: as_json(cost)})


def evaluation_of(run: str | Path, split: str) -> Evaluation:
    """The evaluation of a run on a split.

    UsageError if there is none yet, ModelError if a byte of it is not as it was written.
    """
    path, files = _read(Path(run), split, f"evaluate {run} --on {split}")
    name = EVIDENCE_FILE if EVIDENCE_FILE in files else LOGITS_FILE
    tensors, _ = unpack(_file(files, name, path), path / name)
    images = {name: data for name, data in files.items() if name.endswith(".png")}
    if not {"labels", "ids"} <= set(tensors):
        raise ModelError("not an evaluation", where=path / name, found=sorted(tensors),
                         expected="labels, ids and logits or evidence", fix="evaluate the run again")
    logits = {name.removeprefix(_LOGITS): tensor for name, tensor in tensors.items() if name.startswith(_LOGITS)}
    evidence: dict[str, dict[str, Tensor]] = {}
    for key in (key for key in tensors if key.startswith(_EVIDENCE)):
        node, _, what = key.removeprefix(_EVIDENCE).partition(".")
        evidence.setdefault(node, {})[what] = tensors[key]
    return Evaluation(_object(files, METRICS_FILE, path), logits, tensors["labels"], tensors["ids"], images,
                      evidence if name == EVIDENCE_FILE else None)


def cost_of(run: str | Path) -> dict[str, Any]:
    """What the networks of a run cost; errors are those of `evaluation_of`."""
    path, files = _read(Path(run), COST, f"evaluate {run}")
    return _object(files, COST_FILE, path)


def evaluated(run: str | Path) -> tuple[str, ...]:
    """The splits that a run was evaluated on, and "cost" if that was measured; whether they are whole is not asked."""
    return tuple(name for name in (*SPLITS, COST) if (Path(run) / FOLDER / name).is_dir())


def as_json(value: object) -> bytes:
    """JSON with null for every number that is not finite.

    >>> as_json({"a": [1.5, float("nan")]})
    b'{"a": [1.5, null]}'
    """
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False).encode()


def finite(value: Any) -> Any:
    """The same words and numbers, with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _write(run: Path, name: str, files: Mapping[str, bytes]) -> Path:
    path = run / FOLDER / name
    with locked(run):
        if path.parent.is_dir():
            sweep(path.parent)
        write_folder(path, files, {"holds": name}, replace=True)
    return path


def _read(run: Path, name: str, command: str) -> tuple[Path, dict[str, bytes]]:
    path = run / FOLDER / name
    if not path.exists():
        raise UsageError("not measured yet" if run.exists() else "no such run folder", where=path,
                         found=", ".join(evaluated(run)) or "nothing", fix=f"tutelage {command}")
    return path, read_folder(path, "evaluation")[1]


def _file(files: Mapping[str, bytes], name: str, path: Path) -> bytes:
    if name not in files:
        raise ModelError("not an evaluation", where=path, found=f"no {name}", fix="evaluate the run again")
    return files[name]


def _object(files: Mapping[str, bytes], name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_file(files, name, path))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ModelError("not an evaluation", where=path / name, expected="a JSON object", fix="evaluate the run again")
    return value
