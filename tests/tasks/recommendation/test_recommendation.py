"""Recommendation: pairs of rows, what users are shown, and a teacher's ranking."""

import math

import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_recall

from every import every
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, ModelError, UsageError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import losses
from tutelage.methods.mutual import mutual
from tutelage.methods.unkd import unkd
from tutelage.models.recommend import mf
from tutelage.tasks.named import data_for
from tutelage.tasks.recommendation.judge import judge_of_users, top_items
from tutelage.tasks.recommendation.metrics import ndcg, recall
from tutelage.tasks.recommendation.rows import lists, observed, prefer_first, ranked
from tutelage.tasks.recommendation.task import RECOMMENDATION, mean_score, pair_margin
from tutelage.tasks.recommendation.teaching import with_rankings

SCORES = torch.tensor([[1.0, 0.2, -0.5, 0.3]], dtype=torch.float64)
PAIRS = {"better": torch.tensor([[0, 3, -1]]), "worse": torch.tensor([[2, 1, 0]])}


@pytest.fixture(scope="module")
def shop():
    return data_for(DataSettings("shop"))


def test_bpr_is_cross_entropy_on_rows_of_two():
    rows = observed({"student": SCORES}, PAIRS)

    values = cross_entropy(rows.values["student"], rows.labels)

    assert values[:2].tolist() == pytest.approx([0.2014132780, 0.6443966601], abs=1e-9)
    assert rows.counts.tolist() == [1, 1, 0]
    assert float(rows.divisor) == float(observed.total(PAIRS)) == 2


def test_a_teacher_s_pairs_cost_what_those_of_labels_do():
    rows = ranked({"student": SCORES}, {"preferred": PAIRS["better"], "other": PAIRS["worse"]})

    assert prefer_first(rows.values["student"], None)[:2].tolist() == pytest.approx([0.2014132780, 0.6443966601])


def test_where_no_pair_counts_the_loss_is_0():
    graph = Graph({"student": Trained()}, RECOMMENDATION.from_labels("student"))
    none = {name: torch.full((1, 2), -1) for name in ("better", "worse")}

    found = losses(graph, {"student": SCORES, "labels.better": none["better"], "labels.worse": none["worse"]}, none)

    assert every(float(value) == 0 for value in found.values())


def test_a_row_of_candidates_is_that_of_all_items():
    torch.manual_seed(0)
    network = mf(9, 4, dim=3)
    users, items = torch.tensor([3, 1]), torch.tensor([[8, 2, 2], [0, 1, 7]])

    assert torch.allclose(network(users=users, items=items), network(users=users).gather(1, items))


def test_shown_items_are_the_best_that_were_not_seen():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])

    assert top_items(scores, torch.tensor([[0, -1], [1, 3]]), 3).tolist() == [[2, 3, 1], [0, 2, -1]]


def test_recall_and_ndcg_are_those_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, 60, generator=generator)
    relevant = torch.rand(40, 60, generator=generator) < 0.15
    relevant[:, 0] = True
    relevant[7, :30] = True  # more than ten

    hits = relevant.gather(1, top_items(scores, torch.full((40, 1), -1)))
    users = list(zip(scores, relevant, strict=True))

    assert recall(hits, relevant.sum(1)) == pytest.approx(
        sum(float(retrieval_recall(*user, top_k=10)) for user in users) / 40, abs=1e-6)
    assert ndcg(hits, relevant.sum(1)) == pytest.approx(
        sum(float(retrieval_normalized_dcg(*user, top_k=10)) for user in users) / 40, abs=1e-6)


def test_scores_by_group_are_those_of_the_items_of_each_group_alone():
    groups, popularity = torch.tensor([0, 0, 1, 1, 1] + [1] * 10), torch.arange(15, 0, -1)
    judge = judge_of_users(groups, popularity)
    scores = -torch.arange(15.0).expand(2, 15)
    labels = {"relevant": torch.tensor([[1, 2], [14, -1]]), "seen": torch.tensor([[0], [-1]])}

    evidence = judge.measure({"": scores}, labels, torch.arange(2))
    found = judge.summary(evidence)

    assert found["by_group"]["items"] == [2, 13]
    assert found["by_group"]["recall"] == [1.0, 0.5]  # item 1; item 2, and not item 14
    assert found["recall"] == 0.5
    assert judge.baseline(evidence) == {"name": '"most popular"', **found}  # scores fall as popularity does
    assert found["popular_share"] == pytest.approx(3 / 20)
    assert found["coverage"] == 11 / 15
    first = (1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert found["ndcg"] == pytest.approx(first / 2)
    assert judge.by_sample(judge.measure({"": scores}, labels, torch.arange(2))).tolist() == [1.0, 0.0]


def test_a_network_of_other_items_is_not_judged():
    judge = judge_of_users(torch.zeros(5, dtype=torch.int64), torch.ones(5))

    assert judge.measure({"": torch.zeros(2, 4)}, {}, torch.arange(2)) is None


@pytest.mark.parametrize("candidates", [False, True])
def test_every_pair_of_a_draw_is_what_it_is_said_to_be(shop, monkeypatch, candidates):
    if candidates:
        monkeypatch.setattr("tutelage.data.user_source.SCORED_AT_ONCE", 50)
    torch.manual_seed(0)
    teacher = mf(len(shop.classes), shop.shape[0], dim=3)
    train = with_rankings(shop, unkd("teacher", "student", task=RECOMMENDATION), {"teacher": teacher}).train
    (batch,) = train.batches([torch.arange(20)], draw=2)
    view = batch.inputs[""]
    items = view["items"] if candidates else torch.arange(len(shop.classes)).expand(20, -1)
    named = {name: items.gather(1, columns) for name, columns in batch.labels.items()}
    taken = torch.zeros(20, len(shop.classes), dtype=torch.bool)
    for user in range(20):
        taken[user, [item for item in train.relevant.of(torch.tensor([user]))[0].tolist() if item >= 0]] = True
    said = teacher(users=view["users"]).detach()

    assert taken.gather(1, named["better"]).all()
    assert not taken.gather(1, named["worse"]).any()
    assert not taken.gather(1, named["preferred"]).any()
    assert not taken.gather(1, named["other"]).any()
    assert bool((train.groups[named["preferred"]] == train.groups[named["other"]]).all())
    assert bool((said.gather(1, named["preferred"]) >= said.gather(1, named["other"])).all())
    assert named["preferred"].shape == (20, 30)


def test_one_group_is_blind_to_popularity(shop):
    torch.manual_seed(0)
    models = {"teacher": mf(len(shop.classes), shop.shape[0], dim=3)}
    blind = with_rankings(shop, unkd("teacher", "student", blind=True, task=RECOMMENDATION), models).train
    one = data_for(DataSettings("shop", groups=1))
    alone = with_rankings(one, unkd("teacher", "student", task=RECOMMENDATION), models).train

    found = [next(iter(train.batches([torch.arange(9)], draw=1))).labels for train in (blind, alone)]

    assert every(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_pairs_of_a_network_that_is_still_learning_are_refused(shop):
    graph = unkd("teacher", "student", task=RECOMMENDATION)
    learning = Graph({**graph.nodes, "teacher": Trained()}, [*graph.edges, *RECOMMENDATION.from_labels("teacher")])

    with pytest.raises(UsageError, match="one frozen teacher"):
        with_rankings(shop, learning, {"teacher": mf(2, 2)})


def test_labels_without_a_teacher_s_pairs_are_refused():
    with pytest.raises(ModelError, match="labels without 'preferred'"):
        ranked({"student": SCORES}, PAIRS)


def test_the_judge_never_shows_what_a_user_took_before(shop):
    (batch,) = shop.test.batches([torch.arange(30)], draw=None)
    earlier = [set(batch.labels["seen"][row].tolist()) - {-1} for row in range(30)]
    judge = RECOMMENDATION.judge(shop)

    top = judge.measure({"": torch.rand(30, len(shop.classes))}, batch.labels, batch.ids)["top"]

    assert every(not earlier[row] & set(top[row].tolist()) for row in range(30))
    assert every(not earlier[row] & set(batch.labels["relevant"][row].tolist()) for row in range(30))


def test_certainty_is_the_margin_of_the_first_two():
    pairs = torch.tensor([[0.3, 1.0]])

    apart = pairs.softmax(-1)
    assert float(pair_margin(None, pairs)) == pytest.approx(float(apart[0, 1] - apart[0, 0]))
    assert float(pair_margin(None, torch.tensor([[0.3, 1.0, -4.0]]))) == pytest.approx(float(apart[0, 1] - apart[0, 0]))


def test_a_mean_of_scores_does_not_depend_on_their_scale():
    torch.manual_seed(0)
    one, other = torch.randn(3, 5), torch.randn(3, 5)

    assert torch.allclose(mean_score(one, other), mean_score(10 * one + 3, other), atol=1e-5)
    with pytest.raises(ModelError, match="scores of the same items"):
        mean_score(one, other[:, :4])


def test_peers_are_compared_by_their_lists():
    graph = mutual(["one", "other"], task=RECOMMENDATION)

    assert {edge.rows for edge in graph.edges} == {observed, lists}
    assert {type(kind) for kind in graph.nodes.values()} <= {Trained, Frozen, type(graph.nodes.get("ensemble"))}


def test_data_that_are_no_users_are_refused():
    with pytest.raises(DataError, match="not interactions"):
        RECOMMENDATION.check(data_for(DataSettings("waves")))
