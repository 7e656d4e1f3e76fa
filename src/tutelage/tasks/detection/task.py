"""Detection: the objects in an image, each with a box and a class; a network gives places, `models.dense_boxes`.

Two forms of it. In `detection` a place is a cell of a grid and finds the object whose middle is near, as in FCOS; in
`anchor_detection` it is an anchor and finds the object that it covers, as in RetinaNet. All networks of a graph are of
one form and have the same places.
"""

from dataclasses import replace

from tutelage.data.source import Data
from tutelage.data.splits import first
from tutelage.errors import DataError, ModelError
from tutelage.graph.divergences import binary_cross_entropy, binary_kl, focal, focal_kd, giou
from tutelage.graph.sample_weights import binary_entropy
from tutelage.tasks.detection.fusion import fused_boxes, mean_of_places
from tutelage.tasks.detection.judge import SCORES, judge_of_boxes
from tutelage.tasks.detection.regions import anchor_relevant, relevant
from tutelage.tasks.detection.rows import anchor_boxes, anchor_classes, boxes, centres, classes, objects_of
from tutelage.tasks.segmentation.rows import places
from tutelage.tasks.task import Task, Term

LOOKED_AT = 16
"""So many training images are looked at before a run."""


def check_labels_of_boxes(data: Data) -> None:
    """Refuse data whose labels are no boxes of their classes, by a few training images."""
    if not data.classes:
        raise DataError("no classes: there is nothing to find", where="training data", expected="one or more")
    (batch,) = data.train.batches([first(data.train.ids, LOOKED_AT)], draw=None)
    try:
        found = objects_of(batch.labels)
    except ModelError as error:
        raise DataError(error.what, where="training data", found=error.found, expected=error.expected,
                        fix='give the set a file of boxes, or leave task = "detection" out') from None
    least, most = (int(end) for end in found.classes.aminmax()) if found.classes.numel() else (-1, -1)
    if least < -1 or most >= len(data.classes):
        raise DataError("class numbers of boxes out of range", where="training data", found=f"{least} .. {most}",
                        expected=f"-1 (padding) .. {len(data.classes) - 1}")


DETECTION = Task("detection", SCORES, check_labels_of_boxes,
                 lambda data: judge_of_boxes(data.classes, (data.shape[1], data.shape[2])),
                 learn=(Term(focal, label="classes", rows=classes, soft=True), Term(giou, label="boxes", rows=boxes),
                        Term(binary_cross_entropy, label="centres", rows=centres)),
                 imitate=(Term(focal_kd, rows=classes, soft=True), Term(giou, rows=boxes),
                          Term(binary_kl, rows=centres)),
                 mean=mean_of_places, rows=(classes, boxes, centres, relevant, places), places=places,
                 certainty=binary_entropy, exclusive=False, fusions={"fused": fused_boxes},
                 samples="images")
ANCHOR_DETECTION = replace(
    DETECTION, name="anchor_detection", rows=(anchor_classes, anchor_boxes, anchor_relevant, places),
    learn=(Term(focal, label="classes", rows=anchor_classes, soft=True), Term(giou, label="boxes", rows=anchor_boxes)),
    imitate=(Term(focal_kd, rows=anchor_classes, soft=True), Term(giou, rows=anchor_boxes)))
