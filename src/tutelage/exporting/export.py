"""From a student to a file on the disk that was seen to say the same, with its numbers in a JSON beside it."""

import contextlib
import hashlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tutelage.data.source import Source
from tutelage.data.text_preparation import TextPreparation
from tutelage.errors import ResourceError, UsageError
from tutelage.exporting import formats, int8, verify, verify_boxes, verify_images
from tutelage.exporting.module import Choice, Student, about, require_alive, require_whole
from tutelage.exporting.text import tokenizer_beside, tokenizer_bytes
from tutelage.runs.folder import versions
from tutelage.system import files
from tutelage.tasks.series import SERIES

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "executorch")


@dataclass(frozen=True)
class Images:
    """On which data the file is tried, and by which its 8-bit numbers are scaled: two splits of the run's data."""

    held_out: Source
    training: Source
    on: str = "validation"


def sidecar(target: Path) -> Path:
    """Where the numbers of an export lie: FILE.json."""
    return target.with_name(target.name + ".json")


def require_place(target: Path, force: bool) -> None:
    """Refuse a target that is there already, or that cannot be written, before anything is computed."""
    if target.is_dir():
        raise UsageError("the target is a folder", where=target, expected="a file", fix=f"--to {target}/student.onnx")
    require_free(target, force)
    require_free(sidecar(target), force)
    folder = next(folder for folder in target.absolute().parents if os.access(folder, os.F_OK))
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ResourceError("cannot write there", where=target, found=f"no permission in {folder}",
                            fix="choose another --to")


def require_free(path: Path, force: bool) -> None:
    """Refuse a file that is there already, unless it is to be replaced."""
    if os.path.lexists(path) and not force:
        raise UsageError("the target exists and was kept", where=path, fix="--force, or another --to")


def export_network(student: Student, target: Path, choice: Choice, images: Images, *, force: bool = False,
                   agreement: float = verify.AGREEMENT, accuracy_lost: float = verify.ACCURACY_LOST,
                   plugins: Sequence[str] = ()) -> dict[str, object]:
    """Write the student to `target` and what was measured to `FILE.json`, which is also returned.

    Nothing is at `target` before all of it is known to be right: the bytes are made and run in memory. A target that
    exists is replaced only with `force`, and only by a file that passed.
    """
    require_place(target, force)
    if isinstance(student.prepared, TextPreparation):
        require_free(tokenizer_beside(target), force)
    formats.require_possible(choice, student.task == SERIES.name, student.detects, student.forecasts, student.fuses)
    require_alive(student)
    rows = verify.chosen_rows(images.held_out, verify.most_images(student))
    held_out, labels = verify.plain_images(images.held_out, rows)
    asked = verify.trials(student, held_out, choice)  # first of all: a lazy layer becomes a plain one when it runs
    data = _bytes(student, choice, images)
    require_whole(student, choice, len(data))
    answers, said, seconds = verify.rerun(data, choice, asked, plugins)
    verify.require_same_words(student, choice, said)
    if student.detects:
        numbers, bound = verify_boxes.tried(student, choice, asked, answers, labels, accuracy_lost)
    elif student.forecasts:
        numbers = verify.compared_numbers(asked, answers, labels)
        bound = verify.require_faithful(student, choice, numbers, agreement)
    else:
        numbers = (verify_images.compared_images(asked, answers) if student.fuses else
                   verify.compared(asked, answers, labels, student.classes))
        bound = verify.require_faithful(student, choice, numbers, agreement, accuracy_lost)
    report = {**about(student, choice), "file": target.name, "kind": choice.format, "bytes": len(data),
              "sha256": hashlib.sha256(data).hexdigest(), "checked": {"on": images.on, **numbers}, "bound": bound,
              "latency": _latency(seconds, choice), "versions": {**versions(), **_versions()}}
    with files.disk_errors(target, len(data)):
        target.parent.mkdir(parents=True, exist_ok=True)
        sidecar(target).unlink(missing_ok=True)  # never the numbers of one file beside another
    files.write(target, data)
    files.write_json(sidecar(target), report)
    if isinstance(student.prepared, TextPreparation):
        files.write(tokenizer_beside(target), tokenizer_bytes(student.prepared))
    return report


def _bytes(student: Student, choice: Choice, images: Images) -> bytes:
    match choice.format:
        case "safetensors":
            return formats.weights_bytes(student)
        case "pt2":
            return formats.torch_export(student, choice)
        case "pte":
            return formats.executorch(student, choice)
        case "onnx":
            model = formats.onnx_model(student, choice) if not choice.int8 else _int8(student, choice, images)
            return formats.onnx_bytes(model, student, choice)


def _int8(student: Student, choice: Choice, images: Images) -> object:
    rows = verify.chosen_rows(images.training, int8.CALIBRATION_IMAGES)
    calibration, _ = verify.plain_images(images.training, rows)
    given = {name: tensor.numpy() for name, tensor in verify.named_inputs(student, calibration).items()}
    model = int8.quantised(formats.onnx_model(student, Choice("onnx")), given, f"network {student.node!r}",
                           int8.OF_DETECTORS if student.detects else ())
    return int8.with_preparation(formats.onnx_preparation(student), model) if choice.resize else model


def _latency(seconds: Sequence[float], choice: Choice) -> dict[str, object]:
    """Milliseconds of one image, as quartiles: a mean would tell of whatever else the machine did."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    threads = None if choice.format == "pte" else 1  # ExecuTorch has a pool of its own
    return {"batch": 1, "threads": threads, "runs": len(seconds), "lower_quartile_ms": round(1000 * low, 4),
            "median_ms": round(1000 * middle, 4), "upper_quartile_ms": round(1000 * high, 4)}


def _versions() -> dict[str, str | None]:
    """Of the packages that only exports need; None is not installed."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
