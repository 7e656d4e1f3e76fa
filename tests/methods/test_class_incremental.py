"""Classes phase by phase: the losses by hand, the memory, the policy, and a stop anywhere."""

import json
import math
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from every import every
from tutelage.data.load import load_data
from tutelage.errors import DataError, Interrupted, ModelError, UsageError
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import losses
from tutelage.graph.taps import read
from tutelage.methods.class_incremental import (
    class_incremental,
    classes_of,
    margin_ranking,
    old_kl,
    seen_cross_entropy,
)
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes import class_phases
from tutelage.recipes.class_phases import drawn_action, herded, probabilities, rewarded
from tutelage.recipes.job import train_recipe
from tutelage.recipes.recipe import Recipe, read_recipe
from tutelage.recipes.trained_run import finished_run
from tutelage.runs.folder import finished
from tutelage.system.distributed import World

WORLD = World(torch.device("cpu"))
RECIPE = """
[data]
name = "digits"
image_size = 8
limit = 200
batch_size = 32

[models.net]
arch = "resnet8"
cosine = true

[method]
name = "class_incremental"
student = "net"
phases = 3
exemplars = 4
rounds = 2
trial_epochs = 1
actions = [[0.0, 1.0], [1.0, 0.0]]

[train]
epochs = 1
lr = 0.02
"""


def task(phase: int, phases: int = 3, start: str = "even") -> partial:
    return partial(classes_of, phase=phase, phases=phases, start=start, order=5)


def rows(count: int, seed: int = 0, classes: int = 6) -> Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("start", "sizes"), [("even", [4, 3, 3]), ("half", [5, 3, 2])])
def test_every_class_comes_once_in_an_order_that_belongs_to_its_seed(start, sizes):
    parts = [task(phase, start=start)(10) for phase in range(3)]
    assert [len(new) for _, new in parts] == sizes
    assert sorted(torch.cat([new for _, new in parts]).tolist()) == list(range(10))
    for k in (1, 2):
        assert parts[k][0].tolist() == torch.cat([new for _, new in parts[:k]]).tolist()
    other = classes_of(10, phase=0, phases=3, start=start, order=6)[1]
    assert parts[0][1].tolist() != other.tolist()


def test_more_phases_than_classes_are_refused():
    with pytest.raises(DataError, match="more phases than classes"):
        task(0, phases=12)(10)


def test_classes_that_are_still_to_come_are_left_out_of_the_cross_entropy():
    old, new = task(1)(6)
    seen = torch.cat([old, new])
    logits, labels = rows(4), torch.tensor([int(seen[0]), int(seen[3]), -1, int(seen[2])])
    found = seen_cross_entropy(logits, labels, labels, task=task(1))
    expected = [math.log(sum(math.exp(row[c]) for c in seen.tolist())) - row[y] if y >= 0 else 0.0
                for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected)
    soft = F.one_hot(labels.clamp(min=0), 6).double() * (labels >= 0)[:, None]
    assert seen_cross_entropy(logits, soft, soft, task=task(1)).tolist() == pytest.approx(expected)


def test_the_old_network_speaks_of_old_classes_alone():
    old, _ = task(1)(6)
    student, teacher = rows(3), rows(3, 1)
    found = old_kl(student, teacher, task=task(1), temperature=2.0)
    expected = 4 * F.kl_div((student[:, old] / 2).log_softmax(-1), (teacher[:, old] / 2).softmax(-1), reduction="none")
    assert found.tolist() == pytest.approx(expected.sum(-1).tolist())


def test_the_margin_is_between_an_old_label_and_the_two_best_new_classes():
    old, new = task(1, phases=2)(6)
    scores, labels = rows(4).clamp(-1, 1), torch.tensor([int(old[0]), int(new[0]), int(old[1]), -1])
    found = margin_ranking(scores, labels, labels, task=task(1, phases=2))
    by_hand = []
    for row, y in zip(scores.tolist(), labels.tolist(), strict=True):
        rivals = sorted((row[c] for c in new.tolist()), reverse=True)[:2]
        by_hand.append(sum(max(0.0, 0.5 - row[y] + s) for s in rivals) / 2 if y in old.tolist() else 0.0)
    assert found.mean().item() == pytest.approx(sum(by_hand) / 2)
    assert found[1] == found[3] == 0


def test_the_margin_is_torchs_ranking_loss_over_all_pairs_as_the_authors_code_has_it():
    old, new = task(1)(6)
    scores, labels = rows(5).clamp(-1, 1), old[[0, 1, 0, 1, 0]]
    rivals = scores[:, new].topk(2).values
    pairs = scores.gather(1, labels[:, None]).expand_as(rivals)
    expected = F.margin_ranking_loss(pairs.flatten(), rivals.flatten(), torch.ones(10), margin=0.5)
    assert margin_ranking(scores, labels, labels, task=task(1)).mean().item() == pytest.approx(expected.item())


def test_one_new_class_is_one_rival():
    one = partial(lambda classes: (torch.tensor([0, 1]), torch.tensor([2])))
    scores = torch.tensor([[0.1, 0.0, 0.4]])
    assert margin_ranking(scores, torch.tensor([0]), torch.tensor([0]), task=one).item() == pytest.approx(0.8)


def test_without_an_image_of_an_old_class_there_is_no_margin():
    _, new = task(1)(6)
    labels = new[:1].expand(3)
    assert margin_ranking(rows(3), labels, labels, task=task(1)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("start", "strengths"), [("even", [5, 5 * math.sqrt(2)]),
                                                  ("half", [5 * math.sqrt(2), 5 * math.sqrt(3)])])
def test_the_features_count_more_the_more_old_classes_there_are_for_each_new_one(start, strengths):
    first, *later = class_incremental("s", phases=3, start=start, features=1.0, soft=2.0, margin=0.5)
    assert first.nodes == {"s": Trained()}
    assert [graph.edges[1].weight for graph in later] == pytest.approx(strengths)
    assert [graph.edges[2].weight for graph in later] == [0.5, 0.5]
    assert later[0].nodes == {"before": Frozen(before="s"), "s": Trained(before="s")}


def test_with_every_weight_at_0_it_is_replay_alone():
    graph = class_incremental("s", features=0.0, soft=0.0, margin=0.0)[1]
    assert [edge.name for edge in graph.live(graph.weights())] == ["labels->s:seen_cross_entropy"]


def test_who_gets_a_gradient_and_none_comes_from_classes_to_come():
    graph = class_incremental("s", phases=3)[1]
    part = graph.edges[0].divergence.keywords["task"]
    later = sorted(set(range(6)) - set(torch.cat(part(6)).tolist()))
    assert len(later) == 2
    given = {end: F.normalize(rows(4, k), dim=-1).requires_grad_() for k, end in enumerate(
        ("before", "s", "before.cosine.features", "s.cosine.features", "s.cosine"))}
    labels = torch.cat(part(6))[:4]
    sum(losses(graph, given, labels).values()).backward()
    assert given["before"].grad is None
    assert given["before.cosine.features"].grad is None
    assert not given["s"].grad[:, later].any()
    assert given["s"].grad.any(1).all()


def test_the_golden_weights_of_exp3():
    for released, reward, expected in ((False, 0.62, 1.0639623447), (True, 0.62, 7.8984510187)):
        shares = probabilities([0.0] * 3, 0.1)
        assert shares == pytest.approx([1 / 3] * 3)
        told = rewarded([0.0] * 3, 1, reward, shares[1], 0.1, released=released)
        assert math.exp(told[1]) == pytest.approx(expected, abs=1e-9)
        assert told[0] == told[2] == 0


def test_chances_sum_to_1_and_none_is_below_its_share_of_chance():
    shares = probabilities([0.0, 900.0, -900.0, 5000.0], 0.1)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) == pytest.approx(0.1 / 4)


def test_exp3_finds_the_better_of_two_arms():
    generator = np.random.default_rng(0)
    for run in range(5):
        log_weights = [0.0, 0.0]
        for turn in range(300):
            shares = probabilities(log_weights, 0.1)
            arm = drawn_action(shares, run * 1000 + turn)
            reward = float(generator.random() < (0.2, 0.8)[arm])
            log_weights = rewarded(log_weights, arm, reward, shares[arm], 0.1)
        assert probabilities(log_weights, 0.1)[1] > 0.8


def test_actions_are_drawn_by_their_chances():
    counts = np.bincount([drawn_action([0.1, 0.7, 0.2], key) for key in range(3000)], minlength=3)
    assert counts / 3000 == pytest.approx([0.1, 0.7, 0.2], abs=0.03)


def test_herding_keeps_the_mean_of_the_kept_nearest_to_the_mean_of_all():
    features = rows(12, classes=3)
    mean, kept = features.mean(0), []
    for size in range(1, 5):
        def apart(row: int, kept: list[int] = kept, size: int = size) -> float:
            return (features[[*kept, row]].sum(0) / size - mean).norm().item()
        kept.append(min((row for row in range(12) if row not in kept), key=apart))
    assert herded(features, 4).tolist() == kept
    assert sorted(herded(features, 99).tolist()) == list(range(12))


def test_a_classifier_of_cosines_knows_directions_alone():
    network = build(Architecture("resnet8", cosine=True), class_names=list("abcde"), channels=1)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tapped = read(network.eval(), images, ["", "cosine", "cosine.features", "pool"])
    cosines = F.cosine_similarity(tapped["pool"][:, None], network.body.get_submodule("fc").weight[None], dim=-1)
    torch.testing.assert_close(tapped["cosine"], cosines)
    torch.testing.assert_close(tapped[""], 16 * cosines)
    torch.testing.assert_close(tapped["cosine.features"], F.normalize(tapped["pool"], dim=-1))


def test_a_recipe_that_forgot_the_classifier_of_cosines_is_told_the_word():
    network = build(Architecture("resnet8"), class_names=list("ab"), channels=1)
    with pytest.raises(ModelError, match="cosine = true"):
        read(network, torch.rand(2, 1, 8, 8), ["cosine.features"])


@pytest.mark.parametrize(("options", "where"), [
    ({"phases": 1}, "phases"), ({"features": -1.0}, "features"), ({"soft": math.nan}, "soft"),
    ({"margin": -1.0}, "margin"),
    ({"exemplars": 1}, "exemplars"), ({"actions": []}, "actions"), ({"actions": [(1.0, -1.0)]}, "actions"),
    ({"rounds": 0}, "rounds"), ({"rate": 1.5}, "rate")])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        class_incremental("s", **options)
    assert caught.value.where == where


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return read_recipe(path)


def train(recipe: Recipe, out: Path, stop_after: int | None = None) -> list[str]:
    """Train it, to its end or until it was asked so often whether to stop; the folders that it went through."""
    asked, folders = iter(range(100_000)), []
    for _ in train_recipe(recipe, out, WORLD, lambda: 15 if stop_after is not None and next(asked) >= stop_after else 0,
                          started=lambda job, folder: folders.append(str(folder.relative_to(out)))):
        pass
    return folders


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, train(recipe, out)


def ids(out: Path, name: str) -> list[int]:
    return np.load(out / "rows" / f"{name}.npy").tolist()


def test_phases_and_trials_are_ordinary_runs_in_order(whole):
    out, folders = whole
    assert folders == ["1", "trials/2-1", "trials/2-2", "2", "trials/3-1", "trials/3-2", "3"]
    assert every(finished(out / folder) for folder in folders)
    assert finished(out) == finished(out / "3")
    told = json.loads((out / "phases.json").read_text())
    assert [phase["action"] is None for phase in told["phases"]] == [True, False, False]
    assert told["average_incremental_accuracy"] == pytest.approx(
        sum(phase["accuracy"] for phase in told["phases"]) / 3)
    assert every(0 <= phase["accuracy"] <= 1 and 0 <= phase["accuracy_of_means"] <= 1 for phase in told["phases"])


def test_a_phase_learns_from_its_classes_and_the_memory_of_the_old_ones(recipe, whole):
    out, _ = whole
    data = load_data(recipe.data)
    owner = dict(zip(data.train.ids.tolist(), data.train.labels.tolist(), strict=True))
    for number in (1, 2, 3):
        old, new = classes_of(10, phase=number - 1, phases=3, start="even", order=1993)
        memory = ids(out, f"{number - 1}-memory") if number > 1 else []
        assert sorted(ids(out, str(number))) == sorted([*memory, *(i for i, y in owner.items() if y in new.tolist())])
        assert {owner[i] for i in memory} == set(old.tolist())
        counts = np.bincount([owner[i] for i in memory], minlength=10)
        assert set(counts[old.tolist()].tolist()) <= {4}


def test_trials_learn_from_one_part_of_the_memory_and_are_rewarded_on_another(whole):
    out, _ = whole
    for number in (2, 3):
        learn, small, everything = (ids(out, f"{number}{end}") for end in ("-train", "-small", ""))
        assert not set(learn) & set(small)
        assert sorted(learn + small) == sorted(everything)
        assert len(small) == 2 * sum(map(len, classes_of(10, phase=number - 1, phases=3, start="even", order=1993)))


def test_rewards_are_measured_on_images_set_aside_in_training_and_on_no_others(recipe, whole, tmp_path, monkeypatch):
    looked, look = [], class_phases._look
    monkeypatch.setattr(class_phases, "_look", lambda student, source, ids: looked.append((source.ids, ids))
                        or look(student, source, ids))
    phases = class_phases.Phases(recipe, whole[0], load_data(recipe.data), WORLD)
    folder = whole[0] / "trials" / "2-1"
    told = (folder / "reward.json").read_text()
    (folder / "reward.json").unlink()
    class_phases._reward(phases, 2, folder, whole[0] / "rows" / "2-small.npy")
    assert (folder / "reward.json").read_text() == told
    (source, rows_), = looked
    assert source.tolist() == phases.data.train.ids.tolist()
    assert rows_.tolist() == ids(whole[0], "2-small")


def test_stopped_anywhere_the_same_call_ends_with_the_same_bits(recipe, whole, tmp_path):
    out, _ = whole
    for steps in (3, 9):
        for _ in range(2):
            with suppress(Interrupted):
                train(recipe, tmp_path / str(steps), stop_after=steps)
        train(recipe, tmp_path / str(steps))
        assert finished(tmp_path / str(steps))["weights"] == finished(out)["weights"]
        assert (tmp_path / str(steps) / "phases.json").read_bytes() == (out / "phases.json").read_bytes()


def test_the_whole_opens_like_any_other_run(whole):
    opened = finished_run(whole[0], WORLD)
    assert set(opened.models) == {"before", "net"}
    assert len(opened.data.classes) == 10


def test_a_fixed_policy_tries_nothing_and_a_grid_tries_every_action_and_takes_the_best(recipe, tmp_path):
    for policy in ("fixed", "grid"):
        (tmp_path / "recipe.toml").write_text(RECIPE.replace("phases = 3", f'phases = 2\npolicy = "{policy}"'))
        out = tmp_path / policy
        folders = train(read_recipe(tmp_path / "recipe.toml"), out)
        tried = [folder for folder in folders if folder.startswith("trials")]
        assert tried == ([] if policy == "fixed" else ["trials/2-1", "trials/2-2"])
    rewards = [json.loads((out / folder / "reward.json").read_text())["reward"] for folder in tried]
    chosen = json.loads((out / "phases.json").read_text())["phases"][1]["action"]
    assert chosen == [[0.0, 1.0], [1.0, 0.0]][int(np.argmax(rewards))]
