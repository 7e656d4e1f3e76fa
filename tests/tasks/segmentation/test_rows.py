"""The golden values of losses on maps, and what holds for any rows of images: in the reference and in the fused losses.

The golden maps are two rows of four logits each, as one image of four classes and two pixels, [1, 4, 2, 1].
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from every import every
from tutelage.errors import ModelError
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import cross_entropy, dice, kl, unit_distance
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected, teacher_doubt
from tutelage.graph.nodes import Computed, Ensemble, Frozen, Trained
from tutelage.graph.rows import row_sets, total_of
from tutelage.graph.sample_weights import entropy
from tutelage.tasks.segmentation.rows import channels, masks, pixels, places, resized
from tutelage.tasks.segmentation.task import SEGMENTATION, mean_map

TEACHER = [[2.0, 1.0, 0.0, -1.0], [0.5, 2.5, 0.0, -0.5]]
STUDENT = [[1.0, 0.5, 0.2, -0.3], [1.5, 1.0, -0.2, 0.1]]
Losses = Callable[..., dict[str, Tensor]]
each_loss = pytest.mark.parametrize("losses", [objective.losses, fused_losses.losses], ids=["plain", "fused"])


def image(rows: list[list[float]]) -> Tensor:
    """Two pixels above each other, [1, 4, 2, 1]."""
    return torch.tensor(rows, dtype=torch.float64).T[None, :, :, None].contiguous()


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_like(count: int, size: int, classes: int, seed: int = 0) -> Tensor:
    """Masks [count, size, size] in which a third of the pixels does not count, unlike from image to image."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(0, classes, (count, size, size), generator=generator)
    share = torch.linspace(0.1, 0.6, count)[:, None, None]
    return found.where(torch.rand(found.shape, generator=generator) > share, -1)


def learn(losses: Losses, edges: list[Edge], ends: Mapping[str, Tensor], labels: Tensor,
          nodes: Mapping[str, object] | None = None, **options) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The loss of each edge, and the gradients of all ends."""
    given = {end: value.detach().clone().requires_grad_() for end, value in ends.items()}
    graph = Graph({**{end: Trained() for end in ends if "." not in end}, **(nodes or {})}, edges)
    found = losses(graph, given, labels, **options)
    torch.stack(list(found.values())).sum().backward()
    return ({name: value.item() for name, value in found.items()},
            {end: torch.zeros_like(value) if value.grad is None else value.grad for end, value in given.items()})


# --- golden values ---------------------------------------------------------------------------------------------


@each_loss
def test_a_pixel_that_does_not_count_is_not_in_the_cross_entropy(losses):
    found, pulls = learn(losses, [Edge("labels", "s", cross_entropy, rows=pixels)], {"s": image(STUDENT)},
                         torch.tensor([[[0], [-1]]]))
    assert list(found) == ["labels->s:cross_entropy[pixels]"]
    assert next(iter(found.values())) == pytest.approx(0.8451776501, abs=1e-10)
    assert not pulls["s"][:, :, 1].any()


@each_loss
def test_pixels_learn_from_a_teacher_as_rows_do(losses):
    found, pulls = learn(losses, [Edge("t", "s", kl, temperature=4.0, rows=pixels)],
                         {"s": image(STUDENT), "t": image(TEACHER)}, torch.tensor([[[0], [0]]]))
    assert next(iter(found.values())) == pytest.approx(0.3698853050, abs=1e-10)
    assert not pulls["t"].any()


@each_loss
def test_channels_are_compared_as_distributions_over_places(losses):
    edge = Edge("t", "s", kl, temperature=4.0, rows=channels)
    ends = {"s": image(STUDENT), "t": image(TEACHER)}
    found, _ = learn(losses, [edge], ends, torch.tensor([[[0], [-1]]]))
    assert next(iter(found.values())) == pytest.approx(0.1591153237, abs=1e-10)
    seen = row_sets([edge], ends, torch.tensor([[[0], [-1]]]))[channels].values
    each = 16 * kl(seen["s"] / 4, seen["t"] / 4)
    assert each.tolist() == pytest.approx([0.4929451385, 0.1222787387, 0.0199916722, 0.0012457455], abs=1e-10)


@each_loss
def test_soft_dice_of_two_pixels(losses):
    ends = {"s": torch.tensor([[[[1.0, 1.5]], [[0.5, 1.0]]]], dtype=torch.float64)}
    found, _ = learn(losses, [Edge("labels", "s", dice, rows=masks)], ends, torch.tensor([[[1, 0]]]))
    assert next(iter(found.values())) == pytest.approx(0.3629656905, abs=1e-10)


@pytest.mark.parametrize("background", [False, True])
def test_soft_dice_is_that_of_a_loop(background):
    logits, labels = maps(2, 3, 4, 4), labels_like(2, 4, 3)
    p, expected = logits.softmax(1).tolist(), []
    for b in range(2):
        terms = []
        for k in range(0 if background else 1, 3):
            known = [(i, j) for i in range(4) for j in range(4) if labels[b, i, j] >= 0]
            both = sum(p[b][k][i][j] for i, j in known if labels[b, i, j] == k)
            said, true = sum(p[b][k][i][j] for i, j in known), sum(int(labels[b, i, j] == k) for i, j in known)
            terms.append(1 - (2 * both + 0.5) / (said + true + 0.5))
        expected.append(sum(terms) / len(terms))
    found = dice(logits.movedim(1, -1), labels, smooth=0.5, background=background)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@each_loss
@pytest.mark.parametrize("edge", [Edge("t", "s", kl, temperature=3.0, rows=pixels), Edge("t", "s", kl, rows=channels),
                                  Edge("t", "s", unit_distance, rows=places)], ids=lambda edge: edge.name)
def test_what_is_equal_costs_nothing(losses, edge):
    same = maps(2, 3, 4, 4)
    found, pulls = learn(losses, [edge], {"s": same, "t": same}, labels_like(2, 4, 3))
    assert next(iter(found.values())) == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(pulls["s"], torch.zeros_like(same), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [None, pixels])
def test_soft_dice_of_other_rows_than_masks_is_refused(rows):
    with pytest.raises(ModelError, match="Dice is of maps and masks of one size") as caught:
        learn(objective.losses, [Edge("labels", "s", dice, rows=rows)], {"s": maps(2, 3, 4, 4)}, labels_like(2, 4, 3))
    assert 'rows = "masks"' in str(caught.value)


# --- features --------------------------------------------------------------------------------------------------


def test_an_adapter_of_equal_features_that_changes_nothing_costs_nothing():
    adapter = Projected(unit_distance)
    features = maps(2, 3, 4, 4)
    edge = Edge("t", "s", adapter, rows=places)
    learn(objective.losses, [edge], {"s": features, "t": features}, labels_like(2, 4, 2))
    adapter.projection.weight.data = torch.eye(3, dtype=torch.float64)
    assert objective.edge_loss(edge, {"s": features, "t": features}, labels_like(2, 4, 2)).item() < 1e-24


def test_an_adapter_learns_from_its_receiver_alone_and_brings_unlike_widths_and_grids_together():
    adapter = Projected(unit_distance)
    ends = {"t": maps(2, 5, 4, 4), "s": maps(2, 3, 2, 2, seed=1)}
    found, pulls = learn(objective.losses, [Edge("t", "s", adapter, rows=places)], ends, labels_like(2, 8, 2))
    assert adapter.projection.weight.shape == (5, 3)
    assert adapter.projection.weight.grad.any()
    assert pulls["s"].any()
    assert not pulls["t"].any()
    wide = torch.nn.functional.interpolate(ends["s"], (4, 4), mode="bilinear")
    naive = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(4):
                mine, theirs = adapter.projection.weight.detach() @ wide[b, :, i, j], ends["t"][b, :, i, j]
                naive += 2 - 2 * float(mine @ theirs / mine.norm() / theirs.norm())
    assert next(iter(found.values())) == pytest.approx(naive / 32, rel=1e-12)


def test_features_that_are_all_zero_have_finite_gradients():
    _, pulls = learn(objective.losses, [Edge("t", "s", unit_distance, rows=places)],
                     {"s": torch.zeros(1, 3, 2, 2), "t": torch.ones(1, 3, 2, 2)}, labels_like(1, 2, 2))
    assert pulls["s"].isfinite().all()


# --- unlike grids ----------------------------------------------------------------------------------------------


def naive_resized(values: Tensor, size: int) -> Tensor:
    """Bilinear interpolation [B, K, h, w] -> [B, K, size, size] at the centres of pixels, place by place."""
    h, w = values.shape[2:]

    def corners(place: int, old: int) -> list[tuple[int, float]]:
        x = min(max((place + 0.5) * old / size - 0.5, 0), old - 1)
        low = math.floor(x)
        return [(low, 1 - (x - low)), (min(low + 1, old - 1), x - low)]

    return torch.stack([torch.stack([sum(a * b * values[:, :, i, j] for i, a in corners(y, h)
                                         for j, b in corners(x, w)) for x in range(size)], -1)
                        for y in range(size)], -2)


def test_bilinear_is_what_it_says():
    values = maps(2, 3, 3, 5)
    torch.testing.assert_close(resized(values, (8, 8)), naive_resized(values, 8), rtol=1e-12, atol=1e-12)
    assert resized(values, (3, 5)) is values


@each_loss
def test_grids_of_96_and_48_learn_from_each_other_in_one_graph(losses):
    labels = labels_like(2, 96, 2)
    ends = {"a": maps(2, 2, 96, 96), "b": maps(2, 2, 48, 48, seed=1)}
    edges = [*SEGMENTATION.from_labels("a"), *SEGMENTATION.from_labels("b"),
             *SEGMENTATION.from_network("a", "b", temperature=2.0), *SEGMENTATION.from_network("b", "a")]
    found, pulls = learn(losses, edges, ends, labels)
    rows = {end: torch.nn.functional.interpolate(value, (96, 96), mode="bilinear").movedim(1, -1)[labels >= 0]
            for end, value in ends.items()}
    assert found["labels->b:cross_entropy[pixels]"] == pytest.approx(
        cross_entropy(rows["b"], labels[labels >= 0]).mean().item(), rel=1e-12)
    assert found["a->b:kl/2[pixels]"] == pytest.approx(4 * kl(rows["b"] / 2, rows["a"] / 2).mean().item(), rel=1e-12)
    assert found["b->a:kl[pixels]"] == pytest.approx(kl(rows["a"], rows["b"]).mean().item(), rel=1e-12)
    assert pulls["a"].shape == (2, 2, 96, 96)
    assert pulls["b"].shape == (2, 2, 48, 48)


EVERY_EDGE = [*SEGMENTATION.from_labels("s"), *SEGMENTATION.from_network("t", "s", temperature=4.0),
              Edge("t", "s", kl, temperature=4.0, rows=channels), Edge("labels", "s", dice, rows=masks),
              Edge("t", "s", unit_distance, rows=places)]


@each_loss
@pytest.mark.parametrize("size", [6, 7])
def test_turning_image_and_mask_together_changes_nothing(losses, size):
    ends, labels = {"s": maps(2, 3, 5, 5), "t": maps(2, 3, size, size, seed=1)}, labels_like(2, 9, 3)
    found, _ = learn(losses, EVERY_EDGE, ends, labels)
    turned, _ = learn(losses, EVERY_EDGE, {end: value.flip(-1) for end, value in ends.items()}, labels.flip(-1))
    assert turned == pytest.approx(found, rel=1e-12)


@each_loss
def test_what_lies_at_pixels_that_do_not_count_has_no_part(losses):
    labels = labels_like(2, 6, 3)
    ends = {"s": maps(2, 3, 6, 6), "t": maps(2, 3, 6, 6, seed=1)}
    other = {end: value.where((labels >= 0)[:, None], 300.0 * value) for end, value in ends.items()}
    edges = [edge for edge in EVERY_EDGE if edge.rows in (pixels, masks)]
    found, pulls = learn(losses, edges, ends, labels)
    again, others = learn(losses, edges, other, labels)
    assert again == pytest.approx(found, rel=1e-12)
    torch.testing.assert_close(others["s"], pulls["s"], rtol=1e-9, atol=1e-12)
    assert not pulls["s"].movedim(1, -1)[labels < 0].any()


# --- where nothing counts --------------------------------------------------------------------------------------


COUNTED = [*SEGMENTATION.from_labels("s"), *SEGMENTATION.from_network("t", "s", temperature=4.0, sample_weight=entropy),
           Edge("labels", "s", dice, rows=masks)]


def check_nothing(losses: Losses, **options) -> None:
    found, pulls = learn(losses, COUNTED, {"s": maps(2, 3, 4, 4).float(), "t": maps(2, 3, 4, 4, seed=1).float()},
                         torch.full((2, 4, 4), -1), **options)
    assert list(found.values()) == [0.0, 0.0, 0.0]
    assert pulls["s"].isfinite().all()
    assert not pulls["s"].any()


@each_loss
def test_where_no_pixel_counts_the_loss_is_exactly_0_and_so_are_gradients(losses):
    check_nothing(losses)


@pytest.fixture
def unchecked(monkeypatch):
    """Functions without the checks of the tests, which cannot be compiled."""
    for name, function in vars(fused_losses).items():
        if inspect.isfunction(function) and function.__module__ == fused_losses.__name__:
            monkeypatch.setattr(fused_losses, name, inspect.unwrap(function))
    fused_losses._compiled.cache_clear()
    yield
    fused_losses._compiled.cache_clear()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own look at what it compiles
def test_where_no_pixel_counts_compiled_losses_are_0_too(unchecked, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, but no code is made
    check_nothing(fused_losses.losses, compiled=True)


@each_loss
def test_an_image_in_which_nothing_counts_leaves_the_loss_of_the_others_as_it_is(losses):
    labels = labels_like(2, 4, 3)
    ends = {"s": maps(3, 3, 4, 4), "t": maps(3, 3, 4, 4, seed=1)}
    found, _ = learn(losses, COUNTED, {end: value[:2] for end, value in ends.items()}, labels)
    more, _ = learn(losses, COUNTED, ends, torch.cat([labels, torch.full((1, 4, 4), -1)]))
    assert more == pytest.approx(found, rel=1e-12)


# --- micro-batches ---------------------------------------------------------------------------------------------


@each_loss
def test_micro_batches_of_unlike_counted_pixels_sum_to_the_whole_step(losses):
    labels = labels_like(4, 6, 3)
    labels[2] = -1
    labels[3, 1:] = -1
    ends = {"s": maps(4, 3, 6, 6), "t": maps(4, 3, 3, 3, seed=1)}
    whole, pulls = learn(losses, EVERY_EDGE, ends, labels)
    shares, parts = {}, {}
    for part in (slice(0, 2), slice(2, 4)):
        shares = {edge.name: edge.weight * int(total_of(edge.rows)(labels[part])) / int(total_of(edge.rows)(labels))
                  for edge in EVERY_EDGE}
        found, own = learn(losses, EVERY_EDGE, {end: value[part] for end, value in ends.items()}, labels[part],
                           weights=shares)
        parts = {name: parts.get(name, 0.0) + value for name, value in found.items()}
        torch.testing.assert_close(own["s"], pulls["s"][part], rtol=1e-9, atol=1e-12)
    assert parts == pytest.approx(whole, rel=1e-12)
    assert every(0 < shares[edge.name] < 0.35 for edge in EVERY_EDGE if edge.rows in (pixels, masks))


# --- against a loop over pixels --------------------------------------------------------------------------------


def sure(row: Tensor) -> Tensor:
    p = row.softmax(0)
    return (1 + (p * p.log()).sum() / math.log(len(row))).clamp(0, 1)


def naive_kl(student: Tensor, teacher: Tensor, warm: float) -> Tensor:
    p, q = (teacher / warm).softmax(0), (student / warm).softmax(0)
    return warm**2 * sum(p[k] * (p[k].log() - q[k].log()) for k in range(len(p)))


@each_loss
@pytest.mark.parametrize("peers", [False, True], ids=["distill", "dual_student"])
def test_methods_on_pixels_are_hand_written_loops(losses, peers):
    """Distillation, and two students who trust a teacher pixel by pixel and hear each other where it is not sure."""
    labels, K = labels_like(2, 4, 3), 3  # noqa: N806
    ends = {"t": 2 * maps(2, K, 4, 4), "a": maps(2, K, 4, 4, seed=1), "b": maps(2, K, 2, 2, seed=2)}
    edges = [*SEGMENTATION.from_labels("a", weight=0.5),
             *SEGMENTATION.from_network("t", "a", weight=0.7, temperature=4)]
    nodes: dict = {"t": Frozen()}
    if peers:
        end, rows = SEGMENTATION.soft("t")
        nodes["doubt"] = Computed((end,), partial(teacher_doubt, entropy), rows)
        edges = [edge for s, peer in (("a", "b"), ("b", "a")) for edge in (
            *SEGMENTATION.from_labels(s, weight=0.5),
            *SEGMENTATION.from_network("t", s, weight=0.7, temperature=4, sample_weight=entropy),
            *SEGMENTATION.from_network(peer, s, weight=0.3, temperature=2, sample_weight="doubt"))]
    found, pulls = learn(losses, edges, ends, labels, nodes)

    own = {end: value.clone().requires_grad_() for end, value in ends.items()}
    wide = {end: value if value.shape[-1] == 4 else naive_resized(value, 4) for end, value in own.items()}
    terms: dict[str, Tensor] = {edge.name: torch.zeros((), dtype=torch.float64) for edge in edges}
    for b, i, j in (labels >= 0).nonzero().tolist():
        z = {end: value[b, :, i, j] for end, value in wide.items()}
        w = sure(z["t"].detach()) if peers else 1.0
        for s, peer in (("a", "b"), ("b", "a")) if peers else (("a", ""),):
            terms[f"labels->{s}:cross_entropy[pixels]"] -= 0.5 * z[s].log_softmax(0)[labels[b, i, j]]
            terms[f"t->{s}:kl/4[pixels]"] += 0.7 * w * naive_kl(z[s], z["t"].detach(), 4.0)
            if peers:
                terms[f"{peer}->{s}:kl/2[pixels]"] += 0.3 * (1 - w) * naive_kl(z[s], z[peer].detach(), 2.0)
    terms = {name: value / int((labels >= 0).sum()) for name, value in terms.items()}
    sum(terms.values()).backward()
    assert found == pytest.approx({name: value.item() for name, value in terms.items()}, rel=1e-10)
    for s in "ab" if peers else "a":
        torch.testing.assert_close(pulls[s], own[s].grad, rtol=1e-9, atol=1e-13)
    assert not pulls["t"].any()


@each_loss
def test_a_number_of_each_image_weighs_all_its_pixels(losses):
    labels, ends = labels_like(2, 4, 3), {"s": maps(2, 3, 4, 4), "t": maps(2, 3, 4, 4, seed=1)}
    weight = torch.tensor([0.0, 2.0], dtype=torch.float64)
    edge = Edge("t", "s", kl, sample_weight="image", rows=pixels)
    found, _ = learn(losses, [edge], {**ends, "image": weight}, labels)
    rows = kl(ends["s"].movedim(1, -1).reshape(-1, 3), ends["t"].movedim(1, -1).reshape(-1, 3)).view(2, 4, 4)
    expected = 2 * (rows[1] * (labels[1] >= 0)).sum() / (labels >= 0).sum()
    assert next(iter(found.values())) == pytest.approx(expected.item(), rel=1e-12)


def test_an_ensemble_of_maps_teaches_as_a_network_does():
    labels = labels_like(2, 4, 3)
    ends = {"a": maps(2, 3, 4, 4), "b": maps(2, 3, 2, 2, seed=1), "s": maps(2, 3, 4, 4, seed=2)}
    graph = Graph({**dict.fromkeys(ends, Trained()), "both": Ensemble(("a", "b"), mean_map)},
                  SEGMENTATION.from_network("both", "s"))
    known = objective.forward(graph, {}, torch.zeros(2, 1, 4, 4), known=ends)
    p = (ends["a"].softmax(1) + naive_resized(ends["b"], 4).softmax(1)) / 2
    torch.testing.assert_close(known["both"].exp(), p, rtol=1e-12, atol=1e-14)
    rows = [value.movedim(1, -1)[labels >= 0] for value in (ends["s"], p.log())]
    (found,) = objective.losses(graph, known, labels).values()
    assert found.item() == pytest.approx(kl(*rows).mean().item(), rel=1e-10)


# --- what is no map --------------------------------------------------------------------------------------------


def test_logits_of_a_classifier_have_no_pixels():
    with pytest.raises(ModelError, match="an end that is no map") as caught:
        learn(objective.losses, SEGMENTATION.from_labels("s"), {"s": torch.zeros(2, 3)}, labels_like(2, 4, 3))
    assert "'s'" in str(caught.value)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.zeros(2, 4, 4), {"masks": torch.zeros(2, 4, 4).long()}],
                         ids=["classes", "floats", "several"])
def test_labels_that_are_no_masks_are_refused(labels):
    with pytest.raises(ModelError, match="labels that are no masks"):
        pixels({"s": torch.zeros(2, 3, 4, 4)}, labels)


def test_maps_of_unlike_numbers_of_channels_have_unlike_numbers_of_rows():
    with pytest.raises(ModelError, match="unlike numbers of rows"):
        learn(objective.losses, [Edge("t", "s", kl, rows=channels)],
              {"s": torch.zeros(2, 3, 4, 4), "t": torch.zeros(2, 5, 4, 4)}, labels_like(2, 4, 3))


def test_rows_are_named_in_the_text_of_a_graph():
    graph = Graph({"t": Frozen(), "s": Trained()}, [*SEGMENTATION.from_network("t", "s"),
                                                    Edge("t", "s", kl, rows=channels)])
    assert "kl [pixels]" in str(graph)
    assert "kl [channels]" in str(graph)


def test_rows_of_pixels_lie_so_that_sums_over_classes_run_along_memory():
    rows = pixels({"s": torch.zeros(2, 3, 4, 4)}, labels_like(2, 4, 3)).values["s"]
    assert rows.shape == (32, 3)
    assert rows.stride() == (1, 32)
