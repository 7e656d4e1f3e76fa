"""Classes of unequal size on the edges from labels: weights, priors, and where their counts come from."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from every import every
from toys import SGD
from tutelage import Edge, Graph, Trained
from tutelage.data import from_tensors
from tutelage.engine.loop import check, start, train_step
from tutelage.engine.settings import Settings
from tutelage.errors import UsageError
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.label_balance import with_class_counts, with_label_options
from tutelage.system.distributed import World

CPU = World(torch.device("cpu"))
COUNTS = (90, 9, 1, 0)
generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(7, 4, generator=generator, dtype=torch.float64)
HARD = torch.tensor([0, 1, 2, 0, -1, 3, 1])
SOFT = torch.rand(7, 4, generator=generator, dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("teacher", [HARD, SOFT], ids=["hard", "soft"])
def test_balanced_weights_are_those_of_scikit_learn_in_torchs_own_loss(smoothing, teacher):
    from sklearn.utils.class_weight import compute_class_weight

    there = np.arange(4).repeat(COUNTS)
    weight = torch.tensor([*compute_class_weight("balanced", classes=np.arange(3), y=there), 100 / 3])
    found = cross_entropy(LOGITS, teacher, class_weights="balanced", class_counts=COUNTS, smoothing=smoothing)
    wanted = F.cross_entropy(LOGITS, teacher, weight, ignore_index=-1, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(found, wanted)
    assert (weight[torch.from_numpy(there)]).mean() == pytest.approx(1)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_adjusted_loss_is_that_of_the_paper_by_hand(tau):
    """Eq. 10 of Menon et al.: log(1 + sum over y' != y of (pi_y' / pi_y)^tau e^(f_y' - f_y))."""
    prior = torch.tensor([90, 9, 1, 1]) / 100  # no row counts as one
    found = cross_entropy(LOGITS, HARD, logit_adjustment=tau, class_counts=COUNTS).tolist()
    for row, label in enumerate(HARD.tolist()):
        ratios = [float((prior[other] / prior[label]) ** tau * (LOGITS[row, other] - LOGITS[row, label]).exp())
                  for other in range(4) if other != label]
        assert found[row] == pytest.approx(0.0 if label < 0 else np.log1p(sum(ratios)))


def test_without_any_label_nothing_is_lost_and_nothing_is_infinite():
    student = LOGITS.clone().requires_grad_()
    options = {"class_weights": "balanced", "logit_adjustment": 1.0, "class_counts": (0, 0, 0, 0)}
    loss = cross_entropy(student, torch.full((7,), -1), **options)
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 7
    assert student.grad.abs().max() == 0


def test_soft_labels_that_are_sure_say_what_hard_ones_say():
    given = HARD >= 0
    sure = F.one_hot(HARD.clamp(min=0), 4).double() * given[:, None]
    options = {"class_weights": "balanced", "logit_adjustment": 1.0, "class_counts": COUNTS}
    torch.testing.assert_close(cross_entropy(LOGITS, sure, **options), cross_entropy(LOGITS, HARD, **options))


def test_without_the_options_nothing_changes_and_without_counts_they_are_refused():
    assert torch.equal(cross_entropy(LOGITS, HARD, class_counts=COUNTS), cross_entropy(LOGITS, HARD))
    for options in ({"class_weights": "balanced"}, {"logit_adjustment": 1.0}):
        with pytest.raises(UsageError, match="class_counts"):
            cross_entropy(LOGITS, HARD, **options)


@pytest.mark.parametrize("options", [{"class_weights": "balanced"}, {"logit_adjustment": 1.0}])
def test_the_fast_losses_and_their_gradients_are_those_of_the_reference(options):
    divergence = partial(cross_entropy, **options, class_counts=COUNTS)
    graph = Graph({"a": Trained(), "b": Trained()}, [Edge("labels", "a", divergence), Edge("a", "b", kl),
                                                     Edge("labels", "b", cross_entropy)])
    gradients = []
    for page in (objective, fused_losses):
        outputs = {"a": LOGITS.clone().requires_grad_(), "b": LOGITS.flip(0).clone().requires_grad_()}
        values = page.losses(graph, outputs, HARD)
        sum(values.values()).backward()
        gradients.append([values["labels->a:cross_entropy"].detach(), outputs["a"].grad, outputs["b"].grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def graph_of_labels(**options: object) -> Graph:
    return Graph({"a": Trained(), "b": Trained()},
                 [Edge("labels", "a", cross_entropy), Edge("labels", "b", partial(cross_entropy, **options)),
                  Edge("a", "b", kl)])


def test_options_go_to_every_edge_from_labels_that_says_nothing_else():
    found = with_label_options(graph_of_labels(smoothing=0.1, logit_adjustment=0.0), {"logit_adjustment": 1.0})
    first, second, third = (edge.divergence for edge in found.edges)
    assert first.keywords == {"logit_adjustment": 1.0}
    assert second.keywords == {"smoothing": 0.1, "logit_adjustment": 0.0}
    assert third is kl
    assert "cross_entropy(logit_adjustment=1.0)" in str(found)
    with pytest.raises(UsageError, match="no edge learns from labels by cross_entropy"):
        with_label_options(Graph({"a": Trained(), "b": Trained()}, [Edge("a", "b", kl)]), {"logit_adjustment": 1.0})


def test_counts_go_where_they_are_needed_and_nowhere_else():
    plain = graph_of_labels(smoothing=0.1)
    assert with_class_counts(plain, COUNTS) is plain
    found = with_class_counts(graph_of_labels(class_weights="balanced"), COUNTS)
    assert found.edges[0].divergence is cross_entropy
    assert found.edges[1].divergence.keywords == {"class_weights": "balanced", "class_counts": COUNTS}
    own = with_class_counts(graph_of_labels(logit_adjustment=1.0, class_counts=(1, 2)), COUNTS)
    assert own.edges[1].divergence.keywords["class_counts"] == (1, 2)


@pytest.mark.parametrize(("balance", "counts"), [("none", (30, 15, 5)), ("uniform", (50 / 3,) * 3)])
def test_training_takes_the_counts_from_its_rows_as_they_are_drawn(balance, counts):
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0] * 30 + [1] * 15 + [2] * 5 + [-1] * 10)
    data = from_tensors((images, labels), (images[:10], labels[:10]), balance=balance)
    graph = Graph({"a": Trained()}, [Edge("labels", "a", partial(cross_entropy, class_weights="balanced"))])
    networks = {"a": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))}
    settings = Settings(1, SGD, batch_size=10)
    found = check(graph, networks, data, settings, CPU).graph.edges[0].divergence.keywords["class_counts"]
    assert found == pytest.approx(counts)
    run = start(graph, networks, data, settings, CPU)
    (batch,) = data.train.batches([torch.arange(40, 50)], draw=0)
    train_step(run, [batch])
    assert every(parameter.isfinite().all() for parameter in networks["a"].parameters())
