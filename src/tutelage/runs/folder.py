"""A run folder: what was asked for, what happened, and that it is finished.

    config.toml      the resolved recipe          records.jsonl   one JSON line an event, never edited by hand
    versions.json    libraries and machine        tensorboard/    the same numbers as TensorBoard events
    run.json         identity of the run          models/         the networks, at the end
    checkpoints/     states to resume from        FINISHED        the run is complete; written last
    tuning.json      how each network computes    graph.json      who learns from whom, as data
"""

import hashlib
import json
import os
import platform
import sys
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import ModelError, UsageError
from tutelage.system.files import disk_errors, write, write_json
from tutelage.types import Scores

LIBRARIES = ("tutelage", "torch", "torchvision", "timm", "numpy", "safetensors", "pillow")


class Records:
    """The records of one run: JSON lines, and TensorBoard events of their numbers."""

    def __init__(self, folder: Path, *, tensorboard: bool = True) -> None:
        self.path = folder / "records.jsonl"
        self._wanted, self._writer = tensorboard, None

    def add(self, event: str, step: int, **values: object) -> None:
        """One line, on the disk when this returns."""
        line = json.dumps({"event": event, "step": step, **values})
        with disk_errors(self.path, len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        if (writer := self._tensorboard()) is not None:
            for tag, number in _numbers(event, values):
                writer.add_scalar(tag, number, step)
            writer.flush()

    def rewind(self, step: int) -> None:
        """Forget what was recorded after `step`: the run goes on from there and will record it again."""
        kept = [json.dumps(record) for record in read_records(self.path.parent)
                if record["step"] <= step and record["event"] != "finished"]
        write(self.path, "".join(line + "\n" for line in kept).encode())
        self._tensorboard(forget_from=step + 1)

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        if self._writer is not None:
            self._writer.close()

    def _tensorboard(self, forget_from: int | None = None):
        if self._wanted and self._writer is None:
            self._writer = _writer(self.path.parent, forget_from)
        return self._writer


def read_records(folder: Path) -> list[dict]:
    """All events of a run, in order; a last line that a crash cut short is left out."""
    path = folder / "records.jsonl"
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() and path.stat().st_size else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an event")
            records.append(record)
        except ValueError:
            if number < len(lines):
                raise ModelError("a damaged record", where=f"{path}, line {number}",
                                 found=line[:80].decode(errors="replace")) from None
    return records


def read_scores(written: Mapping[str, Any]) -> Scores:
    """The scores in a record, a checkpoint or FINISHED, also in those of before nodes and pairs lay apart.

    There it was node -> metric -> number, with "agreement" -> "a|b" -> share among the nodes.
    """
    if written.keys() == {"nodes", "pairs"}:  # of two nodes of these names there was an agreement, too
        return Scores(nodes=written["nodes"], pairs=written["pairs"])
    nodes, shares = dict(written), written.get("agreement")
    if not isinstance(shares, Mapping) or not all("|" in pair for pair in shares):  # a node of that name, alone
        return Scores(nodes=nodes, pairs={})
    del nodes["agreement"]
    return Scores(nodes=nodes, pairs={pair: {"agreement": share} for pair, share in shares.items()})


def refuse_others(folder: Path) -> None:
    """Refuse a place that is no run's before anything is written there; where a lock is, `open_run` judges."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("a run needs a folder, and this is a file", where=folder, fix="choose another --out")
    if folder.is_dir() and not any((folder / name).exists() for name in ("lock", "run.json")):
        _refuse_strangers(folder)


def open_run(folder: Path, config: str, data_digest: str) -> str:
    """The id of the run in `folder`: a new one in an empty folder, the old one where config and data are the same."""
    digest = hashlib.sha256(json.dumps([config, data_digest]).encode()).hexdigest()
    if (folder / "run.json").exists():
        identity = read_json(folder / "run.json")
        if identity["digest"] != digest:
            raise UsageError("this folder holds another run", where=folder,
                             found=_difference(folder, config) or "other data than now",
                             expected="an empty folder, or the same recipe and data",
                             fix="choose another --out; `tutelage train --resume DIR` goes on with what is there")
    else:  # first of all: whatever is killed after this finds its folder again
        _refuse_strangers(folder)
        identity = {"id": uuid.uuid4().hex, "digest": digest, "format": 1}
        write_json(folder / "run.json", identity)
    if not (folder / "config.toml").exists():
        write(folder / "config.toml", config.encode())
    if not (folder / "versions.json").exists():
        write_json(folder / "versions.json", versions())
    return identity["id"]


def read_json(path: Path) -> dict:
    """A JSON object that this package wrote."""
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, dict):
            return value
    except (OSError, ValueError):
        pass
    raise ModelError("a damaged run folder", where=path, expected="a JSON object") from None


def finished(folder: Path) -> dict | None:
    """What FINISHED says, or None while the run is not."""
    return read_json(folder / "FINISHED") if (folder / "FINISHED").exists() else None


def versions() -> dict[str, object]:
    """Libraries, machine and command of this process."""
    found: dict[str, object] = {"python": platform.python_version(), "platform": platform.platform(),
                                "command": " ".join(sys.argv[:1] and [Path(sys.argv[0]).name, *sys.argv[1:]])}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found | {"threads": torch.get_num_threads()}


def _refuse_strangers(folder: Path) -> None:
    strange = sorted(path.name for path in folder.iterdir() if path.name not in ("lock", "crash.txt"))
    if strange:
        raise UsageError("this folder holds something else", where=folder, found=", ".join(strange[:5]),
                         expected="an empty or a new folder", fix="choose another --out")


def _difference(folder: Path, config: str) -> str:
    try:
        old = (folder / "config.toml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "a run without config.toml"
    new = config.splitlines()
    lines = [f"there: {line}" for line in old if line not in new]
    lines += [f"now:   {line}" for line in new if line not in old]
    return "\n".join(lines[:6])


def _numbers(event: str, values: Mapping[str, object], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        tag = f"{prefix or event}/{name}"
        if isinstance(value, Mapping):
            found += _numbers(event, value, tag)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((tag, float(value)))
    return found


def _writer(folder: Path, forget_from: int | None):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), max_queue=1000, purge_step=forget_from)
