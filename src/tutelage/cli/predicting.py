"""What `predict` does for networks of each task."""

from collections.abc import Iterator
from pathlib import Path

from tutelage.errors import UsageError
from tutelage.exporting.predict import (
    MASKS,
    Classifier,
    Damaged,
    Detector,
    Numbers,
    Prediction,
    SeriesClassifier,
    classify,
    image_files,
)
from tutelage.exporting.predict_boxes import BoxPrediction, detect
from tutelage.exporting.predict_masks import MaskPrediction, mask_files, segment
from tutelage.exporting.predict_numbers import NumberPrediction, csv_of, numbers_of, require_csv
from tutelage.exporting.predict_series import SeriesPrediction, classify_series, files_of_series

Said = Prediction | MaskPrediction | BoxPrediction | SeriesPrediction | NumberPrediction | Damaged
SURE, SURE_OF_BOXES = 0.5, 0.3


def said_of_files(place: Path, student: Classifier | SeriesClassifier | Detector | Numbers,
                  confidence: float | None, to: Path | None, force: bool) -> Iterator[Said]:
    """What the student says of each file, in order; masks, or images with boxes, are written to the folder `to`.

    No `confidence`: SURE, and of boxes SURE_OF_BOXES.
    """
    if isinstance(student, Numbers):
        if confidence is not None:
            raise UsageError("a forecast has an interval and no confidence", where="--confidence",
                             fix="leave it out")
        return _numbers(place, student, to, force)
    if isinstance(student, Detector):
        images = image_files(place)
        pictures = {} if to is None else mask_files(images, place, to, force, "picture")
        return detect(images, student, SURE_OF_BOXES if confidence is None else confidence, pictures)
    confidence = SURE if confidence is None else confidence
    masks = isinstance(student, Classifier) and student.task == MASKS
    if to is not None and not masks:
        raise UsageError("this network makes no masks and no boxes, so that there is nothing to write", where="--to",
                         fix="leave --to out")
    if isinstance(student, SeriesClassifier):
        return classify_series(files_of_series(place), student, confidence)
    images = image_files(place)
    if masks:
        return segment(images, student, confidence, {} if to is None else mask_files(images, place, to, force))
    return classify(images, student, confidence)


def _numbers(place: Path, student: Numbers, to: Path | None, force: bool) -> Iterator[Said]:
    if to is None:
        yield from numbers_of(place, student)
        return
    require_csv(to, force)
    found = [*numbers_of(place, student)]
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(csv_of([one for one in found if isinstance(one, NumberPrediction)]))
    yield from found
