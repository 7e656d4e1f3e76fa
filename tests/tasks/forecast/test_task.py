"""The tasks forecast and regression: edges, judge, methods, whole runs."""

import math
from dataclasses import replace
from functools import partial
from statistics import NormalDist

import pytest
import torch

from tutelage.data.settings import DataSettings
from tutelage.engine.settings import Settings, check_accumulation
from tutelage.engine.teacher_cache.use import _whole
from tutelage.engine.train import train
from tutelage.errors import DataError, UsageError
from tutelage.graph.gaussians import gaussian_kl, gaussian_nll, relation_distance
from tutelage.graph.objective import losses
from tutelage.methods.dckd import dckd
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.models.forecast import forecast_gru, forecast_linear
from tutelage.recipes.methods import method_names
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.forecast.judge import INTERVALS, units_of
from tutelage.tasks.forecast.metrics import coverage_curve
from tutelage.tasks.forecast.rows import gaussians_of, sharpness
from tutelage.tasks.forecast.task import FORECAST, REGRESSION
from tutelage.tasks.named import TASKS, data_for
from tutelage.types import Batch

SGD = partial(torch.optim.AdamW, lr=0.01)


@pytest.fixture(scope="module")
def small():
    return data_for(DataSettings("waves_forecast", window=6, horizon=2), quick=True)


def test_there_are_both_tasks_and_the_methods_that_are_for_them():
    assert (TASKS["forecast"], TASKS["regression"]) == (FORECAST, REGRESSION)
    names = set(method_names(FORECAST))
    assert {"distill", "dckd", "dual_student", "mutual", "peer_cohort", "scratch"} <= names
    assert names == set(method_names(REGRESSION))
    assert not names & {"abkd", "pld", "akd", "channel_wise", "class_aware", "switokd"}
    assert "dckd" not in method_names(CLASSIFICATION)


def test_a_temperature_has_no_meaning_for_numbers_and_is_left_out():
    graph = distill("t", "s", temperature=4.0, task=FORECAST)
    assert [(edge.divergence, edge.temperature) for edge in graph.edges] == [(gaussian_nll, 1), (gaussian_kl, 1)]


def test_dckd_adds_its_terms_with_the_weights_of_its_preset():
    values = {"t": torch.randn(5, 2, 2), "s": torch.randn(5, 2, 2)}
    target = torch.randn(5, 2)
    for options, weights in (({}, (1, 1, 0.5, 0.5)), ({"preset": "released"}, (1, 1, 5, 5)),
                             ({"distance": 0.0, "soft": 2.0}, (1, 2, 0.5))):
        graph = dckd("t", "s", task=FORECAST, **options)
        assert [edge.weight for edge in graph.edges] == [*weights]
        found = [*losses(graph, values, {"target": target}).values()]
        student, teacher = gaussians_of(values["s"], 2), gaussians_of(values["t"], 2)
        assert found[0] == pytest.approx(gaussian_nll(student, target).mean())
        assert found[1] == pytest.approx(weights[1] * gaussian_kl(student, teacher).mean())
        if len(weights) == 4:
            assert found[2] == pytest.approx(weights[2] * relation_distance(student, teacher).mean())
    with pytest.raises(UsageError, match="give Gaussians"):
        dckd("t", "s", task=CLASSIFICATION)
    with pytest.raises(UsageError, match="preset"):
        dckd("t", "s", preset="paper", task=FORECAST)


@pytest.mark.parametrize(("accumulate", "rows"), [(2, 8), (1, 1)])
def test_relations_need_the_whole_batch_and_two_rows(accumulate, rows):
    settings = Settings(1, SGD, batch_size=rows, accumulate=accumulate)
    with pytest.raises(UsageError, match="whole batch"):
        check_accumulation(dckd("t", "s", kind="jeffreys", task=FORECAST), settings)
    check_accumulation(distill("t", "s", task=FORECAST), settings)
    check_accumulation(dckd("t", "s", distance=0, cosine=0, task=FORECAST), settings)


def test_a_sharp_teacher_is_heard_more():
    graph = dual_student("t", ["a", "b"], task=FORECAST)
    edge = next(edge for edge in graph.edges if edge.teacher == "t" and edge.student == "a")
    assert edge.sample_weight.args[0] is sharpness


def test_a_cache_keeps_numbers_as_they_are():
    for rows in (torch.tensor([[[0.001, 8.0]]]), torch.tensor([[3e6, 1.0]])):
        form = _whole(FORECAST, "t", exact=False)
        assert torch.equal(form.decode(form.encode(rows)), rows)


def test_the_judge_knows_the_naive_forecast_and_the_truth(small):
    judge = FORECAST.judge(small)
    (batch,) = small.test.batches([torch.arange(16)], draw=None)
    seen = {name: judge.measure({"": batch.labels[name]}, batch.labels, batch.ids) for name in ("target", "naive")}
    truth, naive = judge.summary(seen["target"]), judge.summary(seen["naive"])
    assert (truth["mae"], truth["direction"], truth["r2"]) == (0, 1, 1)
    plain = judge.baseline(seen["target"])
    assert naive["mae"] == plain["mae"] == plain["crps"] > 0
    assert (naive["relative_mae"], truth["relative_mae"], plain["relative_mae"]) == (1, 0, 1)
    assert (plain["name"], naive["rmse"], naive["unit_mae"]) == ("last value", plain["rmse"], plain["unit_mae"])
    assert set(truth) == {score.key for score in FORECAST.scores} | {"per_class", "coverage_curve", "by_series"}
    assert len(truth["per_class"]["mae"]) == 2
    assert judge.measure({"": torch.zeros(16, 3)}, batch.labels, batch.ids) is None
    assert judge.by_sample(seen["naive"]).shape == (16,)
    assert judge.agreement(seen["naive"], seen["naive"]) == pytest.approx(1)
    assert {score.key for score in REGRESSION.scores} < set(REGRESSION.judge(small).summary(seen["naive"]))


def test_each_series_has_its_scores_and_errors_in_the_unit_of_the_table(small):
    judge = FORECAST.judge(small)
    rows = torch.arange(len(small.test.ids))
    (batch,) = small.test.batches([rows], draw=None)
    found = judge.summary(judge.measure({"": batch.labels["naive"]}, batch.labels, batch.ids))
    column = small.preprocessing["columns"].index("load")
    errors = (batch.labels["naive"] - batch.labels["target"]).abs().double().mean(1)
    for number, name in enumerate(small.preprocessing["series"]):
        own = batch.labels["series"] == number
        assert found["by_series"]["count"][number] == int(own.sum())
        if own.any():
            mean = errors[own].mean().item()
            assert found["by_series"]["mae"][number] == pytest.approx(mean)
            assert found["by_series"]["unit_mae"][number] == pytest.approx(
                mean * small.preprocessing["std"][number][column], rel=1e-5), name


def test_a_logarithm_is_taken_back_before_errors_are_told_in_the_unit_of_the_table():
    units = units_of({"kind": "panel", "columns": ["a", "b"], "targets": ["b"], "log": ["b"],
                      "mean": [[0, 1.0], [0, 2.0]], "std": [[1, 0.5], [1, 2.0]]}, 1)
    back = units.back(torch.tensor([[2.0], [1.0]]), torch.tensor([0, 1]))
    assert back.flatten().tolist() == pytest.approx([math.expm1(2.0), math.expm1(4.0)])


def test_intervals_hold_the_targets_that_a_naive_count_finds():
    generator = torch.Generator().manual_seed(0)
    forecast = torch.stack([torch.randn(50, 2, generator=generator), torch.rand(50, 2, generator=generator) + 0.1], -1)
    target = torch.randn(50, 2, generator=generator)
    for interval, share in zip(INTERVALS, coverage_curve(forecast, target, INTERVALS), strict=True):
        reach = NormalDist().inv_cdf(0.5 + interval / 2)
        inside = sum(abs(y - m) <= reach * s for (m, s), y in zip(forecast.view(-1, 2).tolist(),
                                                                target.flatten().tolist(), strict=True))
        assert share == pytest.approx(inside / 100)


def test_less_error_is_better():
    first = FORECAST.scores[0]
    assert first.key == "mae"
    assert first.beats(0.1, 0.2)
    assert not first.beats(0.3, 0.2)


class _Broken:
    def __init__(self, source, labels):
        self.source, self.ids, self.labels, self.made = source, source.ids, source.labels, labels

    def batches(self, plan, *, draw, views=("",)):
        for batch in self.source.batches(plan, draw=draw, views=views):
            yield Batch(batch.inputs, self.made(batch.labels["target"]), batch.ids)


@pytest.mark.parametrize(("made", "message"), [
    (lambda target: target * float("nan"), "not finite"), (lambda target: target[:, :1], "data's steps"),
    (lambda target: target.long(), "no numbers to forecast")])
def test_targets_that_cannot_be_learned_are_refused(small, made, message):
    with pytest.raises(DataError, match=message):
        FORECAST.check(replace(small, train=_Broken(small.train, made)))


def test_a_whole_run_of_dckd_learns_and_lower_is_kept_as_best(small, tmp_path):
    torch.manual_seed(0)
    models = {"t": forecast_gru(2, 2, width=4), "s": forecast_linear(2, 2)}
    epochs = [*train(dckd("t", "s", task=FORECAST), models, small, epochs=4, optimizer=SGD, batch_size=16, best=True,
                     out=tmp_path / "run", device="cpu", cache=True)]
    found = [epoch.accuracy["s"] for epoch in epochs]
    assert found[-1] < found[0]
