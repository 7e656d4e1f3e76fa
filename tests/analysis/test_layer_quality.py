"""How much there is to learn at each layer."""

import json
import math
import sys
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor, nn

from every import every
from toys import data, network
from tutelage.analysis.layer_quality import Quality, balanced, best, candidates, measure_layers, quality
from tutelage.cli import main
from tutelage.errors import DataError, ModelError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes import trained_run

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(features: Tensor, labels: Tensor, training: int, components: str) -> tuple[float, float, float]:
    """The equations as loops; variances by the singular values of the features themselves."""
    rows = features.flatten(1)
    classes = {c: [i for i, label in enumerate(labels.tolist()) if label == c] for c in labels.unique().tolist()}

    def likeness(i: int, j: int) -> float:
        return abs(float(torch.cosine_similarity(rows[i], rows[j], 0)))

    within = {c: [likeness(i, j) for i, j in combinations(own, 2)] for c, own in classes.items()}
    between = [sum(likeness(i, j) for i in classes[c] for j in classes[d]) / (len(classes[c]) * len(classes[d]))
               for c, d in permutations(classes, 2)]
    separation = sum(sum(g) / len(g) for g in within.values()) / len(within) - sum(between) / len(between)
    shares = []
    for own in classes.values():
        variances = torch.linalg.svdvals(rows[own] - rows[own].mean(0)).square()
        shares.append((variances / variances.sum()).tolist())
    largest = sum(next(k for k in range(1, 99) if sum(share[:k]) >= 0.95) for share in shares)
    largest //= {"sum": 1, "mean": len(shares)}[components]
    entropies = []
    for share in shares:
        kept = [part / sum(share[:largest]) for part in share[:largest]]
        entropies.append(-sum(part * math.log(part) for part in kept if part > 1e-20))
    information = ((1 - sum(map(min, within.values())) / len(within)) * sum(entropies) / len(entropies) / math.log(5))
    gaps = [min(float((rows[i] - rows[j]).norm()) for i in own for j in range(len(rows)) if j not in own)
            for own in classes.values()]
    norms = [float(row.norm()) for row in rows]
    efficiency = (2 * sum(gaps) / len(gaps) / (sum(norms) / len(norms))
                  * (training / math.pi) ** (1 / min(rows.shape)))
    return separation, information, efficiency


@pytest.mark.parametrize("shape", [(12, 5), (12, 3, 2, 2), (12, 40)])
@pytest.mark.parametrize("components", ["sum", "mean"])
def test_it_is_the_equations_written_as_loops(shape, components):
    features = random(*shape) + LABELS.view(-1, *[1] * (len(shape) - 1))
    found = quality(features, LABELS, 500, components)
    separation, information, efficiency = by_hand(features, LABELS, 500, components)
    assert (found.separation, found.information, found.efficiency) == pytest.approx(
        (separation, information, efficiency), rel=1e-9)
    assert found.quality == pytest.approx(separation + math.sqrt(information * efficiency))


def test_unless_told_otherwise_components_are_counted_as_in_the_authors_code():
    features = random(12, 40)
    assert quality(features, LABELS, 500) == quality(features, LABELS, 500, "sum")
    assert quality(features, LABELS, 500).information > quality(features, LABELS, 500, "mean").information


def test_collapsed_orthogonal_classes_are_separated_and_hold_nothing_else():
    found = quality(torch.eye(6)[LABELS] * 3, LABELS, 100)
    assert (found.separation, found.information) == pytest.approx((1.0, 0.0), abs=1e-9)
    assert found.quality == pytest.approx(1.0)


def test_neither_scale_nor_rotation_changes_it():
    features = random(12, 6)
    turn = torch.linalg.qr(random(6, 6, seed=1)).Q
    plain = vars(quality(features, LABELS, 200))
    assert vars(quality(7 * features, LABELS, 200)) == pytest.approx(plain, rel=1e-9)
    assert vars(quality(features @ turn, LABELS, 200)) == pytest.approx(plain, rel=1e-9)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert vars(quality(features[order], LABELS[order], 200)) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("features", [torch.zeros(12, 4), torch.ones(12, 4), torch.full((12, 4), 65504.0),
                                      torch.cat([torch.zeros(6, 4), torch.ones(6, 4)])])
def test_dead_and_equal_and_large_features_give_finite_numbers(features):
    found = quality(features, LABELS, 100)
    assert every(math.isfinite(number) for number in (*vars(found).values(), found.quality))
    assert -1 <= found.separation <= 1
    assert found.information == pytest.approx(0.0, abs=1e-6)


def test_a_class_of_one_image_does_not_count():
    features = random(13, 5)
    labels = torch.cat([LABELS, torch.tensor([3])])
    assert quality(features, labels, 100) == quality(features[:12], LABELS, 100)


@pytest.mark.parametrize("labels", [torch.zeros(12, dtype=torch.int64), torch.arange(12),
                                    torch.tensor([0] * 11 + [1])])
def test_fewer_than_two_classes_with_two_images_are_refused(labels):
    with pytest.raises(DataError, match="too few images"):
        quality(random(12, 3), labels, 100)


def test_the_images_are_balanced_drawn_by_the_seed_and_have_labels():
    labels = torch.tensor([0] * 50 + [1] * 3 + [-1] * 20 + [2] * 30)
    rows = balanced(labels, 30, 0)
    assert labels[rows].bincount().tolist() == [10, 3, 10]
    assert torch.equal(rows, balanced(labels, 30, 0))
    assert not torch.equal(rows, balanced(labels, 30, 1))
    assert labels[balanced(labels, 1, 0)].bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize(("arch", "layers"), [
    ("resnet14", [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]),
    ("vgg8", [f"layer{stage}.2" for stage in (1, 2, 3, 4, 5)])])
def test_the_layers_are_blocks_and_non_linearities_in_the_order_in_which_they_run(arch, layers):
    made = build(Architecture(arch), class_names=["cat", "dog"])
    assert list(candidates(made.eval(), torch.zeros(2, 3, 16, 16))) == layers


def test_what_is_overwritten_gives_no_tensor_or_never_runs_is_no_candidate():
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.first, self.over = nn.Tanh(), nn.Sigmoid(), nn.ReLU(inplace=True)
            self.pair, self.idle, self.fc = Pair(), nn.Tanh(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pair(self.late(self.over(self.first(x))))[0])

    assert candidates(Body(), torch.zeros(2, 4)) == {"over": 4, "late": 4}


@pytest.mark.parametrize("room", [1, 40, 2**30])
def test_measuring_in_groups_is_measuring_at_once(room, monkeypatch):
    monkeypatch.setattr("tutelage.analysis.layer_quality.ROOM", room * 4 * 24)
    made = network(1)
    mode, source = made.training, data().train
    found = measure_layers(made, source, images=24, batch_size=7)
    assert mode
    assert list(found) == ["2"]
    found = measure_layers(made, source, layers=["0", "2", "4"], images=24, batch_size=7)
    rows = balanced(source.labels, 24, 0)
    (batch,) = source.batches([rows], draw=None)
    for layer in ("0", "2", "4"):
        features = made.eval()[: int(layer) + 1](batch.inputs).detach()
        expected = vars(quality(features, source.labels[rows], len(source.ids)))
        assert vars(found[layer]) == pytest.approx(expected, rel=1e-4)


def test_a_network_whose_numbers_are_not_finite_is_refused():
    made = network(1, norm=False)
    made[0].bias.data.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        measure_layers(made, data().train, images=24)


def test_the_best_layers_are_given_in_the_order_of_depth():
    worth = {"a": 0.1, "b": 0.7, "c": 0.2, "d": 0.9}
    found = {layer: Quality(number, 0.0, 0.0) for layer, number in worth.items()}
    assert best(found, 3) == ["b", "c", "d"]
    assert best(found, 9) == list(worth)


@pytest.fixture
def analyse(monkeypatch, capsys, tmp_path):
    """Call `tutelage analyse layers` on networks that are there: exit code, what it printed, what it complained of."""
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(trained_run, "networks_of", lambda *given: ({"t": network(1), "s": network(2)}, data()))
        recipe = tmp_path / "recipe.toml"
        recipe.touch()
        monkeypatch.setattr(sys, "argv", ["tutelage", "analyse", "layers", str(recipe), "--images", "24", *words])
        with pytest.raises(SystemExit) as stop:
            main.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err
    return call


def test_the_command_prints_a_table_and_what_to_write_into_the_recipe(analyse):
    code, out, _ = analyse("--layer", "0", "--layer", "2", "--count", "1")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["layer", "0", "2"]
    assert out.count("picked") == 1
    assert "layers = { t = [" in out


def test_the_command_gives_json_and_refuses_what_is_not_there(analyse):
    told = json.loads(analyse("--json", "--node", "s")[1])
    assert told["node"] == "s"
    assert told["picked"] == list(told["layers"]) == ["2"]
    assert set(told["layers"]["2"]) == {"separation", "information", "efficiency", "quality"}
    code, _, errors = analyse("--node", "x")
    assert code == 2
    assert "unknown network 'x'" in errors
    code, _, errors = analyse("--layer", "nothing")
    assert code == 4
    assert "unknown tap 'nothing'" in errors
