"""PeerAiD: its two losses, who learns by them, and what is left where its idea is off."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import two_rows
from every import every
from toys import network, run, torch_kl
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture
from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.graph.objective import losses
from tutelage.methods.peeraid import element_mean_kl, element_mean_reverse_kl, peeraid

LABELS = torch.tensor([1, 2])
CLEAN = torch.tensor([[0.3, 0.2, -0.5, 1.0], [1, 0, 0, 2]], dtype=torch.float64)
ALONE = {"hard": 0.0, "soft": 0.0, "consistency": 0.0, "peer_hard": 0.0, "peer_soft": 0.0}


def ends() -> dict[str, Tensor]:
    """P(x*), S(x*) and S(x)."""
    return {"p@adversarial": two_rows.rows(two_rows.TEACHER).requires_grad_(),
            "s@adversarial": two_rows.rows(two_rows.STUDENT).requires_grad_(), "s": CLEAN.clone().requires_grad_()}


def gradients(graph: Graph) -> dict[str, Tensor | None]:
    given = ends()
    sum(losses(graph, given, LABELS).values()).backward()
    return {end: rows.grad for end, rows in given.items()}


def pull(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The gradient of the mean of T^2 KL(teacher || student) for the student's logits."""
    return temperature / 2 * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1))


def mirror(moved: Tensor, fixed: Tensor, temperature: float = 1.0) -> Tensor:
    """The gradient of the mean of T^2 KL(moved || fixed) for the logits of what it is measured from."""
    p, q = (moved / temperature).softmax(-1), (fixed / temperature).softmax(-1)
    apart = p.log() - q.log()
    return temperature / 2 * p * (apart - (p * apart).sum(-1, keepdim=True))


def test_golden_reductions():
    student = torch.tensor([[2, 0.5, 0, -0.5], [0, 1, 0, 0]], dtype=torch.float64)
    teacher = torch.tensor([[4, 1, 0, -1], [0.5, 0.4, 0.3, 0.2]], dtype=torch.float64)
    assert kl(student, teacher).mean().item() == pytest.approx(0.1380172970, abs=1e-10)
    assert element_mean_kl(student, teacher).mean().item() == pytest.approx(0.0345043243, abs=1e-10)
    assert element_mean_kl(student, teacher).mean().item() == pytest.approx(
        (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).mean().item(), abs=1e-12)
    assert torch.equal(element_mean_reverse_kl(student, teacher), element_mean_kl(teacher, student))


@pytest.mark.parametrize("reduction", ["batchmean", "element_mean"])
def test_the_losses_are_those_of_the_paper(reduction):
    graph, given = peeraid("p", "s", temperature=3.0, peer_temperature=2.0, hard=0.3, soft=0.7, consistency=0.6,
                           peer_hard=0.9, peer_soft=0.4, reduction=reduction, detach_student=True,
                           detach_clean=True), ends()
    peer, hurt, clean = given["p@adversarial"], given["s@adversarial"], given["s"]
    share = 1.0 if reduction == "batchmean" else 0.25
    assert [term.item() for term in losses(graph, given, LABELS).values()] == pytest.approx([
        0.9 * F.cross_entropy(peer, LABELS).item(), 0.4 * share * torch_kl(peer, hurt, 2.0),
        0.3 * F.cross_entropy(hurt, LABELS).item(), 0.7 * share * torch_kl(hurt, peer, 3.0),
        0.6 * share * torch_kl(hurt, clean, 3.0)])


def test_detached_every_loss_reaches_its_own_network_on_the_moved_images_alone():
    given = ends()
    peer, hurt, clean = (given[end].detach() for end in given)
    found = gradients(peeraid("p", "s", temperature=3.0, peer_temperature=2.0, hard=0.3, soft=0.7, consistency=0.6,
                              peer_hard=0.9, peer_soft=0.4, detach_student=True, detach_clean=True))
    onehot = F.one_hot(LABELS, 4)
    torch.testing.assert_close(found["p@adversarial"], 0.9 * (peer.softmax(-1) - onehot) / 2
                               + 0.4 * pull(peer, hurt, 2.0))
    torch.testing.assert_close(found["s@adversarial"], 0.3 * (hurt.softmax(-1) - onehot) / 2
                               + 0.7 * pull(hurt, peer, 3.0) + 0.6 * pull(hurt, clean, 3.0))
    assert found["s"] is None


@pytest.mark.parametrize("reduction", ["batchmean", "element_mean"])
def test_as_released_the_students_own_targets_learn_too(reduction):
    """The gradients of one sum in which only the peer's word to the student is detached."""
    weights = {"soft": 0.7, "consistency": 0.6, "peer_soft": 0.4, "peer_hard": 0.0}
    found = gradients(peeraid("p", "s", temperature=3.0, peer_temperature=2.0, reduction=reduction, **weights))
    given = ends()
    peer, hurt, clean = given.values()
    share = 1.0 if reduction == "batchmean" else 0.25

    def term(student: Tensor, teacher: Tensor, t: float) -> Tensor:
        p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
        return share * t**2 * (p * (p.log() - q.log())).sum(-1).mean()

    (0.4 * term(peer, hurt, 2.0) + 0.7 * term(hurt, peer.detach(), 3.0) + 0.6 * term(hurt, clean, 3.0)).backward()
    for end, rows in given.items():
        torch.testing.assert_close(found[end], rows.grad)


def test_each_flag_is_of_its_own_target():
    clean = gradients(peeraid("p", "s", **{**ALONE, "consistency": 1.0}, temperature=1.0))["s"]
    torch.testing.assert_close(clean, mirror(CLEAN, two_rows.rows(two_rows.STUDENT)))
    hurt = gradients(peeraid("p", "s", **{**ALONE, "peer_soft": 1.0}))["s@adversarial"]
    torch.testing.assert_close(hurt, mirror(two_rows.rows(two_rows.STUDENT), two_rows.rows(two_rows.TEACHER)))
    assert gradients(peeraid("p", "s", **{**ALONE, "consistency": 1.0}, detach_clean=True))["s"] is None
    assert gradients(peeraid("p", "s", **{**ALONE, "peer_soft": 1.0}, detach_student=True))["s@adversarial"] is None


def test_the_defaults_of_both_reductions_are_the_same_on_ten_classes():
    generator = torch.Generator().manual_seed(0)
    given = {end: torch.randn(4, 10, generator=generator, dtype=torch.float64) for end in ends()}
    labels = torch.tensor([0, 9, 4, -1])
    sums, means = (losses(peeraid("p", "s", reduction=reduction), given, labels).values()
                   for reduction in ("batchmean", "element_mean"))
    torch.testing.assert_close(list(sums), list(means))


def test_with_the_peers_word_alone_it_is_distillation_on_the_moved_images():
    alone = peeraid("p", "s", **{**ALONE, "soft": 0.5}, temperature=4.0)
    weights = alone.weights()
    assert {(edge.teacher, edge.student) for edge in alone.live(weights)} == {("p@adversarial", "s@adversarial")}
    plain = Graph({"p": Trained(), "s": Trained()}, [Edge("p@adversarial", "s@adversarial", kl, 0.5, 4.0)])
    given = ends()
    assert losses(alone, given, LABELS, weights) == losses(plain, given, LABELS)


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def start(graph: Graph, norm: bool = True, **options) -> Run:
    return run(graph, {"p": network(0, norm=norm), "s": network(1, width=5, norm=norm)},
               **{"epochs": 1, "precision": "exact", **options})


@pytest.mark.parametrize("off", [{"eps": 0.0}, {"steps": 0}])
def test_without_an_attack_the_student_is_consistent_and_the_two_learn_as_from_each_other(off):
    one = finish(start(peeraid("p", "s", detach_student=True, detach_clean=True, soft=0.3, **off), norm=False))
    plain = Graph({"p": Trained(), "s": Trained()}, [Edge("labels", "p", cross_entropy), Edge("s", "p", kl, 0.01),
                                                     Edge("p", "s", kl, 0.3, 5.0)])
    other = finish(start(plain, norm=False))
    for node in "ps":
        for name, weight in capture(one)[node].items():
            torch.testing.assert_close(weight, capture(other)[node][name], rtol=1e-5, atol=1e-6)


def test_twice_moves_the_students_statistics_once_more_a_step_and_nothing_else():
    once, twice = (finish(start(peeraid("p", "s", eps=0.0, twice=twice))) for twice in (False, True))
    passes = [{node: int(job.models[node][1].num_batches_tracked) for node in "ps"} for job in (once, twice)]
    assert passes == [{"p": once.steps, "s": 2 * once.steps}, {"p": once.steps, "s": 3 * once.steps}]
    for (name, one), other in zip(once.models["s"].named_parameters(), twice.models["s"].parameters(), strict=True):
        assert torch.equal(one, other), name


def test_images_without_a_label_teach_by_the_other_network():
    given = ends()
    graph = peeraid("p", "s")
    found = losses(graph, given, torch.tensor([-1, -1]))
    assert found["labels->p@adversarial:cross_entropy"].item() == 0
    sum(found.values()).backward()
    assert every(rows.grad.any() for rows in given.values())


@pytest.mark.parametrize("classes", [2, 5])
def test_extremes_are_finite(classes):
    sure = torch.eye(classes)[:2] * 6e4
    given = {"p@adversarial": sure.flip(0).requires_grad_(), "s@adversarial": sure.clone().requires_grad_(),
             "s": torch.zeros(2, classes).requires_grad_()}
    found = losses(peeraid("p", "s"), given, torch.tensor([1, 1]))
    sum(found.values()).backward()
    assert every(term.isfinite() for term in found.values())
    assert every(rows.grad.isfinite().all() for rows in given.values())


def test_all_weights_zero_is_a_run_in_which_nothing_moves():
    job = start(peeraid("p", "s", **ALONE, steps=1))
    before = {name: x.clone() for name, x in capture(job)["s"].items()}
    finish(job)
    assert every(torch.equal(x, before[name]) for name, x in capture(job)["s"].items())


@pytest.mark.parametrize(("options", "where"), [
    ({"student": "p"}, "peer"), ({"reduction": "sum"}, "reduction"), ({"noise": -1.0}, "noise"),
    ({"eps": -1.0}, "eps"), ({"step_size": 2.0}, "step_size"), ({"steps": -1}, "steps"),
    ({"soft": -1.0}, "edge p@adversarial -> s@adversarial"),
    ({"temperature": 0.0}, "edge p@adversarial -> s@adversarial"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        peeraid(**{"peer": "p", "student": "s", **options})
    assert caught.value.where == where
