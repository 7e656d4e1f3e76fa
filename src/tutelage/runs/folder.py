"""A run folder: what was asked for, what happened, and that it is finished.

    config.toml      the resolved recipe          records.jsonl   one JSON line an event, never edited by hand
    versions.json    libraries and machine        tensorboard/    the same numbers as TensorBoard events
    run.json         identity of the run          models/         the networks, at the end
    checkpoints/     states to resume from        FINISHED        the run is complete; written last
    tuning.json      how each network computes    graph.json      who learns from whom, as data
    data.json        the image files, of a folder of images

Where an image turns out damaged the run stops, and an event "bad_image" names it and all others that are. Once they are
mended the run goes on, and an event "data_changed" says what is another than before. No other file may change.
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
from types import MappingProxyType
from typing import Any

import torch

from tutelage.errors import ModelError, UsageError, UserError
from tutelage.system.files import disk_errors, write, write_json
from tutelage.types import Content, ImageFiles, Scores

KEPT_EVENTS = ("bad_image", "data_changed")
"""What is true of the data however far a run goes back."""
LISTED = 20_000
"""Of larger sets there is no data.json: a list as long as that for every run takes too much room."""
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
                if record["event"] in KEPT_EVENTS or (record["step"] <= step and record["event"] != "finished")]
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


def open_run(folder: Path, config: str, data_digest: str, files: ImageFiles | None = None) -> str:
    """The id of the run in `folder`: a new one in an empty folder, the old one where config and data are the same.

    Of `files` those that the run has reported as damaged may be others since.
    """
    digest = _digest(config, data_digest)
    if (folder / "run.json").exists():
        identity = read_json(folder / "run.json")
        if identity["digest"] != digest:
            reports = _reports(folder, identity) if files is not None else []
            mended = _mended(identity, config, files, reports) if files is not None else {}
            if not mended:
                raise UsageError("this folder holds another run", where=folder,
                                 found=_difference(folder, config) or _other_data(folder, files, _before(reports)),
                                 expected="an empty folder, or the same recipe and data",
                                 fix="choose another --out; `tutelage train --resume DIR` goes on with what is there")
            write(folder / "run.json", json.dumps({**identity, "digest": digest, **mended}, indent=1).encode())
            _list(folder, files)
    else:  # first of all: whatever is killed after this finds its folder again
        _refuse_strangers(folder)
        identity = {"id": uuid.uuid4().hex, "digest": digest, "format": 1}
        write_json(folder / "run.json", identity)
        _list(folder, files)
    if not (folder / "config.toml").exists():
        write(folder / "config.toml", config.encode())
    if not (folder / "versions.json").exists():
        write_json(folder / "versions.json", versions())
    return identity["id"]


def reported(error: UserError, folder: Path, files: ImageFiles | None, step: int) -> UserError:
    """The error; if it is of an image, once the log names this one and all others that are damaged: they may be mended.

    The log has what the run's digest knows of each.
    """
    bad = files.named(error.where or "") if files is not None else None
    if files is None or bad is None:
        return error
    records = Records(folder, tensorboard=False)

    def tell(names: list[str]) -> None:
        told = [{"file": name, **files.contents[name]._asdict()} for name in names]
        records.add("bad_image", step, id=uuid.uuid4().hex, files=told)

    tell([bad])
    others = [name for name in files.damaged() if name != bad]  # all are read: that may take a while
    if others:
        tell(others)
    more = f"; {len(others)} more are damaged, {records.path} names them" if others else ""
    fix = "replace each by an image that can be read, and start the run again: it goes on from its last checkpoint"
    return type(error)(error.what, where=error.where, found=f"{error.found or 'damaged'}{more}",
                       expected=error.expected, fix=fix)


def report_mended(records: Records, step: int) -> None:
    """Record what was mended since the run was last opened: bytes and SHA-256, before and now."""
    folder = records.path.parent
    told = sum(record["event"] == "data_changed" for record in read_records(folder))
    for files in read_json(folder / "run.json").get("mended", [])[told:]:
        records.add("data_changed", step, files=files)


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


def write_finished(folder: Path, step: int, scores: Scores, weights: Mapping[str, str],
                   marks: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> None:
    """Say that a run is complete: its last step, scores, and the SHA-256 of each network's weights. Written last.

    `marks` say which networks are at chance or give one answer, and are written if there are any.
    """
    told = {"marks": dict(marks)} if marks else {}
    write_json(folder / "FINISHED", {"step": step, "metrics": scores, "weights": dict(weights), **told})


def marks_of_run(folder: Path) -> dict[str, str]:
    """Node -> what is wrong with a network of a finished run, in words; empty where nothing is, or nobody asked."""
    return {node: mark["text"] for node, mark in (finished(folder) or {}).get("marks", {}).items()}


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


def _digest(config: str, data_digest: str) -> str:
    return hashlib.sha256(json.dumps([config, data_digest]).encode()).hexdigest()


def _reports(folder: Path, identity: Mapping) -> list[dict]:
    """The events of damaged images that this run has not answered. What one run of a method says holds for all."""
    place = folder.absolute()
    whole = next((above for above in (place.parent, place.parent.parent) if (above / "run.json").exists()), place)
    events = [record for path in sorted(whole.rglob("records.jsonl")) for record in read_records(path.parent)]
    return [event for event in events
            if event["event"] == "bad_image" and event["id"] not in identity.get("answered", [])]


def _before(reports: list[dict]) -> dict[str, Content]:
    """What the run knew of the files that it has reported."""
    return {told["file"]: Content(told["bytes"], told["sha256"]) for report in reports for told in report["files"]}


def _mended(identity: Mapping, config: str, files: ImageFiles, reports: list[dict]) -> dict[str, list]:
    """What to note in run.json where nothing but reported files has changed; empty if something else has."""
    before = _before(reports)
    if not before or _digest(config, files.sealed(before)) != identity["digest"]:
        return {}
    changes = [{"file": name, "bytes": [was.bytes, now.bytes], "sha256": [was.sha256, now.sha256]}
               for name, was in before.items() if (now := files.contents.get(name, was)) != was]
    return {"mended": [*identity.get("mended", []), changes],
            "answered": [*identity.get("answered", []), *(report["id"] for report in reports)]}


def _list(folder: Path, files: ImageFiles | None) -> None:
    """Write data.json, by which a later refusal can say what differs."""
    if files is not None and len(files.contents) <= LISTED:
        write(folder / "data.json", json.dumps({"files": files.contents}).encode())


def _other_data(folder: Path, files: ImageFiles | None, reported: Mapping[str, Content]) -> str:
    """In what files the data differ, as far as that is known; those that were reported may."""
    if files is None or not (folder / "data.json").exists():
        return "other data than now"
    then, now = read_json(folder / "data.json")["files"], files.contents
    lines = [f"another now: {name!r}" for name in then if name in now and name not in reported
             and Content(*then[name]) != now[name]]
    lines += [f"no longer:   {name!r}" for name in then if name not in now]
    lines += [f"new:         {name!r}" for name in now if name not in then]
    return "\n".join(["other data than now", *lines[:5], *([f"and {len(lines) - 5} more"] if lines[5:] else [])])


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
