"""Methods on tasks other than classification: the loss of maps is that of their pixels, one by one."""

import inspect
import json
import math
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import every
from toy_tasks import NUMBERS, PIXELS, POINTS, distance, pixels
from tutelage.errors import UsageError
from tutelage.graph import fused_losses
from tutelage.graph.divergences import kl
from tutelage.graph.ends import is_of_batch, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed
from tutelage.graph.objective import forward, losses
from tutelage.methods.abkd import abkd
from tutelage.methods.akd import akd
from tutelage.methods.channel_wise import channel_wise
from tutelage.methods.cooperative import cooperative
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.dynamic_rectification import dynamic_rectification
from tutelage.methods.learning_styles import learning_styles
from tutelage.methods.mean_teacher import mean_teacher
from tutelage.methods.mutual import mutual
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.methods.pld import pld
from tutelage.methods.self_distill import self_distill
from tutelage.recipes.methods import method, method_names
from tutelage.tasks.classification.task import CLASSIFICATION

CASES = json.loads(Path(__file__).with_name("graphs_of_7a51c5b.json").read_text(encoding="utf-8"))
REFUSED = ("beta", "held_out")
"""Options that are for classification alone."""
MASKS = torch.tensor([[[0, 2, -1], [1, -1, 2]], [[-1, 0, 0], [2, 1, 1]]])
COUNTED = MASKS.flatten() >= 0
each_way = pytest.mark.parametrize("way", [losses, fused_losses.losses], ids=["reference", "fused"])


def maps(*ends: str, classes: int = 3, **more: int) -> dict[str, Tensor]:
    """Maps of logits of two images of 2 x 3 pixels."""
    generator = torch.Generator().manual_seed(0)
    return {end: (3 * torch.randn(2, classes, 2, 3, generator=generator, dtype=torch.float64)).requires_grad_()
            for end in ends}


def by_pixel(of: Tensor) -> Tensor:
    """The pixels that count, as rows of logits, one after another."""
    return torch.stack([of[i, :, y, x] for i, y, x in (MASKS >= 0).nonzero().tolist()])


def graphs(name: str, options: dict, task) -> list[Graph]:
    made = vars(import_module(f"tutelage.methods.{name}"))[name](**options, task=task)
    return [made] if isinstance(made, Graph) else made


def ends_of(graph: Graph) -> list[str]:
    """The ends of networks that the graph reads."""
    ends = graph.order([*graph.ends()])
    return [end for end in ends if not is_of_batch(end) and not isinstance(graph.nodes[parse_end(end).node], Computed)]


def plain(graph: Graph) -> Graph:
    """The graph without the edges between features."""
    kept = [edge for edge in graph.edges if edge.from_labels or not (parse_end(edge.student).tap
                                                                     or parse_end(edge.teacher).tap)]
    return Graph(graph.nodes, kept, graph.controllers)


def terms_of(graph: Graph, outputs: dict[str, Tensor], labels: Tensor, way=losses) -> dict[str, Tensor]:
    torch.manual_seed(0)
    known = {**outputs, **({"labels": labels} if isinstance(labels, Tensor) else
                           {f"labels.{name}": x for name, x in labels.items()})}
    return way(graph, forward(graph, {}, torch.zeros(0), known=known), labels, graph.weights(0.3))


PIXELWISE = [case for case in CASES if "task" in inspect.signature(method(case["method"])).parameters
             and not set(map(str, case["options"].values())) & set(REFUSED)
             and "head_distance" not in case["options"] and not case["options"].get("context", False)
             and case["options"] != {"teacher": "t", "student": "s", "balance": "fixed"}]


@each_way
@pytest.mark.parametrize("case", PIXELWISE, ids=[f"{n}-{case['method']}" for n, case in enumerate(PIXELWISE)])
def test_the_loss_of_maps_is_that_of_the_pixels_that_count(case, way):
    name, options = case["method"], case["options"]
    if name == "akd":
        options = {"context": False, **options}
    dense, flat = (graphs(name, options, task) for task in (PIXELS, CLASSIFICATION))
    assert len(dense) == len(flat)
    for one, other in zip(map(plain, dense), map(plain, flat), strict=True):
        given = maps(*ends_of(one))
        rows = {end: by_pixel(given[end.partition("@")[0]]).detach().requires_grad_()
                for end in ends_of(other)}
        found = terms_of(one, given, MASKS, way)
        expected = terms_of(other, rows, MASKS.flatten()[COUNTED])
        assert [edge.replace("[pixels]", "") for edge in found] == [edge.replace("@a", "").replace("@b", "")
                                                                    for edge in expected]
        torch.testing.assert_close(list(found.values()), list(expected.values()), rtol=1e-12, atol=1e-14)
        sum(found.values()).backward()
        sum(expected.values()).backward()
        for end, x in rows.items():
            own = given[end.partition("@")[0]]
            if own.grad is None or x.grad is None:
                assert own.grad is None, end
                assert x.grad is None, end
                continue
            torch.testing.assert_close(by_pixel(own.grad), x.grad, rtol=1e-10, atol=1e-14)
            assert not own.grad.permute(0, 2, 3, 1).flatten(0, 2)[~COUNTED].any(), "a pixel that does not count"


def hand_written(z: dict[str, Tensor], *, hard: float, soft: float, peer: float, warm: float) -> dict[str, Tensor]:
    """The published method, pixel by pixel: the loss of each student."""
    total = {student: torch.zeros((), dtype=torch.float64) for student in ("a", "b")}
    counted = 0
    for i, y, x in [(i, y, x) for i in range(2) for y in range(2) for x in range(3)]:
        label = int(MASKS[i, y, x])
        if label < 0:
            continue
        counted += 1
        said = {node: one[i, :, y, x] for node, one in z.items()}
        p = said["t"].detach().softmax(0)
        w = 1 + sum(q * q.log() for q in p) / math.log(3)
        for me, other in permutations(["a", "b"]):
            loss = -hard * said[me].log_softmax(0)[label]
            for target, share in ((said["t"], soft * w), (said[other], peer)):
                q = (target.detach() / warm).softmax(0)
                loss = loss + share * warm**2 * sum(q * (q.log() - (said[me] / warm).log_softmax(0)))
            total[me] = total[me] + loss
    return {student: loss / counted for student, loss in total.items()}


@each_way
def test_dual_student_on_pixels_is_a_loop_over_pixels(way):
    z = maps("t", "a", "b")
    expected = hand_written(z, hard=0.5, soft=0.7, peer=0.3, warm=3.0)
    gradients = torch.autograd.grad(sum(expected.values()), [z["a"], z["b"]])
    graph = dual_student("t", ["a", "b"], hard=0.5, soft=0.7, peer=0.3, temperature=3.0, task=PIXELS)
    found = terms_of(graph, z, MASKS, way)
    assert {student: sum(x.item() for name, x in found.items() if f"->{student}:" in name)
            for student in ("a", "b")} == pytest.approx({student: x.item() for student, x in expected.items()})
    torch.testing.assert_close(torch.autograd.grad(sum(found.values()), [z["a"], z["b"]]), gradients)


@each_way
@pytest.mark.parametrize("options", [{"uncertainty": "mean_one"}, {"uncertainty": "correct"}, {"preset": "cautious"},
                                     {"label_weighting": "true_class"}, {"target": "mixture", "uncertainty": True}])
def test_what_ignored_pixels_say_changes_nothing(options, way):
    graph = dual_student("t", ["a", "b"], task=PIXELS, **options)
    z = maps("t", "a", "b")
    others = {node: x.detach().masked_fill((MASKS < 0)[:, None], 50.0 * k).requires_grad_()
              for k, (node, x) in enumerate(z.items(), 1)}
    found, again = terms_of(graph, z, MASKS, way), terms_of(graph, others, MASKS, way)
    torch.testing.assert_close(found, again, rtol=1e-12, atol=0)


@each_way
@pytest.mark.parametrize("options", [{}, {"uncertainty": "mean_one"}, {"uncertainty": "correct"},
                                     {"label_weighting": "true_class"}, {"target": "mixture"}])
def test_a_batch_in_which_no_pixel_counts_has_no_loss(options, way):
    z = maps("t", "a", "b")
    found = terms_of(dual_student("t", ["a", "b"], task=PIXELS, **options), z, torch.full_like(MASKS, -1), way)
    assert every(x.item() == 0 for x in found.values())
    sum(found.values()).backward()
    assert every(not z[node].grad.any() for node in ("a", "b"))


def test_weights_of_mean_one_are_so_over_the_pixels_that_count():
    graph = dual_student("t", ["a", "b"], uncertainty="mean_one", task=PIXELS)
    (edge,) = (edge for edge in graph.edges if (edge.teacher, edge.student) == ("t", "a"))
    seen = pixels(maps("t", "a"), MASKS)
    weight = edge.sample_weight(seen.values["a"], seen.values["t"], seen.labels)
    assert weight[COUNTED].mean().item() == pytest.approx(1.0)


# --- tasks without choices, and with several labels ------------------------------------------------------------


GENERIC = {"scratch": {"student": "a"}, "distill": {"teacher": "t", "student": "a"}, "mutual": {"students": ["a", "b"]},
           "dual_student": {"teacher": "t", "students": ["a", "b"]},
           "peer_cohort": {"teacher": "t", "students": ["a", "b"]},
           "cooperative": {"teacher": "t", "students": ["a", "b"]},
           "snapshot_teacher": {"teachers": ["t", "u"], "student": "a"}, "mean_teacher": {"student": "a"},
           "self_distill": {"student": "a"},
           "learning_styles": {"teacher": "t", "students": ["a", "b"], "layers": {"t": "f", "a": "f", "b": "f"}},
           "feature_only": {"teacher": "t", "student": "a", "layers": {"t": ["f"], "a": ["cut"]}},
           "stochastic_teacher": {"teacher": "t", "student": "a", "layers": {"t": "f", "a": "f"}},
           "wavelet": {"teacher": "t", "student": "a", "layers": {"t": "f", "a": "f"}}}


@pytest.mark.parametrize("task", [NUMBERS, POINTS], ids=lambda task: task.name)
@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_method_reads_the_taps_and_labels_of_its_task(name, task):
    for graph in graphs(name, GENERIC[name], task):
        from_labels = [edge for edge in graph.edges if edge.from_labels]
        students = {parse_end(edge.student).node for edge in from_labels}
        assert [edge for edge in from_labels if not edge.weight] == [] or name == "snapshot_teacher"
        for student in students:
            view = "a" if name == "mean_teacher" and not task.has_parts() else ""
            assert {(edge.teacher, parse_end(edge.student)[1:]) for edge in from_labels
                    if parse_end(edge.student).node == student} == {(term.labels, (term.tap, view))
                                                                    for term in task.learn}
        taps = {parse_end(end).tap for edge in graph.edges for end in (edge.teacher, edge.student)
                if not edge.from_labels}
        assert taps <= {term.tap for term in task.imitate} | {"f", "draws.f", "cut", ""}
        assert "ensemble" not in graph.nodes, "nothing is said untapped"


def numbers(*nodes: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"{node}.{tap}": torch.randn(4, 2 if tap == "place" else 1, generator=generator, dtype=torch.float64)
            for node in nodes for tap in ("place", "height")}


def test_without_choices_dual_student_weighs_nothing_and_its_loss_is_the_sum_of_its_terms():
    graph, z = dual_student("t", ["a", "b"], peer_temperature=2.0, task=NUMBERS), numbers("t", "a", "b")
    labels = {"place": torch.zeros(4, 2, dtype=torch.float64), "height": torch.ones(4, 1, dtype=torch.float64)}
    assert every(edge.sample_weight is None and edge.temperature == 1 for edge in graph.edges)
    found = terms_of(graph, z, labels)
    total = sum(x.item() for name, x in found.items() if "->a." in name)
    expected = 0.0
    for source in ("labels", "t", "b"):
        place, height = (labels[tap] if source == "labels" else z[f"{source}.{tap}"] for tap in ("place", "height"))
        for row in range(4):
            expected += (z["a.place"][row] - place[row]).abs().mean().item() / 3 / 4
            expected += 0.5 * ((z["a.height"][row] - height[row]) ** 2).item() / 3 / 4
    assert total == pytest.approx(expected)


@pytest.mark.parametrize("options", [{"uncertainty": True}, {"uncertainty": "correct"}, {"peer_weighting": "1-w"},
                                     {"label_weighting": "true_class"}, {"label_weighting": "1-w"},
                                     {"target": "mixture"}])
def test_without_choices_a_certainty_that_is_asked_for_is_refused(options):
    with pytest.raises(UsageError) as caught:
        dual_student("t", ["a", "b"], task=NUMBERS, **options)
    assert caught.value.what == "without choices among several there is no certainty to weigh by"
    assert "toy_numbers" in caught.value.found


@pytest.mark.parametrize("preset", ["published", "cautious"])
def test_without_choices_a_preset_weighs_nothing(preset):
    graph = dual_student("t", ["a", "b"], preset=preset, peer_weighting="none", uncertainty=False, task=NUMBERS)
    assert set(graph.nodes) == {"t", "a", "b"}
    assert str(graph) == str(dual_student("t", ["a", "b"], preset=preset, task=NUMBERS))


@pytest.mark.parametrize("made", [abkd, pld, dynamic_rectification, akd, channel_wise])
def test_a_method_of_choices_is_refused_where_there_are_none(made):
    with pytest.raises(UsageError) as caught:
        made("t", "s", task=NUMBERS)
    assert "toy_numbers" in str(caught.value)


def kinds(*nodes: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the nodes say of the three points of each of two samples, and the labels."""
    generator = torch.Generator().manual_seed(2)
    said = {f"{node}.{tap}": torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
            for node in nodes for tap in ("kind", "box")}
    labels = {"kind": torch.tensor([[0, -1, 3], [2, 1, -1]]),
              "box": torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)}
    return said, labels


def flat(said: dict[str, Tensor], labels: Tensor, tap: str) -> dict[str, Tensor]:
    """A tap of the points that count, as logits of samples."""
    return {end.partition(".")[0]: x.flatten(0, 1)[labels.flatten() >= 0] for end, x in said.items()
            if end.endswith(tap)}


@each_way
@pytest.mark.parametrize("options", [{}, {"uncertainty": "mean_one"}, {"uncertainty": "correct"},
                                     {"label_weighting": "true_class"}, {"label_weighting": "1-w"},
                                     {"peer_weighting": "w", "uncertainty": False}])
def test_of_several_terms_the_choice_is_weighed_and_the_others_are_learned_plainly(options, way):
    said, labels = kinds("t", "a", "b")
    shares = {"hard": 0.6, "soft": 0.4, "peer": 0.2}
    found = terms_of(dual_student("t", ["a", "b"], **shares, **options, task=POINTS), said, labels, way)
    own = flat(said, labels["kind"], "kind")
    expected = terms_of(dual_student("t", ["a", "b"], **shares, **options), own,
                        labels["kind"].flatten()[labels["kind"].flatten() >= 0])
    assert sorted(x.item() for name, x in found.items() if ".kind:" in name) == pytest.approx(
        sorted(x.item() for x in expected.values()))
    boxes = flat(said, labels["kind"], "box") | {"labels": labels["box"].flatten(0, 1)[
        labels["kind"].flatten() >= 0]}
    for source, weight in (("labels", 0.6), ("t", 0.4), ("b", 0.2)):
        (name,) = (name for name in found if name.startswith(f"{source}.box->a.box"))
        assert found[name].item() == pytest.approx(2 * weight * distance(boxes["a"], boxes[source]).mean().item())


@pytest.mark.parametrize("made", [partial(pld, temperature=2.0), dynamic_rectification, abkd,
                                  partial(akd, balance="per_sample"), partial(akd, balance="discrepancy"),
                                  partial(akd, balance="learnable")])
def test_a_method_of_choices_reads_the_label_that_the_choice_is_learned_from(made):
    said, labels = kinds("t", "s")
    found = terms_of(made("t", "s", task=POINTS), said, labels)
    context = {"context": False} if "akd" in str(made) else {}
    expected = terms_of(made("t", "s", **context), flat(said, labels["kind"], "kind"),
                        labels["kind"].flatten()[labels["kind"].flatten() >= 0])
    assert [x.item() for name, x in found.items() if ".box" not in name] == pytest.approx(
        [x.item() for x in expected.values()])
    assert [name for name in found if name.startswith("labels.box")] == ["labels.box->s.box:distance[points]"]


def test_a_mixture_of_more_than_a_choice_is_refused():
    with pytest.raises(UsageError) as caught:
        dual_student("t", ["a", "b"], target="mixture", task=POINTS)
    assert caught.value.where == "target"


def test_stale_peers_are_heard_at_the_taps_of_the_task():
    graph = cooperative("t", ["a", "b"], every=5, teacher_every=2, task=POINTS)
    heard = {edge.teacher for edge in graph.edges if not edge.from_labels}
    assert heard == {f"{node}_stale.{tap}" for node in ("t", "a", "b") for tap in ("kind", "box")}


# --- what is for classification alone --------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "where"), [
    (lambda task: self_distill("s", smoothing="beta", task=task), "smoothing"),
    (lambda task: mean_teacher("s", head_distance=0.1, task=task), "head_distance"),
    (lambda task: akd("t", "s", context=True, task=task), "context"),
    (lambda task: akd("t", "s", balance="held_out", task=task), "balance")])
def test_options_for_classification_alone_are_refused_in_one_line(made, where):
    with pytest.raises(UsageError) as caught:
        made(PIXELS)
    assert caught.value.where == where
    assert caught.value.what.endswith("is for classification alone")
    assert caught.value.found == "task toy_pixels"
    assert made(CLASSIFICATION)


def test_by_default_akd_has_a_context_for_classes_of_samples_alone():
    assert "t_context" in akd("t", "s").nodes
    assert "t_context" in akd("t", "s", task=replace(CLASSIFICATION, name="series")).nodes
    assert "t_context" not in akd("t", "s", task=PIXELS).nodes


def test_the_two_of_a_mean_teacher_see_the_plain_view_where_parts_are_compared():
    assert mean_teacher("s", task=PIXELS).views() == []
    assert mean_teacher("s", task=NUMBERS).views() == ["a", "b"]


def test_every_method_for_a_task_gives_a_graph_by_default_and_the_others_take_no_task_or_refuse_it():
    for task in (PIXELS, NUMBERS, POINTS):
        for name in method_names(task):
            if name in GENERIC:
                assert graphs(name, GENERIC[name], task)
            else:
                assert method(name)("t", "s", task=task)
    assert set(method_names(PIXELS)) == set(GENERIC) | {"abkd", "pld", "dynamic_rectification", "akd", "channel_wise"}
    assert set(method_names(POINTS)) == set(method_names(PIXELS)) - {"channel_wise"}
    assert set(method_names(NUMBERS)) == set(GENERIC)
    assert set(method_names(CLASSIFICATION)) == set(method_names()) - {"channel_wise", "class_aware", "dckd",
                                                                            "unkd", "image_kd"}


# --- features, ensembles, channels -----------------------------------------------------------------------------


STYLES = {"layers": {"t": "f", "a": "f", "b": "f"}}


def test_features_of_places_are_compared_place_by_place_and_whole_maps_where_a_task_has_none():
    graph = learning_styles("t", ["a", "b"], **STYLES, task=PIXELS)
    rows = {edge.name: edge.rows for edge in graph.edges if ".f" in edge.student}
    assert rows == {"t.f->b.f:Projected[pixels]": pixels, "b.f->a.f:Projected[pixels]": pixels}
    bare = learning_styles("t", ["a", "b"], **STYLES, task=replace(PIXELS, places=None))
    assert {edge.rows for edge in bare.edges if ".f" in edge.student} == {None}


def test_equal_features_of_places_have_no_loss_and_an_adapter_learns_for_its_own_edge():
    graph = learning_styles("t", ["a", "b"], **STYLES, from_teacher=["none", "features"],
                            from_peer=["features", "none"], task=PIXELS)
    torch.manual_seed(0)
    z = maps("a", "b") | {f"{node}.f": x for node, x in maps("t", "a", "b", classes=4).items()}
    found = terms_of(graph, z, MASKS)
    for part, (name, end) in zip(graph.parts().values(), (("t.f", "b.f"), ("b.f", "a.f")), strict=True):
        loss = next(x for edge, x in found.items() if edge.startswith(f"{name}->{end}"))
        mine = list(part.parameters())
        assert every(g is not None and g.any() for g in torch.autograd.grad(loss, mine, retain_graph=True))
        others = [p for other in graph.parts().values() if other is not part for p in other.parameters()]
        assert every(g is None for g in torch.autograd.grad(loss, others, retain_graph=True, allow_unused=True))
        assert isinstance(part.projection, nn.Linear)
        nn.init.eye_(part.projection.weight)
    same = terms_of(graph, z | dict.fromkeys(("a.f", "b.f"), z["t.f"]), MASKS)
    assert [x.item() for edge, x in same.items() if ".f" in edge] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_the_four_ways_of_the_styles_can_each_be_switched_off_and_without_features_and_teacher_it_is_mutual():
    whole = [edge.name for edge in learning_styles("t", ["a", "b"], **STYLES, task=PIXELS).edges][2:]
    assert whole == ["t->a:kl/4[pixels]", "t.f->b.f:Projected[pixels]", "b.f->a.f:Projected[pixels]", "a->b:kl[pixels]"]
    for place in range(4):
        given = [["predictions", "features"], ["features", "predictions"]]
        given[place // 2][place % 2] = "none"
        graph = learning_styles("t", ["a", "b"], **STYLES, from_teacher=given[0], from_peer=given[1], task=PIXELS)
        assert [edge.name for edge in graph.edges][2:] == whole[:place] + whole[place + 1:]
    peers = learning_styles("t", ["a", "b"], **STYLES, from_teacher=["none", "none"],
                            from_peer=["predictions", "predictions"], task=PIXELS)
    z = maps("a", "b")
    found, expected = terms_of(peers, z, MASKS), terms_of(mutual(["a", "b"], task=PIXELS), z, MASKS)
    assert found == expected


def test_the_ensemble_of_a_cohort_is_the_mean_of_the_task():
    def of_maps(*logits: Tensor) -> Tensor:
        return torch.stack(logits).mean(0)

    kind = peer_cohort("t", ["a", "b"], task=replace(PIXELS, mean=of_maps)).nodes["ensemble"]
    assert isinstance(kind, Computed)
    assert (kind.of, kind.by, kind.rows) == (("a", "b"), of_maps, None)


TEACHER, STUDENT = [[2, 1, 0, -1], [0.5, 2.5, 0, -0.5]], [[1, 0.5, 0.2, -0.3], [1.5, 1, -0.2, 0.1]]


def golden() -> dict[str, Tensor]:
    """One image of four classes and two pixels, [1, 4, 2, 1]."""
    return {node: torch.tensor(rows, dtype=torch.float64).T.reshape(1, 4, 2, 1)
            for node, rows in (("t", TEACHER), ("s", STUDENT))}


def test_the_golden_values_of_maps():
    found = terms_of(channel_wise("t", "s", hard=1.0, soft=1.0, temperature=4.0, task=PIXELS), golden(),
                     torch.tensor([[[0], [-1]]]))
    assert list(found.values()) == pytest.approx([0.8451776501, 0.1591153237], abs=1e-9)
    z = golden()
    by_channel = [16 * kl(z["s"][0, c].T / 4, z["t"][0, c].T / 4).item() for c in range(4)]
    assert by_channel == pytest.approx([0.4929451385, 0.1222787387, 0.0199916722, 0.0012457455], abs=1e-9)
    whole = terms_of(distill("t", "s", soft=1.0, temperature=4.0, task=PIXELS), golden(), torch.tensor([[[0], [0]]]))
    assert whole["t->s:kl/4[pixels]"].item() == pytest.approx(0.3698853050, abs=1e-9)


def test_channel_wise_is_a_loop_over_channels_and_does_not_see_which_class_a_channel_is():
    z = maps("t", "s")
    found = terms_of(channel_wise("t", "s", temperature=2.0, soft=1.5, task=PIXELS), z, MASKS)
    total = 0.0
    for i in range(2):
        for c in range(3):
            p, q = ((z[node][i, c].flatten() / 2.0).softmax(0) for node in ("t", "s"))
            total += F.kl_div(q.log(), p, reduction="sum").item() * 4.0 / 6
    assert found["t->s:kl/2[channels]"].item() == pytest.approx(1.5 * total)
    shifted = z | {"s": z["s"] + torch.randn(2, 3, 1, 1, dtype=torch.float64)}
    again = terms_of(channel_wise("t", "s", temperature=2.0, soft=1.5, task=PIXELS), shifted, MASKS)
    assert again["t->s:kl/2[channels]"].item() == pytest.approx(1.5 * total)


@pytest.mark.parametrize("task", [CLASSIFICATION, POINTS], ids=lambda task: task.name)
def test_channel_wise_is_refused_for_a_task_without_channels(task):
    with pytest.raises(UsageError) as caught:
        channel_wise("t", "s", task=task)
    assert caught.value.found == task.name
