"""A student that chooses among the draws of a stochastic teacher."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from every import every
from toys import network, run
from tutelage.engine.loop import check, steps_of
from tutelage.engine.run import Run
from tutelage.engine.teacher_cache.use import cache_folder, wanted
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import mse
from tutelage.graph.nodes import Computed, Frozen, Trained
from tutelage.graph.objective import forward, losses
from tutelage.methods.stochastic_teacher import guided, stochastic_teacher
from tutelage.models.wrappers import draw
from tutelage.system.files import fingerprint
from tutelage.system.random import derive, uniform

LAYERS = {"t": "4", "s": "4"}
GOLDEN = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
DRAWN = torch.tensor([[[1.0, 2.0], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3291788293, 0.1806571719, 0.2695088308, 0.2206551680], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(count: int = 5, *, dropout: float | None = None, norm: bool = True, epochs: int = 1,
         limit_draws: int | None = None, **options) -> Run:
    teacher = network(1, norm=norm)
    draw(teacher, count, dropout)
    graph = stochastic_teacher("t", "s", LAYERS, **options)
    return run(graph, {"t": teacher, "s": network(2, norm=norm)}, epochs=epochs, limit_draws=limit_draws)


def by_hand(student: Tensor, drawn: Tensor, temperature: float, percentile: float) -> Tensor:
    """Row by row, as the equations are written."""
    found = []
    for row, draws in zip(student, drawn, strict=True):
        share = torch.stack([torch.exp((row * one).sum() / temperature) for one in draws])
        share = share / share.sum()
        threshold = torch.quantile(share.detach(), percentile / 100)
        kept = [(weight, one) for weight, one in zip(share, draws, strict=True) if weight >= threshold]
        whole = sum(weight for weight, _ in kept)
        found.append(sum(weight / whole * one for weight, one in kept))
    return torch.stack(found)


def test_the_golden_weights_of_the_specification():
    found = guided(GOLDEN, DRAWN, percentile=0.0, renormalise=False)
    torch.testing.assert_close(found[0], WEIGHTS @ DRAWN[0], rtol=0, atol=1e-9)
    assert guided(GOLDEN, DRAWN).tolist() == [[1.0, 2.0]]
    assert mse(GOLDEN, guided(GOLDEN, DRAWN)).tolist() == [0.0]
    torch.testing.assert_close(guided(GOLDEN, DRAWN, renormalise=False), WEIGHTS[0] * GOLDEN, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("features", "percentile", "loss"), [
    ((1.0, 2.0), 90.0, 0.0), ((1.0, 0.0), 90.0, 1.0), ((1.0, 0.0), 0.0, 0.7831156542)])
def test_the_golden_losses_of_the_specification(features, percentile, loss):
    graph = stochastic_teacher("t", "s", LAYERS, percentile=percentile, soft=1.0, hard=0.25, detach_guide=True)
    known = {"s.4": torch.tensor([features], dtype=torch.float64), "t.draws.4": DRAWN,
             "s": torch.zeros(1, 4, dtype=torch.float64), "labels": torch.tensor([3])}
    found = losses(graph, forward(graph, {}, torch.zeros(0), known=known), known["labels"])
    assert list(found.values()) == pytest.approx([0.25 * math.log(4), loss], abs=1e-9)


@pytest.mark.parametrize("percentile", [0.0, 90.0])
def test_draws_that_are_all_alike_are_plain_regression_on_the_teachers_features(percentile):
    student, teacher = random(4, 3), random(4, 3, seed=1)
    torch.testing.assert_close(guided(student, teacher[:, None].expand(4, 30, 3), percentile=percentile), teacher)


@pytest.mark.parametrize("percentile", [0.0, 30.0, 62.5, 90.0, 100.0])
@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_it_is_a_loop_over_rows_and_draws(count, percentile):
    student, drawn = random(4, 3), random(4, count, 3, seed=1)
    torch.testing.assert_close(guided(student, drawn, temperature=2.0, percentile=percentile),
                               by_hand(student, drawn, 2.0, percentile))


def test_of_thirty_draws_three_are_left_at_the_ninetieth_percentile():
    drawn = torch.eye(30, dtype=torch.float64)[None]
    assert int((guided(random(1, 30), drawn) > 0).sum()) == 3


@pytest.mark.parametrize(("count", "percentile", "kept"), [(11, 90.0, 2), (101, 7.0, 94), (5, 25.0, 4)])
def test_a_percentile_that_falls_on_a_draw_keeps_it(count, percentile, kept):
    drawn = torch.eye(count).expand(1, count, count)  # 7 / 100 * 100 is more than 7 for a computer
    assert int((guided(random(1, count).float(), drawn, percentile=percentile) > 0).sum()) == kept


def test_its_limits_are_the_mean_of_the_draws_and_the_nearest_draw():
    student, drawn = random(4, 3), random(4, 7, 3, seed=1)
    torch.testing.assert_close(guided(student, drawn, temperature=1e12, percentile=0.0), drawn.mean(1))
    nearest = (drawn * student[:, None]).sum(-1).argmax(-1)
    assert torch.equal(guided(student, drawn, percentile=100.0), drawn[torch.arange(4), nearest])
    torch.testing.assert_close(guided(student, drawn[:, :1].expand(4, 7, 3)), drawn[:, 0])


def test_maps_are_one_long_row_and_may_be_scaled_by_its_length():
    student, drawn = random(2, 3, 2, 2), random(2, 5, 3, 2, 2, seed=1)
    flat = guided(student.flatten(1), drawn.flatten(2), temperature=2.0 * math.sqrt(12))
    torch.testing.assert_close(guided(student, drawn, temperature=2.0, scaled=True).flatten(1), flat)


@pytest.mark.parametrize("detach_guide", [False, True])
def test_the_gradient_is_that_of_the_mean_square_through_the_guide_unless_it_is_detached(detach_guide):
    graph = stochastic_teacher("t", "s", LAYERS, soft=0.7, percentile=50.0, detach_guide=detach_guide)
    assert {name: type(kind) for name, kind in graph.nodes.items()} == {"t": Frozen, "s": Trained, "guide": Computed}
    student, drawn = random(4, 3).requires_grad_(), random(4, 6, 3, seed=1).requires_grad_()
    known = {"s.4": student, "t.draws.4": drawn.detach(), "s": random(4, 5), "labels": torch.tensor([0, 3, 1, 2])}
    found = losses(graph, forward(graph, {}, torch.zeros(0), known=known), known["labels"])
    terms = [term for name, term in found.items() if "mse" in name]
    (gradient,) = torch.autograd.grad(sum(terms), student)
    guide = by_hand(student, drawn, 5.0, 50.0)
    loss = 0.7 * (student - (guide.detach() if detach_guide else guide)).square().mean()
    (expected,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(terms, [loss.detach()] * len(terms))


def test_the_guide_has_the_slope_of_its_finite_differences():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(lambda student: guided(student, random(3, 6, 4, seed=1), percentile=60.0),
                                    random(3, 4).requires_grad_())


def test_a_step_learns_from_masks_of_the_seed_the_draw_and_the_id():
    job = made(5, norm=False, dropout=0.4, percentile=0.0)
    steps = []
    job.losses = lambda graph, outputs, labels, weights: steps.append(dict(outputs)) or losses(graph, outputs, labels,
                                                                                              weights)
    for _ in steps_of(job):
        pass
    for outputs in steps:
        drawn = outputs["t.draws.4"]
        (batch,) = job.data.train.batches([torch.tensor([job.data.train.ids.tolist().index(one)
                                                         for one in outputs["ids"].tolist()])], draw=0)
        features = job.models["t"][:5](batch.inputs).detach()
        key = derive(derive(0, "draws", "t", 0), "4 itself")
        for row, sample in enumerate(outputs["ids"].tolist()):
            kept = uniform(key, torch.arange(5) + 5 * sample, features.shape[1]) >= 0.4
            torch.testing.assert_close(drawn[row], features[row] * kept / 0.6)


def test_another_epoch_has_other_masks_and_the_same_run_the_same():
    masks: list[dict] = []
    for draws in (None, None, 1):
        job = made(5, norm=False, dropout=0.4, epochs=2, limit_draws=draws)
        teacher = job.runners["t"]
        teacher[4] = nn.Sequential(teacher[4], nn.Softplus())  # so that nothing but the masks makes a zero
        job.losses = partial(heard, kept := {})
        for _ in steps_of(job):
            pass
        masks.append(kept)
    first, again, one_draw = masks
    assert len(first) > 30
    for sample, (then, later) in first.items():
        assert torch.equal(torch.stack([then, later]), torch.stack(again[sample]))
        assert not torch.equal(then, later)
        assert torch.equal(*one_draw[sample])


def heard(kept: dict, graph, outputs, labels, weights):
    for row, sample in enumerate(outputs["ids"].tolist()):
        kept.setdefault(sample, []).append(outputs["t.draws.4"][row] == 0)
    return losses(graph, outputs, labels, weights)


def test_without_dropout_worth_the_name_it_is_plain_regression_on_the_teachers_features():
    job = made(4, norm=False, dropout=1e-9, hard=0.0)
    batch = next(job.data.train.batches([torch.arange(6)], draw=0))
    outputs = forward(job.graph, job.models, batch.inputs)
    torch.testing.assert_close(outputs["guide"], job.models["t"][:5](batch.inputs), rtol=1e-5, atol=1e-6)


def test_the_student_starts_as_its_teacher_and_stays_near_it():
    job = made(8)
    job.models["s"].load_state_dict(job.models["t"].state_dict())
    before = fingerprint(job.models["t"].state_dict())
    for _ in steps_of(job):
        pass
    assert fingerprint(job.models["t"].state_dict()) == before
    assert every(parameter.isfinite().all() for parameter in job.models["s"].parameters())


def test_a_cache_is_refused_since_it_would_keep_the_draws_of_one_epoch(tmp_path):
    job = made()
    folder = cache_folder(check(job.graph, job.models, job.data, job.settings, job.world), job.choices, job.data,
                          job.settings, job.world, tmp_path)
    assert folder is None
    with pytest.raises(UsageError, match="nothing to cache"):
        wanted(replace(job.settings, cache=True), folder)


@pytest.mark.parametrize("size", [65504.0, 0.0])
def test_the_largest_half_precision_numbers_and_zeros_give_finite_losses_and_gradients(size):
    student = torch.full((2, 3), size, requires_grad=True)
    drawn = torch.full((2, 4, 3), -size)
    drawn[:, 0] = size
    mse(student, guided(student, drawn)).sum().backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(("options", "where"), [
    ({"guide_temperature": 0.0}, "guide_temperature"), ({"guide_temperature": math.inf}, "guide_temperature"),
    ({"percentile": -1.0}, "percentile"), ({"percentile": 101.0}, "percentile"), ({"soft": -1.0}, "edge"),
    ({"hard": math.nan}, "edge"), ({"layers": {"t": "4"}}, "layers"), ({"student": "guide"}, "student")])
def test_options_out_of_range_are_refused(options, where):
    with pytest.raises(UsageError) as caught:
        stochastic_teacher(**{"teacher": "t", "student": "s", "layers": LAYERS, **options})
    assert where in caught.value.where


def test_a_teacher_that_is_not_drawn_is_told_the_word():
    with pytest.raises(ModelError) as caught:
        run(stochastic_teacher("t", "s", LAYERS), {"t": network(1), "s": network(2)})
    assert "node 't'" in caught.value.where
    assert "draws = 30" in caught.value.fix


def test_a_student_unlike_its_teacher_is_refused():
    teacher = network(1, width=6)
    draw(teacher, 3)
    with pytest.raises(ModelError, match="not of the teacher's shape"):
        run(stochastic_teacher("t", "s", LAYERS), {"t": teacher, "s": network(2)})


def test_all_weights_zero_moves_nothing():
    job = made(hard=0.0, soft=0.0)
    before = fingerprint(dict(job.models["s"].named_parameters()))
    for _ in steps_of(job):
        pass
    assert fingerprint(dict(job.models["s"].named_parameters())) == before


def test_a_head_of_one_weight_a_class_is_no_matter():
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5), nn.Linear(3, 4))
                        for _ in range(2))
    draw(teacher, 2)
    job = run(stochastic_teacher("t", "s", {"t": "2", "s": "2"}), {"t": teacher, "s": student}, epochs=1)
    assert next(steps_of(job)) is None
