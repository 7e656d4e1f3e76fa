"""What `predict` does for networks of each task."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.terminal import note, say
from tutelage.errors import UsageError
from tutelage.exporting.predict import (
    MASKS,
    Classifier,
    Damaged,
    Detector,
    Fuser,
    Numbers,
    Prediction,
    Predictor,
    SeriesClassifier,
    TextReader,
    classify,
    image_files,
)
from tutelage.exporting.predict_boxes import BoxPrediction, detect
from tutelage.exporting.predict_fused import FusedPrediction, fuse_pairs, pairs_of_files
from tutelage.exporting.predict_masks import MaskPrediction, mask_files, segment
from tutelage.exporting.predict_numbers import NumberPrediction, csv_of, numbers_of, require_csv
from tutelage.exporting.predict_series import SeriesPrediction, classify_series, files_of_series
from tutelage.exporting.predict_text import SlotPrediction, TextPrediction, files_of_text, read_lines

if TYPE_CHECKING:  # these need torch, which an .onnx file does without
    from tutelage.exporting.predict_users import ItemScorer

Said = (Prediction | MaskPrediction | BoxPrediction | SeriesPrediction | NumberPrediction | FusedPrediction |
        TextPrediction | SlotPrediction | Damaged)
SURE, SURE_OF_BOXES = 0.5, 0.3


def said_of_files(place: Path, student: Predictor, confidence: float | None, to: Path | None, force: bool,
                  visible: Path | None = None) -> Iterator[Said]:
    """What the student says of each file, in order; masks, images with boxes and fused ones are written to `to`.

    No `confidence`: SURE, and of boxes SURE_OF_BOXES. Of pairs `place` and `visible` are the two folders.
    """
    if isinstance(student, Fuser):
        return _fused(place, visible, student, confidence, to, force)
    if visible is not None:
        raise UsageError("this network takes one folder of files", where="VISIBLE", found=str(visible),
                         expected="a network that fuses two images", fix="leave it out")
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
    if isinstance(student, TextReader):
        return read_lines(files_of_text(place), student, confidence)
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


def say_top_items(users: Path | None, scorer: "ItemScorer", top: int, taken: Path | None, with_taken: bool,
                  to: Path | None, force: bool, as_json: bool) -> int:
    """Say the `top` items of the users that a file names, or of all; how many of them are not known is returned.

    With `to` they are written there, CSV or JSON by its name, and only what is wrong is said.
    """
    from tutelage.exporting.predict_users import UnknownUser, also_taken, recommend, users_in, write_top_items

    if to is not None:
        _require_table(to, force)
    if taken is not None:
        scorer = also_taken(scorer, taken)
    if with_taken:
        scorer = replace(scorer, taken=None)
    elif scorer.taken is None:
        note("nothing is left out: vectors do not say what users have taken; --taken FILE does")
    column = (scorer.columns or {}).get("user", "user")
    found = recommend(scorer, scorer.users if users is None else users_in(users, column), top)
    shown = list(found) if to is not None else found
    unknown, count = 0, 0
    for one in shown:
        unknown, count = unknown + isinstance(one, UnknownUser), count + 1
        if to is None or isinstance(one, UnknownUser):
            say(one.as_json() if as_json else str(one))
    if to is not None:
        write_top_items(to, list(shown))
        say(json.dumps({"file": str(to), "users": count - unknown, "unknown": unknown}) if as_json else
            f"{to}: up to {top} items for each of {count - unknown} users")
    return unknown


def _require_table(to: Path, force: bool) -> None:
    if to.suffix.lower() not in (".csv", ".json"):
        raise UsageError("items of users are written as CSV or JSON", where="--to", found=to.name,
                         expected="FILE.csv or FILE.json")
    if to.exists() and not force:
        raise UsageError("this file is already there", where=to, fix="give another name, or --force")
    to.parent.mkdir(parents=True, exist_ok=True)


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
