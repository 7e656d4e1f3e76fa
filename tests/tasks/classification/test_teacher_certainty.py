"""The teacher's weight: which teacher, which options, and each number against a loop, scipy or scikit-learn."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import entropy as shannon
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tutelage import Computed, Edge, Ema, Frozen, Graph, Trained
from tutelage.errors import DataError, UsageError
from tutelage.graph.divergences import kl
from tutelage.graph.sample_weights import confidence, entropy, mean_one
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.mutual import mutual
from tutelage.runs.evaluations import Evaluation
from tutelage.tasks.classification.teacher_certainty import by_trust, certainty_on, gain_by_decile, teacher_of, trust

N, C = 203, 6
PLAIN = {"temperature": 1.0, "power": 1.0}


def predictions(seed: int, sure: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, C, generator=generator) * torch.rand(N, 1, generator=generator) * 3
    logits[torch.arange(N), labels()] += sure * torch.rand(N, generator=generator)
    return logits


def labels() -> Tensor:
    return torch.arange(N) % (C - 1)  # nothing is of the last class


def ids() -> Tensor:
    return torch.randperm(N, generator=torch.Generator().manual_seed(3)) + 1000


def everyone() -> dict[str, Tensor]:
    return {"t": predictions(0), "a": predictions(1), "b": predictions(2)}


def weights_by_hand(logits: Tensor, temperature: float = 1.0, power: float = 1.0) -> list[float]:
    p = (logits.double() / temperature).softmax(-1)
    return [(1 - shannon(row) / math.log(C)) ** power for row in p.tolist()]


# Which teacher


@pytest.mark.parametrize(("options", "expected"), [
    ({}, PLAIN), ({"uncertainty": "mean_one"}, PLAIN), ({"uncertainty": False}, PLAIN),
    ({"entropy_temperature": 2.0}, {"temperature": 2.0, "power": 1.0}),
    ({"entropy_temperature": 2.0, "uncertainty": "mean_one"}, {"temperature": 2.0, "power": 1.0}),
    ({"entropy_temperature": 3.0, "uncertainty": False, "peer_weighting": "1-w"}, {"temperature": 3.0, "power": 1.0}),
])
def test_the_options_are_those_of_the_graphs_weight(options, expected):
    assert teacher_of(dual_student("t", ["a", "b"], **options), ["t", "a", "b"]) == ("t", expected)


def test_of_two_teachers_the_weighted_one_is_looked_at():
    nodes = {"first": Frozen(), "second": Frozen(), "a": Trained()}
    weighted = Edge("second", "a", kl, sample_weight=partial(mean_one, of=partial(entropy, power=2.0)))
    graph = Graph(nodes, [Edge("first", "a", kl, sample_weight=confidence), weighted])
    assert teacher_of(graph, ["first", "second", "a"]) == ("second", {"temperature": 1.0, "power": 2.0})
    assert teacher_of(graph, ["first", "a"]) == ("first", PLAIN), "the second gives no logits of these classes"
    assert teacher_of(Graph(nodes, []), ["first", "second", "a"]) == ("first", PLAIN)


def test_a_weight_of_a_peer_or_of_an_end_is_no_teachers():
    nodes = {"t": Frozen(), "a": Trained(), "slow": Ema("a"), "gate": Computed(("t",), nn.Linear(C, 1)),
             "w": Computed(("a",), lambda logits: logits[:, 0])}
    graph = Graph(nodes, [Edge("slow", "a", kl, sample_weight=partial(entropy, power=3.0)),
                          Edge("t", "a", kl, sample_weight="w")])
    assert teacher_of(graph, ["t", "a", "slow"]) == ("t", PLAIN)


def test_plain_distillation_is_judged_by_the_defaults_and_without_a_teacher_there_is_none():
    assert teacher_of(distill("t", "a"), ["t", "a"]) == ("t", PLAIN)
    assert teacher_of(mutual(["a", "b"]), ["a", "b"]) is None
    assert teacher_of(distill("t", "a"), ["a"]) is None


# The numbers


@pytest.mark.parametrize("options", [PLAIN, {"temperature": 2.0, "power": 1.5}])
def test_the_weights_are_scipys_entropy(options):
    logits = predictions(0)
    assert trust(logits, options).tolist() == pytest.approx(weights_by_hand(logits, **options), rel=1e-9)


def test_the_numbers_are_those_of_a_loop():
    logits = everyone()
    about = certainty_on("t", PLAIN, logits, labels(), ids())
    w, y = weights_by_hand(logits["t"]), labels().tolist()
    choice = logits["t"].argmax(-1).tolist()
    hits = [c == label for c, label in zip(choice, y, strict=True)]
    assert about["teacher"] == "t"
    assert about["options"] == PLAIN
    assert about["mean"] == pytest.approx(np.mean(w))
    assert about["mean_right"] == pytest.approx(np.mean([x for x, hit in zip(w, hits, strict=True) if hit]))
    assert about["mean_wrong"] == pytest.approx(np.mean([x for x, hit in zip(w, hits, strict=True) if not hit]))
    assert about["auroc"] == pytest.approx(roc_auc_score([not hit for hit in hits], [-x for x in w]))
    assert about["per_class"] == [pytest.approx(np.mean([x for x, label in zip(w, y, strict=True) if label == c]))
                                  for c in range(C - 1)] + [None]
    assert about["histogram"]["count"] == np.histogram(w, bins=20, range=(0, 1))[0].tolist()
    assert about["histogram"]["edges"] == pytest.approx(np.linspace(0, 1, 21))
    assert about["deciles"]["edges"] == pytest.approx(np.quantile(w, np.linspace(0, 1, 11)))
    order = np.argsort(w)
    assert about["deciles"]["count"] == [len(part) for part in np.array_split(order, 10)] == [21] * 3 + [20] * 7
    for node, z in logits.items():
        own = (z.argmax(-1) == labels()).numpy()
        assert about["deciles"]["accuracy"][node] == pytest.approx(
            [own[part].mean() for part in np.array_split(order, 10)])
    expected = [{"id": int(ids()[row]), "label": y[row], "prediction": choice[row], "weight": pytest.approx(w[row])}
                for row in order]
    assert about["least"] == expected[:24]
    assert about["most"] == expected[::-1][:24]


def test_rows_of_one_weight_are_ordered_by_their_ids():
    w, ids = torch.tensor([0.5, 0.1, 0.5, 0.5]), torch.tensor([9, 8, 3, 5])
    assert by_trust(w, ids).tolist() == [1, 2, 3, 0]


def test_few_rows_leave_deciles_empty_and_a_perfect_teacher_has_no_errors_to_detect():
    logits = {"t": torch.eye(C)[:4] * 5}
    about = certainty_on("t", PLAIN, logits, torch.arange(4), torch.arange(4))
    assert about["deciles"]["count"] == [1] * 4 + [0] * 6
    assert about["deciles"]["accuracy"] == {"t": [1.0] * 4 + [None] * 6}
    assert (about["auroc"], about["mean_wrong"], about["mean_right"]) == (None, None, about["mean"])
    assert len(about["most"]) == len(about["least"]) == 4
    assert about["per_class"][4:] == [None, None]


def test_uniform_and_one_hot_predictions_fall_into_the_outer_bins():
    logits = torch.cat([torch.zeros(3, C), torch.eye(C)[:2] * 1e4])
    about = certainty_on("t", PLAIN, {"t": logits}, torch.zeros(5, dtype=torch.int64), torch.arange(5))
    assert about["histogram"]["count"] == [3, *[0] * 18, 2]


# Against another run


def run(node: str, seed: int, order: Tensor | None = None) -> Evaluation:
    logits = {"t": predictions(0), node: predictions(seed)}
    order = torch.arange(N) if order is None else order
    y = labels()
    y[5] = -1
    about = {"teacher": "t", "options": {"temperature": 2.0, "power": 1.0}}
    metrics = {"classes": list("abcdef"), "uncertainty": about}
    return Evaluation(metrics, {name: z[order] for name, z in logits.items()}, y[order], ids()[order], {})


def test_the_gain_over_another_run_is_a_difference_of_accuracies_by_decile():
    ours = run("a", 1)
    theirs = run("kd", 2, torch.randperm(N, generator=torch.Generator().manual_seed(5)))
    w = np.delete(np.array(weights_by_hand(predictions(0), 2.0)), 5)
    hits = [np.delete((predictions(seed).argmax(-1) == labels()).numpy(), 5).astype(float) for seed in (1, 2)]
    expected = [(hits[0] - hits[1])[part].mean() for part in np.array_split(np.argsort(w), 10)]
    assert gain_by_decile(ours, theirs, "a", "kd") == pytest.approx(expected)
    assert gain_by_decile(ours, ours, "a") == [0.0] * 10


def test_runs_of_other_images_or_without_a_teacher_are_not_compared():
    ours, fewer = run("a", 1), run("a", 1, torch.arange(N - 1))
    with pytest.raises(DataError, match="not evaluated on the same images"):
        gain_by_decile(ours, fewer, "a")
    assert len(gain_by_decile(fewer, ours, "a")) == 10, "the other may know more images"
    relabelled = run("a", 1)
    relabelled.labels[0] = 3
    renamed = run("a", 1)
    renamed.metrics["classes"] = list("abcdeg")
    for other in (relabelled, renamed):
        with pytest.raises(DataError, match="not evaluated on the same images"):
            gain_by_decile(ours, other, "a")
    with pytest.raises(UsageError, match="unknown node 'b'"):
        gain_by_decile(ours, ours, "b")
    ours.metrics["uncertainty"] = None
    with pytest.raises(DataError, match="no teacher's weight"):
        gain_by_decile(ours, fewer, "a")
