"""What `predict` does for networks of each task."""

from collections.abc import Iterator
from pathlib import Path

from tutelage.errors import UsageError
from tutelage.exporting.predict import (
    MASKS,
    Classifier,
    Damaged,
    Detector,
    Prediction,
    Predictor,
    SeriesClassifier,
    TextReader,
    classify,
    image_files,
)
from tutelage.exporting.predict_boxes import BoxPrediction, detect
from tutelage.exporting.predict_masks import MaskPrediction, mask_files, segment
from tutelage.exporting.predict_series import SeriesPrediction, classify_series, files_of_series
from tutelage.exporting.predict_text import SlotPrediction, TextPrediction, files_of_text, read_lines

Said = (Prediction | MaskPrediction | BoxPrediction | SeriesPrediction | TextPrediction | SlotPrediction | Damaged)
SURE, SURE_OF_BOXES = 0.5, 0.3


def said_of_files(place: Path, student: Predictor, confidence: float | None,
                  to: Path | None, force: bool) -> Iterator[Said]:
    """What the student says of each file, in order; masks, or images with boxes, are written to the folder `to`.

    No `confidence`: SURE, and of boxes SURE_OF_BOXES.
    """
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
    if isinstance(student, TextReader):
        return read_lines(files_of_text(place), student, confidence)
    images = image_files(place)
    if masks:
        return segment(images, student, confidence, {} if to is None else mask_files(images, place, to, force))
    return classify(images, student, confidence)
