"""The made set of boxes: the same everywhere, every class in it, one of them rare, and boxes that fit their pixels."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from every import every
from tutelage.data.box_folder import list_boxes
from tutelage.data.shapes_boxes import CLASSES, SPLITS, make_shapes_boxes, write_shapes_boxes


def test_the_set_is_the_same_on_every_machine():
    made = make_shapes_boxes()
    assert made.images.shape == (sum(SPLITS.values()), 3, 64, 64)
    content = hashlib.sha256(made.images.numpy().tobytes())
    for boxes, classes in zip(made.boxes, made.classes, strict=True):
        content.update(boxes.tobytes() + classes.tobytes())
    assert content.hexdigest() == "5c5cece5525f2584b445b00c5e7d3b22fafd8db2eaa2cdc3d59b25a329b05681"


def test_fewer_rows_are_the_first_ones():
    few, all_ = make_shapes_boxes(7), make_shapes_boxes()
    assert torch.equal(few.images, all_.images[:7])
    assert every(np.array_equal(one, other) for one, other in zip(few.boxes, all_.boxes[:7], strict=True))


def test_triangles_are_rarer_and_some_images_are_empty():
    made = make_shapes_boxes()
    counts = np.bincount(np.concatenate(made.classes), minlength=len(CLASSES))
    assert counts[2] < 0.5 * counts[:2].min()
    assert counts[2] > 150
    assert 20 < sum(len(classes) == 0 for classes in made.classes) < 70
    assert max(map(len, made.classes)) == 4


def test_boxes_are_whole_pixels_within_the_image_and_no_smaller_than_a_shape_may_be():
    boxes = np.concatenate(make_shapes_boxes().boxes)
    assert bool((boxes == boxes.round()).all())
    assert boxes.min() == 0
    assert boxes.max() == 64
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 5
    assert sides.max() <= 34


def test_a_thing_has_its_colour_and_fills_its_box():
    made = make_shapes_boxes()
    inside: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for image, boxes, classes in zip(made.images.float(), made.boxes, made.classes, strict=True):
        for (left, top, right, lower), kind in zip(boxes.astype(int).tolist(), classes.tolist(), strict=True):
            down = slice((3 * top + lower) // 4, (top + 3 * lower) // 4)
            middle = image[:, down, (3 * left + right) // 4:(left + 3 * right) // 4]
            red, green, blue = middle.mean((1, 2)).tolist()
            inside[kind].append({0: red - blue, 1: blue - red, 2: green - (red + blue) / 2}[kind])
    assert every(np.mean(values) > 25 for values in inside.values())


def test_written_boxes_are_read_as_they_are_and_have_the_classes_asked_for(tmp_path: Path):
    for names in (["polyp"], ["a", "b", "c"], [f"class {number}" for number in range(7)]):
        root = tmp_path / str(len(names))
        write_shapes_boxes(root, names, {"train": 10, "val": 4})
        listing = list_boxes(root)
        assert not listing.listing.problems
        assert listing.listing.classes == tuple(names)
        assert len(json.loads((root / "splits.json").read_text())["val"]) == 4
        made = make_shapes_boxes(14)
        seen = set()
        for image, own in zip(listing.listing.images, listing.found, strict=True):
            assert own is not None
            assert np.array_equal(own.boxes, made.boxes[int(image.path.stem)])
            seen |= set(own.classes.tolist())
        assert seen == {*range(len(names))}
