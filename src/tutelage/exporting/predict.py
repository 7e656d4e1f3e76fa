"""What a student says of image files. With an exported .onnx file: numpy, Pillow and onnxruntime, and no torch.

Masks of images are made by `predict_masks`, boxes by `predict_boxes`, classes of series by `predict_series`, intents
and slots of text by `predict_text`.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.decoding import (
    EXTENSIONS,
    HEAD_BYTES,
    KINDS,
    Preparation,
    as_array,
    decode,
    is_image,
    open_regular,
    pixels,
    preparation,
    printable,
)
from tutelage.data.series_scaling import KIND, SeriesScaling, series_scaling
from tutelage.data.table_scaling import PANEL, TABLE, PanelScaling, TableScaling, panel_scaling, rows_scaling
from tutelage.data.text_preparation import TEXT, TextPreparation, text_preparation
from tutelage.data.text_settings import TASKS_OF_TEXT
from tutelage.errors import DataError, ModelError, SecurityError, UserError

BATCH = 16
CLASSES, MASKS, SERIES = "classification", "segmentation", "series"
"""The tasks by their names; an export that names none is one of classification."""
FUSION = "fusion"
"""The task whose networks make one image of two."""
BOXES = ("detection", "anchor_detection")
"""The tasks whose networks give boxes."""
NUMBERS = ("forecast", "regression")
"""The tasks whose networks give numbers with their spread."""
_EXTERNAL = b"\x0a\x08location"
"""How the key of external data begins in a protobuf file; JSON escapes such bytes, so class names cannot hold them."""


@dataclass(frozen=True)
class Classifier:
    """What turns images into labels, or into masks if its `task` is segmentation.

    `logits` maps images [B, C, H, W], float32 in [0, 1], to [B, classes], or to maps [B, classes, H, W]. They are
    prepared as `prepared` says, or, where the student `resizes`, as large as they came and one at a time.
    """

    classes: tuple[str, ...]
    prepared: Preparation
    logits: Callable[[np.ndarray], np.ndarray]
    resizes: bool = False
    task: str = CLASSES


@dataclass(frozen=True)
class SeriesClassifier:
    """What turns series into labels: `logits` maps values [B, C, L] and, if series are padded, a mask [B, L]."""

    classes: tuple[str, ...]
    scaling: SeriesScaling
    logits: Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class TextReader:
    """What reads sentences: `logits` maps what `prepared` makes of them to [B, classes], of slots [B, W, classes]."""

    classes: tuple[str, ...]
    prepared: TextPreparation
    logits: Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Detector:
    """What finds objects: `boxes` maps images [B, C, H, W], float32 in [0, 1], prepared as `prepared` says, to
    [B, N, 6]: left, top, right, lower in pixels of these, score, and the number of the class, -1 where there is none.
    """

    classes: tuple[str, ...]
    prepared: Preparation
    boxes: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Numbers:
    """What forecasts: `forecast` maps windows [B, C, L], rows [B, F, 1] or images, scaled or prepared as `scaling`
    says, to the mean and standard deviation of each step or target [B, K, 2], scaled.
    """

    classes: tuple[str, ...]
    scaling: PanelScaling | TableScaling
    forecast: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fuser:
    """What makes one image of two: `fuse` maps [B, 2, H, W], infrared and visible in [0, 1], to [B, 1, H, W]."""

    prepared: Preparation
    fuse: Callable[[np.ndarray], np.ndarray]


Predictor = Classifier | SeriesClassifier | TextReader | Detector | Numbers | Fuser


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of a file with its probability, and whether that is below what was asked for."""

    file: Path
    label: str
    probability: float
    below: bool

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"file": printable(self.file), "label": self.label, "probability": self.probability,
                           "below": self.below})

    def __str__(self) -> str:
        note = "  below the confidence asked for" if self.below else ""
        return f"{printable(self.file)}  {printable(self.label)}  {self.probability:.1%}{note}"


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read as an image, and why."""

    file: Path
    error: UserError

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"file": printable(self.file), "error": self.error.fields()})

    def __str__(self) -> str:
        return f"{printable(self.file)}  {self.error.what}" + (f" ({self.error.found})" if self.error.found else "")


Prepared = Preparation | SeriesScaling | PanelScaling | TableScaling | TextPreparation
"""How what a file holds becomes what a network receives."""


def prepared_by(how: Mapping[str, Any]) -> Prepared:
    """The preparation that a model brought along as JSON."""
    readers: dict[object, Callable[[Mapping[str, Any]], Prepared]] = {
        KIND: series_scaling, PANEL: panel_scaling, TABLE: rows_scaling}
    return readers.get(how.get("kind"), preparation)(how)


def image_files(place: Path) -> list[Path]:
    """The file itself, or all images below a folder in the order of their names; hidden ones are left out.

    An image is what begins as one, whatever it is called, and what is called like one.
    """
    if not place.is_dir():
        if not place.exists():
            raise DataError("no such file or folder", where=printable(place),
                            expected="an image, or a folder of images")
        return [place]
    found = []
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names)
                  if not name.startswith(".") and (name.lower().endswith(EXTENSIONS) or _begins_as_image(folder, name))]
    if not found:
        raise DataError("there is no image in this folder", where=printable(place), expected=", ".join(KINDS))
    return found


def require_channels_of_files(student: Classifier | Detector) -> None:
    """ModelError if the student takes images of other channels than a file has."""
    if student.prepared.channels not in (1, 3):
        raise ModelError("this network does not take images of files", found=f"it wants {student.prepared.channels} "
                         "channels", expected="1 channel (grey) or 3 (RGB)", fix="give it tensors from Python")


def classify(paths: Sequence[Path], student: Classifier, confidence: float) -> Iterator[Prediction | Damaged]:
    """Of each file, in order, what the student sees; a file that is no whole image stops nothing.

    ModelError if the student takes images of other channels than a file has.
    """
    require_channels_of_files(student)
    rest = iter(paths)
    while part := list(islice(rest, 1 if student.resizes else BATCH)):
        read = {path: _read(path, student) for path in part}
        images = [image for image in read.values() if not isinstance(image, UserError)]
        probabilities = iter(softmax(_of_classes(student.logits(np.stack(images)))) if images else [])
        for path, image in read.items():
            if isinstance(image, UserError):
                yield Damaged(path, image)
                continue
            row = next(probabilities)
            best = int(row.argmax())
            yield Prediction(path, student.classes[best], float(row[best]), bool(row[best] < confidence))


def predictor(classes: tuple[str, ...], task: str, prepared: Prepared,
              run: Callable[[Mapping[str, np.ndarray]], np.ndarray], resizes: bool = False) -> Predictor:
    """What predicts by `run`, which maps inputs by name to logits, to boxes, to numbers, or to a fused image."""
    if isinstance(prepared, TextPreparation):
        return TextReader(classes, prepared, run)
    if isinstance(prepared, PanelScaling | TableScaling):
        name = "images" if isinstance(prepared, TableScaling) and prepared.image is not None else "values"
        return Numbers(classes, prepared, lambda given: run({name: given}))
    if isinstance(prepared, SeriesScaling):
        return SeriesClassifier(classes, prepared, lambda values, mask: run(
            {"values": values} if mask is None else {"values": values, "mask": mask}))
    if task in BOXES:
        return Detector(classes, prepared, lambda images: run({"images": images}))
    if task == FUSION:
        return Fuser(prepared, lambda images: run({"images": images}))
    return Classifier(classes, prepared, lambda images: run({"images": images}), resizes, task)


def open_onnx(path: Path) -> Predictor:
    """The student of an .onnx file that `tutelage export` wrote. Data outside the file are refused: ours has none."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ModelError("an .onnx file needs onnxruntime: pip install 'tutelage[onnx]'") from None
    if not path.is_file():
        raise ModelError("no such model", where=printable(path), expected="an .onnx file of `tutelage export`")
    data = path.read_bytes()
    if _EXTERNAL in data:
        raise SecurityError("refused: this model reads data from other files", where=printable(path),
                            expected="one file that holds all of it, as `tutelage export` writes it",
                            fix="export it again")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is told here, once
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise ModelError("not an ONNX model that onnxruntime can run", where=printable(path),
                         found=str(problem).splitlines()[0][:300], fix="export it again") from None
    told = _told(session.get_modelmeta().custom_metadata_map.get("tutelage"), path)
    classes = tuple(map(str, told["classes"]))

    def run(given: Mapping[str, np.ndarray]) -> np.ndarray:
        if task in BOXES:
            return detections(*session.run(["boxes", "scores", "classes"], dict(given)))
        only = "forecast" if task in NUMBERS else "fused" if task == FUSION else "logits"
        return np.asarray(session.run([only], dict(given))[0])

    how, task = told["preprocessing"], str(told.get("task", CLASSES))
    if how.get("kind") == TEXT and task in TASKS_OF_TEXT:
        return predictor(classes, task, text_preparation(how, path.with_name(path.name + ".tokenizer.json")), run)
    prepared = prepared_by(how)
    if task not in (CLASSES, MASKS, SERIES, FUSION, *BOXES, *NUMBERS) or (task == SERIES) != isinstance(
            prepared, SeriesScaling) or (task in NUMBERS) != isinstance(prepared, PanelScaling | TableScaling):
        raise ModelError("this model is of a task that is not known here", where=printable(path), found=task,
                         expected=f"{CLASSES}, {MASKS}, {SERIES}, {BOXES[0]}, {NUMBERS[0]} or {FUSION}",
                         fix="predict with a later version")
    return predictor(classes, task, prepared, run, bool(told["resize"]))


def detections(boxes: Any, scores: Any, classes: Any) -> np.ndarray:
    """The outputs of an exported detector, arrays [B, N, 4], [B, N] and [B, N], as one: [B, N, 6]."""
    return np.concatenate([boxes, scores[..., None], classes[..., None].astype(np.float32)], -1)


def _begins_as_image(folder: str, name: str) -> bool:
    try:
        with open_regular(Path(folder, name)) as file:
            return is_image(file.read(HEAD_BYTES))
    except DataError:  # a pipe, or a file that may not be read, and not called like an image
        return False


def _told(text: str | None, path: Path) -> dict[str, Any]:
    try:
        told = json.loads(text or "")
        if (told["format"] == "tutelage-export-1" and told["classes"] and "resize" in told
                and isinstance(told["preprocessing"], dict)):
            return told
        found = f"format {told['format']!r}"
    except (ValueError, KeyError, TypeError):
        found = "no usable entry 'tutelage' in its metadata"
    raise ModelError("this model was not written by `tutelage export`, or by a later one", where=printable(path),
                     found=found, expected="classes and preprocessing in its metadata", fix="export it again")


def _read(path: Path, student: Classifier) -> np.ndarray | UserError:
    how = student.prepared
    try:
        image = decode(path, how.channels, orientation=how.orientation, value_range=how.value_range)
    except UserError as error:
        return error
    levels = as_array(image) if student.resizes else pixels(image, how)
    return levels.astype(np.float32) / np.float32(255)


def _of_classes(logits: np.ndarray) -> np.ndarray:
    if logits.ndim != 2:
        raise ModelError("this network gives no logits of classes", found=f"{list(logits.shape)}",
                         expected="[images, classes]", fix="export it again, so that its file names its task")
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits [B, classes], or of maps of them [B, classes, H, W]."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
