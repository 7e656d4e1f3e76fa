"""Batches of images with boxes: the same bits whatever batch a sample is in, whoever reads it."""

from dataclasses import replace

import pytest
import torch

from every import every
from tutelage.data.augment import Augmentation
from tutelage.data.box_source import BoxSource, PackedBoxes
from tutelage.data.source import Part, Source
from tutelage.data.stream import StreamSource

COUNTS = [2, 0, 1, 4, 0, 3, 1, 1, 2, 0]
"""Of the boxes of each row; nothing is known of row 4."""


class Noise:
    """An image of noise by its row; how often one was read is counted."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, row: int) -> torch.Tensor:
        self.read += 1
        return torch.randint(0, 256, (3, 12, 16), generator=torch.Generator().manual_seed(row), dtype=torch.uint8)


def source(kept: bool = True, how: Augmentation | None = None, workers: int = 0) -> BoxSource:
    labels = torch.zeros(10, dtype=torch.int64)
    labels[4] = -1
    starts = torch.tensor([0, *COUNTS]).cumsum(0)
    boxes = torch.rand(int(starts[-1]), 4, generator=torch.Generator().manual_seed(0)) * 6
    boxes[:, 2:] += boxes[:, :2] + 1
    packed = PackedBoxes(boxes, torch.arange(len(boxes)) % 3, starts, torch.tensor([[12.0, 16]]).repeat(10, 1))
    stream = StreamSource(torch.arange(10) * 7 + 3, labels, Noise(), None, (3, 12, 16), 3, Augmentation(0), workers)
    return BoxSource(stream, packed, how or Augmentation(5, flip=True, resized_crop=True), kept)


def first(made: BoxSource, rows: list[int], draw: int | None = None, views: tuple[str, ...] = ("",)):
    return next(iter(made.batches([torch.tensor(rows)], draw=draw, views=views)))


def test_labels_are_padded_to_the_fullest_image_of_the_split():
    made = source()
    batch = first(made, [*range(10)])
    boxes, classes = batch.labels["boxes"], batch.labels["classes"]
    assert boxes.shape == (10, 4, 4)
    assert boxes.dtype == torch.float32
    assert classes.shape == (10, 4)
    assert classes.dtype == torch.int64
    for row, count in enumerate(COUNTS):
        start = sum(COUNTS[:row])
        assert torch.equal(boxes[row, :count], made.packed.boxes[start:start + count])
        assert classes[row, :count].tolist() == [number % 3 for number in range(start, start + count)]
        assert boxes[row, count:].abs().sum() == 0
        assert classes[row, count:].tolist() == [-2 if row == 4 else -1] * (4 - count)
    assert first(made, [1]).labels["classes"].tolist() == [[-1] * 4]


def test_a_split_without_a_box_has_one_place():
    made = source()
    bare = replace(made, packed=PackedBoxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64),
                                            torch.zeros(11, dtype=torch.int64), made.packed.extents))
    for draw in (None, 0):
        labels = first(bare, [3, 4], draw).labels
        assert labels["classes"].tolist() == [[-1], [-2]]
        assert labels["boxes"].tolist() == [[[0.0] * 4]] * 2


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("how", [Augmentation(5, flip=True, resized_crop=True), Augmentation(5, 2, flip=True)])
def test_the_same_draw_gives_the_same_bits_whatever_the_batch(kept, how):
    one = first(source(kept, how), [*range(10)], 4, ("", "a"))
    plan = [torch.tensor([9]), torch.tensor([2, 2, 5]), torch.tensor([0, 9])]
    for rows, batch in zip(plan, source(kept, how).batches(plan, draw=4, views=("a", "")), strict=True):
        assert torch.equal(batch.ids, one.ids[rows])
        assert every(torch.equal(batch.labels[name], one.labels[name][rows]) for name in ("boxes", "classes"))
        assert every(torch.equal(batch.inputs[view], one.inputs[view][rows]) for view in ("", "a"))


def test_views_have_the_same_places_and_a_light_of_their_own():
    batch = first(source(), [3, 5], 1, ("a", "b"))
    assert {*batch.inputs} == {"a", "b"}
    assert not torch.equal(batch.inputs["a"], batch.inputs["b"])
    light = batch.inputs["a"] / batch.inputs["b"].clamp(min=1e-6)
    seen = (batch.inputs["a"] < 0.99) & (batch.inputs["b"] < 0.99) & (batch.inputs["b"] > 0.1)
    for row in range(2):
        assert light[row][seen[row]].std() < 1e-3


def test_draws_differ_and_ids_say_what_is_drawn_not_rows():
    made = source()
    one, two = (first(made, [*range(10)], draw) for draw in (0, 1))
    assert not torch.equal(one.labels["boxes"], two.labels["boxes"])
    moved = replace(made, stream=replace(made.stream, ids=made.stream.ids + 1))
    assert not torch.equal(one.labels["boxes"], first(moved, [*range(10)], 0).labels["boxes"])


def test_kept_images_are_read_once_and_others_for_each_batch():
    for kept, reads in ((True, 10), (False, 9)):
        made = source(kept)
        for _ in range(3):
            list(made.batches([torch.tensor([1, 2]), torch.tensor([3])], draw=None))
        assert made.stream.read.read == reads  # pyright: ignore[reportFunctionMemberAccess]


def test_it_is_a_source_and_has_parts():
    made = source()
    assert isinstance(made, Source)
    part = Part(made, torch.tensor([4, 2]))
    batch = next(iter(part.batches([torch.tensor([1])], draw=None)))
    assert batch.ids.tolist() == [17]
    assert torch.equal(batch.labels["boxes"], first(made, [2]).labels["boxes"])
    assert part.labels.tolist() == [-1, 0]
