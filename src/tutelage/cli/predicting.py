"""What `predict` does for networks of each task."""

from collections.abc import Iterator
from pathlib import Path

from tutelage.errors import UsageError
from tutelage.exporting.predict import (
    MASKS,
    Classifier,
    Damaged,
    Detector,
    Fuser,
    Prediction,
    SeriesClassifier,
    classify,
    image_files,
)
from tutelage.exporting.predict_boxes import BoxPrediction, detect
from tutelage.exporting.predict_fused import FusedPrediction, fuse_pairs, pairs_of_files
from tutelage.exporting.predict_masks import MaskPrediction, mask_files, segment
from tutelage.exporting.predict_series import SeriesPrediction, classify_series, files_of_series

Said = Prediction | MaskPrediction | BoxPrediction | SeriesPrediction | FusedPrediction | Damaged
SURE, SURE_OF_BOXES = 0.5, 0.3


def said_of_files(place: Path, student: Classifier | SeriesClassifier | Detector | Fuser, confidence: float | None,
                  to: Path | None, force: bool, visible: Path | None = None) -> Iterator[Said]:
    """What the student says of each file, in order; masks, images with boxes and fused ones are written to `to`.

    No `confidence`: SURE, and of boxes SURE_OF_BOXES. Of pairs `place` and `visible` are the two folders.
    """
    if isinstance(student, Fuser):
        return _fused(place, visible, student, confidence, to, force)
    if visible is not None:
        raise UsageError("this network takes one folder of files", where="VISIBLE", found=str(visible),
                         expected="a network that fuses two images", fix="leave it out")
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


def _fused(place: Path, visible: Path | None, student: Fuser, confidence: float | None, to: Path | None,
           force: bool) -> Iterator[Said]:
    """Fused images, written to the folder `to`."""
    if to is None:
        raise UsageError("fused images need a folder to go to", where="--to", fix="--to FOLDER")
    if confidence is not None:
        raise UsageError("a fused image has no confidence", where="--confidence", fix="leave it out")
    found = pairs_of_files(place, visible)
    return fuse_pairs(found, student, mask_files([pair[1] for pair in found.pairs], found.visible, to, force,
                                                 "fused image"))
