"""The dual-student method against its golden vector, its closed-form gradient, its options and its limits."""

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from every import every
from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed
from tutelage.graph.objective import forward, losses
from tutelage.graph.sample_weights import entropy
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.mutual import mutual

# C = 4, B = 3, T = T_p = 4, T_H = 1, hard = soft = 1, peer = 0.5; worked out in float64, outside this package.
Z_TEACHER = [[4, 1, 0, -1], [0.5, 0.4, 0.3, 0.2], [0, 0, 0, 0]]
Z_FIRST = [[2, 0.5, 0, -0.5], [0, 1, 0, 0], [1, -1, 0.5, 0]]
Z_SECOND = [[1, 1, -1, 0], [0.3, 0.2, 0.1, 0], [0, 0, 2, 0]]
LABELS = torch.tensor([0, 1, 2])
GRADIENTS = {
    "s1": [[-0.1839841666, 0.0382109439, 0.0976458470, 0.0481273758],
           [0.0407858994, -0.1434794406, 0.0492973784, 0.0533961627],
           [0.2185974202, 0.0017117136, -0.2939067848, 0.0735976511]],
    "s2": [[-0.4197414479, 0.2439497264, 0.0009377875, 0.1748539341],
           [0.1135680157, -0.2773913268, 0.0876910709, 0.0761322402],
           [-0.0285154263, 0.0517558933, -0.0398516902, 0.0166112232]],
}
GOLDEN = {"temperature": 4.0, "hard": 1.0, "soft": 1.0, "peer": 0.5}


HALVES = {"hard": 0.5, "soft": 0.5, "peer": 0.5}


def published(teacher: str, students: Sequence[str], **options) -> Graph:
    """The method as it was published, weights of a half each, with some options changed."""
    return dual_student(teacher, students, **HALVES | options)


def golden_outputs() -> dict[str, Tensor]:
    rows = {"teacher": Z_TEACHER, "s1": Z_FIRST, "s2": Z_SECOND}
    return {node: torch.tensor(z, dtype=torch.float64, requires_grad=node != "teacher") for node, z in rows.items()}


def random_outputs(*nodes: str, rows: int = 6, classes: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {node: (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).requires_grad_()
            for node in nodes}


def computed(graph: Graph, outputs: dict[str, Tensor], labels: Tensor = LABELS) -> dict[str, Tensor]:
    """The outputs with those of the graph's computed nodes."""
    return forward(graph, {}, torch.zeros(0), known={**outputs, "labels": labels})


def values(
    graph: Graph, outputs: dict[str, Tensor], labels: Tensor = LABELS, progress: float = 0.0
) -> dict[str, float]:
    terms = losses(graph, computed(graph, outputs, labels), labels, graph.weights(progress))
    return {name: term.item() for name, term in terms.items()}


# --- the golden vector -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "expected"), [
    (1.0, [0.7759213793, 0.0044893423, 0.0]), (4.0, [0.0892652558, 0.0002817015, 0.0])])
def test_golden_weights(temperature, expected):
    weight = entropy(None, golden_outputs()["teacher"], None, temperature=temperature)
    assert weight.tolist() == pytest.approx(expected, abs=1e-9)


def test_golden_entropies():
    certainty = entropy(None, golden_outputs()["teacher"], None)
    assert ((1 - certainty) * math.log(4)).tolist() == pytest.approx(
        [0.3106389283, 1.3800708112, 1.3862943611], abs=1e-9)


def test_golden_losses():
    assert values(published("teacher", ["s1", "s2"], **GOLDEN), golden_outputs()) == pytest.approx({
        "labels->s1:cross_entropy": 0.7850869806, "labels->s2:cross_entropy": 0.8669547597,
        "teacher->s1:kl/4": 0.1300001076, "teacher->s2:kl/4": 0.3189458372,
        "s2->s1:kl/4": 0.5 * 0.2869377513, "s1->s2:kl/4": 0.5 * 0.2914121968}, abs=1e-9)


def test_golden_totals():
    terms = values(published("teacher", ["s1", "s2"], **GOLDEN), golden_outputs())
    totals = {s: sum(x for name, x in terms.items() if f"->{s}:" in name) for s in ("s1", "s2")}
    assert totals == pytest.approx({"s1": 1.0585559638, "s2": 1.3316066953}, abs=1e-9)


ROWS = {
    "labels->s1:cross_entropy": [0.3650252919, 0.7436683806, 1.2465672692],
    "labels->s2:cross_entropy": [0.9175757956, 1.3425355295, 0.3407529539],
    "teacher->s1:kl/4": [0.5020984184, 0.0916449051, 0.2653006176],
    "teacher->s2:kl/4": [1.2331629688, 0.0, 0.4047652018],
    "s2->s1:kl/4": [0.2806654666, 0.0916449051, 0.4885028822],
    "s1->s2:kl/4": [0.2791742670, 0.0943062825, 0.5007560411],
}


@pytest.mark.parametrize("row", [0, 1, 2])
def test_golden_losses_of_each_sample_without_weights(row):
    graph = published("teacher", ["s1", "s2"], temperature=4.0, hard=1.0, soft=1.0, peer=1.0, uncertainty=False)
    one = {node: z[row : row + 1] for node, z in golden_outputs().items()}
    assert values(graph, one, LABELS[row : row + 1]) == pytest.approx(
        {name: column[row] for name, column in ROWS.items()}, abs=1e-9)


@pytest.mark.parametrize("student", ["s1", "s2"])
def test_golden_gradients(student):
    outputs = golden_outputs()
    sum(losses(published("teacher", ["s1", "s2"], **GOLDEN), outputs, LABELS).values()).backward()
    torch.testing.assert_close(outputs[student].grad, torch.tensor(GRADIENTS[student], dtype=torch.float64),
                               rtol=0, atol=1e-9)
    assert outputs[student].grad.sum(-1).abs().max() < 1e-12


def test_the_gradient_is_the_closed_form_for_any_logits():
    a, b, g, T, T_p = 0.7, 0.4, 0.9, 3.0, 2.0  # noqa: N806 - the names of the equation
    outputs = random_outputs("teacher", "s1", "s2")
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    graph = published("teacher", ["s1", "s2"], temperature=T, hard=a, soft=b, peer=g, peer_temperature=T_p)
    sum(losses(graph, outputs, labels).values()).backward()
    assert outputs["teacher"].grad is None
    z = {node: output.detach() for node, output in outputs.items()}
    p = z["teacher"].softmax(-1)
    w = (1 + (p * p.log()).sum(-1, keepdim=True) / math.log(5)).clamp(0, 1)
    for s, r in permutations(["s1", "s2"]):
        expected = (a * (z[s].softmax(-1) - F.one_hot(labels, 5))
                    + b * w * T * ((z[s] / T).softmax(-1) - (z["teacher"] / T).softmax(-1))
                    + g * T_p * ((z[s] / T_p).softmax(-1) - (z[r] / T_p).softmax(-1))) / 6
        torch.testing.assert_close(outputs[s].grad, expected, rtol=1e-12, atol=1e-14)


def test_the_loss_of_one_student_pulls_only_that_student():
    outputs = random_outputs("teacher", "s1", "s2")
    terms = losses(published("teacher", ["s1", "s2"]), outputs, torch.tensor([0, 4, 2, 2, 1, 3]))
    sum(term for name, term in terms.items() if "->s1:" in name).backward()
    assert outputs["s1"].grad.any()
    assert outputs["s2"].grad is None
    assert outputs["teacher"].grad is None


# --- limits ----------------------------------------------------------------------------------------------------


def test_without_weights_and_peers_it_is_plain_distillation_of_each_student():
    outputs, labels = random_outputs("teacher", "s1", "s2"), torch.tensor([0, 4, -1, 2, 1, 3])
    terms = values(published("teacher", ["s1", "s2"], uncertainty=False, peer=0.0), outputs, labels)
    apart = {}
    for student in ("s1", "s2"):
        apart |= values(distill("teacher", student), outputs, labels)
    assert terms == apart


def test_without_a_teacher_at_temperature_1_it_is_mutual_learning():
    outputs, labels = random_outputs("teacher", "s1", "s2"), torch.tensor([0, 4, -1, 2, 1, 3])
    terms = values(published("teacher", ["s1", "s2"], hard=1.0, soft=0.0, peer=1.0, peer_temperature=1.0),
                   outputs, labels)
    assert terms == values(mutual(["s1", "s2"]), outputs, labels)


def test_with_labels_alone_it_is_cross_entropy():
    outputs, labels = random_outputs("teacher", "s1", "s2"), torch.tensor([0, 4, 0, 2, 1, 3])
    terms = values(published("teacher", ["s1", "s2"], hard=1.0, soft=0.0, peer=0.0), outputs, labels)
    assert terms == pytest.approx({f"labels->{s}:cross_entropy": F.cross_entropy(outputs[s], labels).item()
                                   for s in ("s1", "s2")})


def test_a_clueless_teacher_teaches_nothing():
    outputs = random_outputs("teacher", "s1", "s2")
    with torch.no_grad():
        outputs["teacher"].fill_(0.3)
    terms = losses(published("teacher", ["s1", "s2"]), outputs, torch.zeros(6, dtype=torch.long))
    (gradient,) = torch.autograd.grad(terms["teacher->s1:kl/4"], outputs["s1"])
    assert terms["teacher->s1:kl/4"].item() == pytest.approx(0.0, abs=1e-15)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_the_order_of_the_students_changes_nothing():
    outputs, labels = random_outputs("teacher", "a", "b", "c"), torch.tensor([0, 4, -1, 2, 1, 3])
    orders = [values(published("teacher", order), outputs, labels) for order in permutations(["a", "b", "c"])]
    assert every(terms == orders[0] for terms in orders)


def test_scaling_the_teachers_share_scales_its_pull():
    outputs, labels = random_outputs("teacher", "s1", "s2"), torch.tensor([0, 4, 0, 2, 1, 3])
    pulls = []
    for soft in (0.5, 1.5):
        term = losses(published("teacher", ["s1", "s2"], soft=soft), outputs, labels)["teacher->s1:kl/4"]
        pulls.append(torch.autograd.grad(term, outputs["s1"])[0])
    torch.testing.assert_close(pulls[1], 3 * pulls[0])


# --- options ---------------------------------------------------------------------------------------------------


def test_as_published_it_prints_the_whole_method():
    assert str(published("teacher", ["resnet18", "mobilenetv2"])) == """\
teacher      frozen
resnet18     trained
mobilenetv2  trained

labels      -> resnet18     cross_entropy  T=1  x 0.5
labels      -> mobilenetv2  cross_entropy  T=1  x 0.5
teacher     -> resnet18     kl             T=4  x 0.5  x entropy
teacher     -> mobilenetv2  kl             T=4  x 0.5  x entropy
mobilenetv2 -> resnet18     kl             T=4  x 0.5
resnet18    -> mobilenetv2  kl             T=4  x 0.5"""


@pytest.mark.parametrize("count", [2, 3, 5])
def test_among_n_students_each_peer_has_its_share(count):
    students = [f"s{k}" for k in range(count)]
    graph = published("teacher", students, peer=0.8)
    weights = {(e.teacher, e.student): e.weight for e in graph.edges if e.teacher in students}
    assert weights == {pair: pytest.approx(0.8 / (count - 1)) for pair in permutations(students, 2)}


@pytest.mark.parametrize(("peers", "expected"), [
    ("all", {("a", "b"), ("b", "a")}), ("none", set()), ([["a", "b"]], {("a", "b")}), ([("b", "a")], {("b", "a")}),
    ([], set())])
def test_peers_may_be_all_none_or_pairs(peers, expected):
    graph = published("teacher", ["a", "b"], peers=peers)
    assert {(e.teacher, e.student) for e in graph.edges if e.teacher in ("a", "b")} == expected


def test_peers_may_have_a_temperature_of_their_own():
    names = [edge.name for edge in published("t", ["a", "b"], temperature=3.0, peer_temperature=1.0).edges]
    assert names[2:] == ["t->a:kl/3", "t->b:kl/3", "b->a:kl", "a->b:kl"]


def test_peers_warm_up_over_a_share_of_the_run():
    graph = published("t", ["a", "b"], peer=0.6, peer_warmup=0.2)
    assert [graph.weights(p)["a->b:kl/4"] for p in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0.0, 0.3, 0.6, 0.6])
    assert "a->b:kl/4" not in values(graph, random_outputs("t", "a", "b"), torch.zeros(6, dtype=torch.long))


def test_the_entropy_has_its_own_temperature():
    terms = values(published("teacher", ["s1", "s2"], **GOLDEN, entropy_temperature=4.0), golden_outputs())
    weights = [0.0892652558, 0.0002817015, 0.0]
    expected = sum(w * loss for w, loss in zip(weights, ROWS["teacher->s1:kl/4"], strict=True)) / 3
    assert terms["teacher->s1:kl/4"] == pytest.approx(expected, abs=1e-9)


def test_weights_of_mean_one_divide_by_the_sum_of_the_weights():
    terms = values(published("teacher", ["s1", "s2"], **GOLDEN, uncertainty="mean_one"), golden_outputs())
    weights = [0.7759213793, 0.0044893423, 0.0]
    expected = sum(w * loss for w, loss in zip(weights, ROWS["teacher->s1:kl/4"], strict=True)) / sum(weights)
    assert terms["teacher->s1:kl/4"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("weighting", "weights"), [
    ("none", [1.0, 1.0, 1.0]), ("w", [0.7759213793, 0.0044893423, 0.0]), ("1-w", [0.2240786207, 0.9955106577, 1.0])])
def test_peers_may_be_weighted_by_the_teachers_certainty_or_doubt(weighting, weights):
    terms = values(published("teacher", ["s1", "s2"], **GOLDEN, peer_weighting=weighting), golden_outputs())
    for edge in ("s2->s1:kl/4", "s1->s2:kl/4"):
        expected = 0.5 * sum(w * loss for w, loss in zip(weights, ROWS[edge], strict=True)) / 3
        assert terms[edge] == pytest.approx(expected, abs=1e-9)


def test_what_the_weights_take_from_the_teacher_may_go_to_the_labels():
    terms = values(published("teacher", ["s1", "s2"], **GOLDEN | {"soft": 0.4}, label_weighting="1-w"),
                   golden_outputs())
    doubt = [0.2240786207, 0.9955106577, 1.0]
    for student, rows in (("s1", Z_FIRST), ("s2", Z_SECOND)):
        ce = F.cross_entropy(torch.tensor(rows, dtype=torch.float64), LABELS, reduction="none").tolist()
        expected = sum((1.0 + 0.4 * d) * loss for d, loss in zip(doubt, ce, strict=True)) / 3
        assert terms[f"labels->{student}:cross_entropy"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("uncertainty", [False, True, "mean_one"])
def test_the_labels_get_one_minus_w_however_the_teacher_is_weighed(uncertainty):
    weight, = (node.by for node in published("t", ["a", "b"], uncertainty=uncertainty, label_weighting="1-w")
               .nodes.values() if isinstance(node, Computed))
    torch.testing.assert_close(weight(torch.tensor(Z_TEACHER, dtype=torch.float64)),
                               0.5 + 0.5 * torch.tensor([0.2240786207, 0.9955106577, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(("options", "where"), [
    ({"uncertainty": "yes"}, "uncertainty"),
    ({"peers": "some"}, "peers"),
    ({"peers": [["a", "b", "a"]]}, "peers"),
    ({"peers": [["a", "x"]]}, "peers"),
    ({"peers": [["teacher", "a"]]}, "peers"),
    ({"peer_weighting": "v"}, "peer_weighting"),
    ({"temperature": 0.0}, "edge teacher -> a"),
    ({"peer_temperature": -1.0}, "edge b -> a"),
    ({"soft": -0.1}, "edge teacher -> a"),
    ({"hard": -0.1}, "hard"),
    ({"label_weighting": "w"}, "label_weighting"),
    ({"peer": -0.1}, "edge b -> a"),
    ({"peers": [["a", "a"]]}, "peers"),
    ({"peers": [["a", "b"], ["a", "b"]]}, "edge a->b:kl/4"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        published("teacher", ["a", "b"], **options)
    assert caught.value.where == where


@pytest.mark.parametrize("students", [[], ["a"], ["a", "a"], "ab"])
def test_fewer_than_two_students_are_refused(students):
    with pytest.raises(UsageError) as caught:
        published("teacher", students)
    assert caught.value.where == "students"


def test_as_it_comes_it_is_the_published_form_with_a_third_for_each_term():
    third = {"hard": 1 / 3, "soft": 1 / 3, "peer": 1 / 3}
    whole = dual_student("teacher", ["a", "b"], uncertainty=True, peer_weighting="none", peers="all", **third)
    assert str(dual_student("teacher", ["a", "b"])) == str(whole)
    assert every(sum(edge.weight for edge in whole.edges if edge.student == s) == pytest.approx(1) for s in "ab")


def test_cautious_hears_the_teacher_alike_and_peers_where_it_is_unsure():
    graph = dual_student("teacher", ["a", "b"], preset="cautious")
    chosen = published("teacher", ["a", "b"], uncertainty=False, peer_weighting="1-w")
    assert str(graph) == str(chosen)
    weights = {edge.name: edge.sample_weight for edge in graph.edges}
    assert weights["teacher->a:kl/4"] is None
    assert weights["b->a:kl/4"] == "teacher_trust"


@pytest.mark.parametrize("option", [{"uncertainty": True}, {"peer_weighting": "none"}, {"hard": 0.9}, {"peer": 0.0}])
def test_what_is_given_counts_more_than_the_preset(option):
    cautious = HALVES | {"uncertainty": False, "peer_weighting": "1-w"}
    assert str(dual_student("t", ["a", "b"], preset="cautious", **option)) == str(
        dual_student("t", ["a", "b"], **cautious | option))


# --- further forms ---------------------------------------------------------------------------------------------

RIGHT_WRONG_UNKNOWN = torch.tensor([0, 3, -1])
"""Of the golden teacher's rows: it is right, it is wrong, there is no label."""


def rows_of(student: str) -> tuple[list[float], list[float]]:
    """Cross-entropy with the labels above (0 without one), and T^2 KL from the teacher: by row."""
    outputs = golden_outputs()
    ce = F.cross_entropy(outputs[student], RIGHT_WRONG_UNKNOWN, ignore_index=-1, reduction="none").tolist()
    warm = {node: rows / 4 for node, rows in outputs.items()}
    far = F.kl_div(warm[student].log_softmax(-1), warm["teacher"].softmax(-1), reduction="none").sum(-1) * 16
    return ce, far.tolist()


def test_a_teacher_that_is_heard_where_it_is_right_leaves_the_rest_to_the_labels():
    graph = published("teacher", ["s1", "s2"], uncertainty="correct", hard=0.3, soft=0.6)
    terms = values(graph, golden_outputs(), RIGHT_WRONG_UNKNOWN)
    for student in ("s1", "s2"):
        ce, far = rows_of(student)
        assert terms[f"labels->{student}:cross_entropy"] == pytest.approx((0.3 * ce[0] + 0.9 * ce[1]) / 3)
        assert terms[f"teacher->{student}:kl/4"] == pytest.approx(0.6 * (far[0] + far[2]) / 3)


def test_the_guard_alone_leaves_the_labels_as_they_are():
    graph = published("teacher", ["s1", "s2"], uncertainty="correct", label_weighting="none")
    ce, _ = rows_of("s1")
    terms = values(graph, golden_outputs(), RIGHT_WRONG_UNKNOWN)
    assert terms["labels->s1:cross_entropy"] == pytest.approx(0.5 * sum(ce) / 3)


def test_labels_that_the_teacher_finds_likely_count_more():
    terms = values(published("teacher", ["s1", "s2"], label_weighting="true_class", hard=0.6), golden_outputs(),
                   RIGHT_WRONG_UNKNOWN)
    p = golden_outputs()["teacher"].softmax(-1)
    likely = [p[0, 0].item(), p[1, 3].item(), 0.0]
    ce, _ = rows_of("s2")
    expected = 0.6 * sum(v * loss for v, loss in zip(likely, ce, strict=True)) / (sum(likely) / 2) / 3
    assert terms["labels->s2:cross_entropy"] == pytest.approx(expected)


def test_no_label_counts_more_than_four_times():
    outputs = random_outputs("teacher", "s1", "s2", rows=20)
    with torch.no_grad():
        outputs["teacher"].zero_()[:, 0] = -20.0
        outputs["teacher"][0, 0] = 20.0
    labels = torch.zeros(20, dtype=torch.long)  # likely on the first row alone
    terms = values(published("teacher", ["s1", "s2"], label_weighting="true_class", hard=1.0), outputs, labels)
    first = F.cross_entropy(outputs["s1"][:1], labels[:1]).item()
    assert terms["labels->s1:cross_entropy"] == pytest.approx(4 * first / 20, rel=1e-6)


def gradients_of(graph: Graph, outputs: dict[str, Tensor], labels: Tensor) -> list[Tensor]:
    terms = losses(graph, computed(graph, outputs, labels), labels)
    return list(torch.autograd.grad(sum(terms.values()), [outputs[s] for s in ("s1", "s2", "s3")]))


def test_a_mixture_of_teacher_and_peers_pulls_as_its_parts_do():
    outputs, labels = random_outputs("teacher", "s1", "s2", "s3"), torch.tensor([0, 4, -1, 2, 1, 3])
    weights = {"hard": 0.4, "soft": 0.5, "peer": 0.3, "uncertainty": False}
    students = ["s1", "s2", "s3"]
    mixed = gradients_of(dual_student("teacher", students, target="mixture", **weights), outputs, labels)
    apart = gradients_of(dual_student("teacher", students, **weights), outputs, labels)
    torch.testing.assert_close(mixed, apart)


def test_a_mixture_is_one_target_whose_probabilities_are_the_weighted_mean():
    outputs = random_outputs("teacher", "s1", "s2")
    graph = dual_student("teacher", ["s1", "s2"], target="mixture", temperature=3.0)
    found = computed(graph, outputs)["s1_target"] / 3
    p = {node: (z / 3).softmax(-1) for node, z in outputs.items()}
    torch.testing.assert_close(found.softmax(-1), 0.7 * p["teacher"] + 0.3 * p["s2"])
    assert [edge.weight for edge in graph.edges] == [0.5, 0.5, 0.5, 0.5]


def test_the_certainty_may_weigh_the_whole_mixture():
    outputs, labels = golden_outputs(), LABELS
    plain, sure = (values(dual_student("teacher", ["s1", "s2"], target="mixture", uncertainty=w),
                          {node: rows[:1] for node, rows in outputs.items()}, labels[:1]) for w in (False, True))
    assert sure["s1_target->s1:kl/4"] == pytest.approx(0.7759213793 * plain["s1_target->s1:kl/4"], rel=1e-9)


def test_without_peers_the_mixture_is_the_teacher():
    outputs, labels = random_outputs("teacher", "s1", "s2"), torch.tensor([0, 4, 0, 2, 1, 3])
    mixed = values(dual_student("teacher", ["s1", "s2"], target="mixture", peers="none", soft=0.5, peer=0.0),
                   outputs, labels)
    for student in ("s1", "s2"):
        alone = values(distill("teacher", student), outputs, labels)
        assert [term for name, term in mixed.items() if f"->{student}:" in name] == list(alone.values())


@pytest.mark.parametrize(("options", "where"), [
    ({"peer_temperature": 2.0}, "peer_temperature"), ({"peer_weighting": "1-w"}, "peer_weighting"),
    ({"peer_warmup": 0.5}, "peer_warmup"), ({"soft": 0.0, "peer": 0.0}, "soft, peer"), ({"target": "both"}, "target"),
    ({"preset": "paper"}, "preset")])
def test_what_a_mixture_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        dual_student("t", ["a", "b"], **{"target": "mixture", **options})
    assert caught.value.where == where


def test_without_peers_nothing_is_worked_out_for_them():
    assert set(dual_student("teacher", ["a", "b"], preset="cautious", peers="none").nodes) == {"teacher", "a", "b"}
