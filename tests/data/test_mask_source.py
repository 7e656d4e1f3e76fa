"""Batches of images and masks: the same bits whatever batch a sample is in, whoever reads it."""

from dataclasses import replace

import pytest
import torch

from every import every
from tutelage.data.augment import Augmentation
from tutelage.data.mask_source import MaskSource
from tutelage.data.source import Part, Source
from tutelage.data.stream import StreamSource


class Pairs:
    """A pair of an image of noise and a mask of noise, by its row; how often it was read is counted."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, row: int) -> torch.Tensor:
        self.read += 1
        generator = torch.Generator().manual_seed(row)
        return torch.cat([torch.randint(0, 256, (3, 12, 16), generator=generator, dtype=torch.uint8),
                          torch.randint(0, 3, (1, 12, 16), generator=generator, dtype=torch.uint8)])


def source(kept: bool = True, how: Augmentation | None = None, workers: int = 0) -> MaskSource:
    ids = torch.arange(10) * 7 + 3
    stream = StreamSource(ids, torch.zeros(10, dtype=torch.int64), Pairs(), None, (4, 12, 16), 3, Augmentation(0),
                          workers)
    return MaskSource(stream, how or Augmentation(5, 2, flip=True, resized_crop=True), kept)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("how", [Augmentation(5, flip=True, resized_crop=True), Augmentation(5, 2, flip=True)])
def test_the_same_draw_gives_the_same_bits_whatever_the_batch(kept, how):
    one = next(iter(source(kept, how).batches([torch.arange(10)], draw=4, views=("", "a"))))
    plan = [torch.tensor([9]), torch.tensor([2, 2, 5]), torch.tensor([0, 9])]
    for rows, batch in zip(plan, source(kept, how).batches(plan, draw=4, views=("a", "")), strict=True):
        assert torch.equal(batch.labels, one.labels[rows])
        assert torch.equal(batch.ids, one.ids[rows])
        assert every(torch.equal(batch.inputs[view], one.inputs[view][rows]) for view in ("", "a"))


def test_draws_differ_and_ids_say_what_is_drawn_not_rows():
    made = source()
    first, second = (next(iter(made.batches([torch.arange(10)], draw=draw))) for draw in (0, 1))
    assert not torch.equal(first.labels, second.labels)
    moved = replace(made, stream=replace(made.stream, ids=made.stream.ids + 1))
    other = next(iter(moved.batches([torch.arange(10)], draw=0)))
    assert not torch.equal(first.labels, other.labels)


def test_kept_pairs_are_read_once_and_others_for_each_batch():
    for kept, reads in ((True, 10), (False, 9)):
        made = source(kept)
        for _ in range(3):
            list(made.batches([torch.tensor([1, 2]), torch.tensor([3])], draw=None))
        assert made.stream.read.read == reads  # pyright: ignore[reportFunctionMemberAccess]


def test_workers_change_nothing():
    plan = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    for one, other in zip(source(False).batches(plan, draw=1), source(False, workers=1).batches(plan, draw=1),
                          strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)


def test_it_is_a_source_and_has_parts():
    made = source()
    assert isinstance(made, Source)
    part = Part(made, torch.tensor([4, 2]))
    batch = next(iter(part.batches([torch.tensor([1])], draw=None)))
    assert batch.ids.tolist() == [17]
    assert batch.inputs.shape == (1, 3, 12, 16)
    assert torch.equal(batch.labels[0], Pairs()(2)[3].long())
