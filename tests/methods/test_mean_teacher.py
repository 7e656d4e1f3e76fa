"""The mean teacher: its ramps, its average, its two views, and rows without a label."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from every import every
from toys import network, run, saved
from tutelage.data import from_tensors
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture, restore
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import kl
from tutelage.graph.nodes import Ema
from tutelage.graph.objective import losses
from tutelage.methods.mean_teacher import mean_teacher, probability_mse
from tutelage.models.wrappers import add_second_head
from tutelage.system.files import fingerprint

STUDENT = torch.tensor([[2, 0.5, 0, -0.5], [0, 1, 0, 0]], dtype=torch.float64)
SLOW = torch.tensor([[4, 1, 0, -1], [0.5, 0.4, 0.3, 0.2]], dtype=torch.float64)


def ends() -> dict[str, Tensor]:
    return {"s@a": STUDENT.clone().requires_grad_(), "slow@b": SLOW.clone().requires_grad_()}


def half_labelled() -> object:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 4
    images = torch.randint(0, 256, (48, 1, 8, 8), generator=generator, dtype=torch.uint8)
    held_out = images[:8], labels[:8]
    return from_tensors((images, labels.where(torch.arange(48) % 8 < 4, -1)), validation=held_out, augment="crop-flip")


def test_golden_ramp_of_the_consistency():
    edge = mean_teacher("s", consistency=30.0, ramp_up=0.25).edges[1]
    found = [edge.weight_at(t / 20) / 30 for t in (0, 1, 2, 2.5, 3, 4, 5, 20)]
    assert found == pytest.approx([0.0067379470, 0.0407622040, 0.1652988882, 0.2865047969, 0.4493289641, 0.8187307531,
                                   1.0, 1.0], abs=1e-10)


def test_golden_consistency():
    assert probability_mse(STUDENT, SLOW).mean().item() == pytest.approx(0.0175217550, abs=1e-10)
    assert kl(STUDENT, SLOW).mean().item() == pytest.approx(0.1380172970, abs=1e-10)


@pytest.mark.parametrize(("divergence", "expected"), [("mse", 3 * 0.0175217550), ("kl", 3 * 0.1380172970)])
def test_the_losses_are_of_the_two_views_and_of_all_rows(divergence, expected):
    graph, given = mean_teacher("s", divergence=divergence, consistency=3.0, ramp_up=0.5), ends()
    found = losses(graph, given, torch.tensor([1, -1]), graph.weights(0.5))
    assert [term.item() for term in found.values()] == pytest.approx(
        [F.cross_entropy(STUDENT[:1], torch.tensor([1])).item() / 2, expected], abs=1e-9)
    sum(found.values()).backward()
    assert given["s@a"].grad[1].any(), "a row without a label learns from the average"
    assert given["slow@b"].grad is None


def test_a_batch_without_labels_has_no_classification_loss():
    graph = mean_teacher("s")
    found = losses(graph, ends(), torch.tensor([-1, -1]), graph.weights(1.0))
    assert found["labels->s@a:cross_entropy"].item() == 0.0


@pytest.mark.parametrize("classes", [2, 7])
def test_the_consistency_is_at_most_2_over_c_and_0_for_equal_predictions(classes):
    sure = torch.eye(classes)[:2] * 1e4
    assert probability_mse(sure[:1], sure[1:]).item() == pytest.approx(2 / classes)
    assert probability_mse(sure, sure).tolist() == [0.0, 0.0]


def test_the_gradient_of_the_consistency_is_the_closed_form():
    student = STUDENT.clone().requires_grad_()
    probability_mse(student, SLOW).sum().backward()
    p, q = STUDENT.softmax(-1), SLOW.softmax(-1)
    pull = 2 / 4 * (p - q)
    torch.testing.assert_close(student.grad, p * (pull - (p * pull).sum(-1, keepdim=True)))


def test_as_it_comes_the_weight_is_that_of_the_released_code_for_each_divergence():
    for divergence, weight in (("mse", 100.0), ("kl", 10.0)):
        edge = mean_teacher("s", divergence=divergence).edges[1]
        assert [edge.weight_at(p) for p in (0.0, 0.1, 1.0)] == pytest.approx([weight * 0.0067379470, weight, weight])
    assert mean_teacher("s", ramp_up=0.0).edges[1].weight_at(0.0) == 100.0


class Counts(torch.optim.Optimizer):
    """Sets every weight to the number of the step."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure=None) -> None:
        self.steps += 1
        for group in self.param_groups:
            for weight in group["params"]:
                weight.fill_(self.steps)


def averages(decay: float) -> list[float]:
    job = run(mean_teacher("s", decay=decay), {"s": network(0, norm=False)}, epochs=2, optimizer=Counts,
              precision="exact")
    for weight in job.models["slow"].parameters():
        weight.data.fill_(100.0)
    return [next(job.models["slow"].parameters()).flatten()[0].item() for _ in steps_of(job)]


def test_golden_average():
    assert averages(0.999)[:5] == pytest.approx([50.5, 34.3333333, 26.5, 22.0, 19.1666667], rel=1e-6)


def test_with_decay_0_the_teacher_is_the_student():
    assert averages(0.0)[:3] == [1.0, 2.0, 3.0]


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def test_without_consistency_the_student_learns_as_if_alone_and_the_average_follows():
    job = finish(run(mean_teacher("s", consistency=0.0), {"s": network(0)}, epochs=1, precision="exact"))
    graph = mean_teacher("s")
    alone = finish(run(type(graph)({"s": graph.nodes["s"]}, graph.edges[:1]), {"s": network(0)}, epochs=1,
                       precision="exact"))
    for name, weight in capture(job)["s"].items():
        assert torch.equal(weight, capture(alone)["s"][name])
    assert torch.equal(job.models["slow"][1].running_mean, job.models["s"][1].running_mean)


def test_half_the_rows_without_labels_train_and_both_networks_are_evaluated():
    job = run(mean_teacher("s", decay=0.9), {"s": network(0)}, data=half_labelled(), epochs=1)
    last = [event for event in steps_of(job) if event is not None][-1]
    assert last.accuracy.keys() == {"s", "slow"}
    assert every(loss > 0 for loss in last.losses.values())
    assert every(parameter.grad is None for parameter in job.models["slow"].parameters())
    assert not torch.equal(job.models["slow"][1].running_mean, job.models["s"][1].running_mean), "its own statistics"


def test_the_two_networks_see_two_augmentations():
    graph = mean_teacher("s")
    assert graph.views() == ["a", "b"]
    assert graph.nodes["slow"] == Ema("s", 0.999)


# Two heads


CONSISTENT = torch.tensor([[1, 0.2, 0.4, 0], [0.3, -1, 2, 0]], dtype=torch.float64)


def two_headed(**options) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    graph, given = mean_teacher("s", consistency=3.0, ramp_up=0.5, **options), ends()
    given["s.second_head@a"] = CONSISTENT.clone().requires_grad_()
    return given, losses(graph, given, torch.tensor([1, -1]), graph.weights(0.5))


def test_with_two_heads_the_average_speaks_to_the_second_and_labels_to_the_first():
    given, found = two_headed(head_distance=0.0)
    assert [term.item() for term in found.values()] == pytest.approx(
        [F.cross_entropy(STUDENT[:1], torch.tensor([1])).item() / 2,
         3 * (CONSISTENT.softmax(-1) - SLOW.softmax(-1)).square().mean().item()])
    sum(found.values()).backward()
    assert given["s.second_head@a"].grad[1].any()
    assert not given["s@a"].grad[1].any()
    assert given["slow@b"].grad is None


def test_the_distance_of_the_heads_is_a_mean_square_that_moves_both():
    given, found = two_headed(head_distance=0.25)
    apart = list(found.values())[2:]
    assert [term.item() for term in apart] == pytest.approx([0.25 * (STUDENT - CONSISTENT).square().mean().item()] * 2)
    sum(apart).backward()
    pull = 0.25 * 2 / 4 * (STUDENT - CONSISTENT) / 2
    torch.testing.assert_close(given["s@a"].grad, pull)
    torch.testing.assert_close(given["s.second_head@a"].grad, -pull)


def two_headed_run() -> Run:
    net = network(0)
    add_second_head(net)
    return run(mean_teacher("s", head_distance=0.01), {"s": net}, epochs=2, precision="exact")


def test_the_second_head_learns_is_averaged_and_is_saved():
    whole = two_headed_run()
    states = [{node: dict(tensors) for node, tensors in saved(whole).items()}, *(saved(whole) for _ in steps_of(whole))]
    for node in ("s", "slow"):
        first, last = (state[node]["5.second_head.weight"] for state in (states[0], states[-1]))
        assert not torch.equal(first, last)
    again = two_headed_run()
    restore(again, {"frozen": {}, "best": {}, "step": 3, "scores": {}}, states[3])
    finish(again)
    for file, tensors in saved(again).items():
        assert fingerprint(tensors) == fingerprint(states[-1][file]), file


def test_a_student_with_one_head_is_told_the_word():
    with pytest.raises(ModelError) as caught:
        run(mean_teacher("s", head_distance=0.01), {"s": network(0)})
    assert "second_head = true" in caught.value.fix
    assert caught.value.where == "node 's'"


@pytest.mark.parametrize(("options", "where"), [
    ({"head_distance": -1.0}, "edge s@a -> s.second_head@a"),
    ({"student": "slow"}, "student"), ({"consistency": -1.0}, "consistency"), ({"ramp_up": 1.5}, "ramp_up"),
    ({"ramp_up": -0.1}, "ramp_up"), ({"consistency": float("inf")}, "consistency"),
    ({"decay": 1.1}, None), ({"decay": -0.1}, None),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        mean_teacher(**{"student": "s", **options})
    assert caught.value.where == where
