"""Segmentation as a task: what it refuses, how it judges, and whole runs of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import tutelage
from every import every
from tutelage.data.source import Data
from tutelage.engine.predict import evidence_of
from tutelage.errors import DataError, ModelError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ensemble, Frozen, Trained
from tutelage.models.unet import unet
from tutelage.tasks.named import task_named
from tutelage.tasks.segmentation.metrics import count_pixels
from tutelage.tasks.segmentation.rows import pixels
from tutelage.tasks.segmentation.task import SEGMENTATION, check_labels_of_masks, first_class, judge_of_masks, mean_map
from tutelage.types import Batch

NAMES = ("background", "square")


@dataclass(frozen=True, eq=False)
class Squares:
    """Dark images with a bright square each, and masks of it; of some pixels nobody knows."""

    ids: Tensor
    size: int = 12

    @property
    def labels(self) -> Tensor:
        return torch.zeros(len(self.ids), dtype=torch.int64)

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        for rows in plan:
            images, masks = zip(*(self._one(int(number)) for number in self.ids[rows]), strict=True)
            yield Batch(torch.stack(images), torch.stack(masks), self.ids[rows])

    def _one(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        mask = torch.zeros(self.size, self.size, dtype=torch.int64)
        top, left = torch.randint(0, self.size - 5, (2,), generator=generator).tolist()
        mask[top : top + 5, left : left + 5] = 1
        image = 0.3 * torch.rand(1, self.size, self.size, generator=generator) + 0.5 * mask
        return image, mask.where(torch.rand(mask.shape, generator=generator) > 0.05, -1)


def squares(rows: int = 32, **changes) -> Data:
    made = Data(name="squares", train=Squares(torch.arange(rows)), validation=Squares(torch.arange(100, 108)),
                test=Squares(torch.arange(200, 208)), classes=NAMES, shape=(1, 12, 12), preprocessing={},
                digest="squares", augmentation="", task=SEGMENTATION)
    return replace(made, **changes)


def small(seed: int, stride: int) -> nn.Module:
    """A network whose maps have the height and width of the image, or half of them."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))


def test_the_task_is_known_by_its_name_and_learns_pixels_by_cross_entropy_and_kl():
    assert task_named("segmentation") is SEGMENTATION
    (label,), (peer,) = SEGMENTATION.from_labels("s"), SEGMENTATION.from_network("t", "s", temperature=4.0)
    assert (label.divergence, label.rows, peer.divergence, peer.rows) == (cross_entropy, pixels, kl, pixels)
    assert peer.temperature == 4.0
    assert SEGMENTATION.soft("t") == ("t", pixels)
    assert not SEGMENTATION.classifies


@pytest.mark.parametrize(("names", "first"), [(("background", "polyp"), 1), (("__background__", "cat"), 1),
                                              (("Background", "a", "b"), 1), (("road", "background"), 0),
                                              (("background",), 0)])
def test_the_background_is_a_first_class_of_that_name(names, first):
    assert first_class(names) == first


# --- what is refused -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labelled:
    """The squares with other labels."""

    whole: Squares
    change: partial

    @property
    def ids(self) -> Tensor:
        return self.whole.ids

    @property
    def labels(self) -> Tensor:
        return self.whole.labels

    def batches(self, plan, *, draw, views=("",)):
        for batch in self.whole.batches(plan, draw=draw, views=views):
            yield batch._replace(labels=self.change(batch.labels))


def test_good_masks_pass():
    assert check_labels_of_masks(squares()) is None


@pytest.mark.parametrize(("change", "found"), [
    (partial(torch.add, 1), "0 .. 2"), (partial(torch.sub, other=1), "-2 .. 0"),
    (partial(torch.where, torch.tensor(True), 255), "255 .. 255"),
], ids=["a class too many", "below -1", "ignored values that were not turned into -1"])
def test_masks_with_other_values_are_refused(change, found):
    data = squares()
    with pytest.raises(DataError, match="values of masks out of range") as caught:
        check_labels_of_masks(replace(data, train=Labelled(data.train, change)))
    assert found in str(caught.value)


@pytest.mark.parametrize("change", [lambda masks: masks[:, 0, 0], lambda masks: masks.float()],
                         ids=["classes", "floats"])
def test_labels_that_are_no_masks_are_refused(change):
    data = squares()
    with pytest.raises(DataError, match="labels that are no masks"):
        check_labels_of_masks(replace(data, train=Labelled(data.train, change)))


def test_one_class_is_too_few():
    with pytest.raises(DataError, match="too few classes"):
        check_labels_of_masks(squares(classes=("background",)))


# --- judging ---------------------------------------------------------------------------------------------------


def test_evidence_is_small_and_logits_are_brought_to_the_size_of_the_masks_first():
    judge, labels = judge_of_masks(NAMES), torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    logits = torch.tensor([[[[3.0, -1.0]], [[0.0, 0.0]]]])
    seen = judge.measure({"": logits}, labels, torch.tensor([7]))
    # Bilinear: 3, 2, 0 and -1 against 0, so that the third pixel is a tie, which the first class wins.
    assert torch.equal(seen["counts"], count_pixels(torch.tensor([[[0, 0, 0, 1]] * 2]).view(1, 2, 4), labels, 2))
    assert seen["counts"].shape == (1, 2, 3)


@pytest.mark.parametrize("logits", [torch.zeros(1, 2), torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4)])
def test_what_gives_no_map_of_these_classes_is_not_judged(logits):
    judge = judge_of_masks(NAMES)
    assert judge.measure({"": logits}, torch.zeros(1, 4, 4, dtype=torch.int64), torch.tensor([0])) is None


def test_a_split_without_a_counted_pixel_cannot_be_judged():
    with pytest.raises(DataError, match="nothing to evaluate on"):
        judge_of_masks(NAMES).summary({"counts": torch.zeros(3, 2, 3, dtype=torch.int64)})


def test_networks_of_unlike_grids_and_their_ensemble_are_judged_batch_by_batch_as_at_once():
    data, models = squares(), {"a": unet(2, 1, width=2, depth=2), "b": small(1, 2)}
    graph = Graph({"a": Trained(), "b": Trained(), "both": Ensemble(("a", "b"), mean_map)},
                  [edge for s in "ab" for edge in SEGMENTATION.from_labels(s)])
    judge = SEGMENTATION.judge(data)
    found = evidence_of(graph, models, data.validation, judge, batch_size=3)
    at_once = evidence_of(graph, models, data.validation, judge, batch_size=8)
    assert list(found) == ["a", "b", "both"]
    assert every(torch.equal(found[node]["counts"], at_once[node]["counts"]) for node in found)
    keys = {score.key for score in SEGMENTATION.scores}
    for node in found:
        own = judge.summary(found[node])
        assert own.keys() == {*keys, "per_class"}
        assert own["per_class"].keys() == {"dice", "iou"}


def test_a_mean_of_maps_of_unlike_classes_is_refused():
    with pytest.raises(ModelError, match="a mean of what is not maps"):
        mean_map(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ModelError, match="a mean of what is not maps"):
        mean_map(torch.zeros(1, 2), torch.zeros(1, 2))


# --- whole runs ------------------------------------------------------------------------------------------------


ADAM = partial(torch.optim.Adam, lr=0.02)


def test_two_unlike_students_learn_masks_from_labels_a_teacher_and_each_other():
    torch.manual_seed(0)
    models = {"t": unet(2, 1, width=4, depth=2), "a": small(1, 1), "b": small(1, 2)}
    graph = Graph({"t": Frozen(), "a": Trained(), "b": Trained()},
                  [edge for s, peer in (("a", "b"), ("b", "a")) for edge in (
                      *SEGMENTATION.from_labels(s), *SEGMENTATION.from_network("t", s, weight=0.1, temperature=2.0),
                      *SEGMENTATION.from_network(peer, s, weight=0.1))])
    last = list(tutelage.train(graph, models, squares(), epochs=6, batch_size=8, accumulate=2, optimizer=ADAM,
                               device="cpu", precision="exact", warn=("constant",)))[-1]
    assert last.accuracy["a"] > 0.85
    assert last.accuracy["b"] > 0.7
