"""Networks that are not what they claim are refused before a run begins; honest ones are left as they were."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from every import every
from tutelage import Edge, Ema, Frozen, Graph, Trained, train
from tutelage.data import Data, from_tensors
from tutelage.engine.checks import Check, check_networks, summary, warnings_of
from tutelage.engine.loop import check
from tutelage.engine.settings import CHECKS, Settings
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.schedules import ramp_up
from tutelage.models.freezing import freeze
from tutelage.runs.folder import read_json
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint

CPU = World(torch.device("cpu"))
CLASSES = 4
SGD = partial(torch.optim.SGD, lr=0.05)


def data(rows: int = 64, classes: int = CLASSES, labelled: bool = True) -> Data:
    """Images whose class is the brightest of as many corners."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    images = torch.rand(rows, 1, 4, 4, generator=generator) * 100
    images.view(rows, 16)[torch.arange(rows), labels] += 150
    held = labels if labelled else torch.full_like(labels, -1)
    pixels = images.to(torch.uint8)
    return from_tensors((pixels, held), validation=(pixels, labels), augment="none")


class Net(nn.Module):
    """A hidden layer, a head, and what an odd network does with its logits or features."""

    def __init__(self, seed: int = 0, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.norm, self.head = nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Linear(24, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.norm(self.hidden(images.flatten(1))).relu()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Seeing(nn.Module):
    """Logits that are the first pixels: an honest network that knows the classes without having learned them."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.head = nn.Linear(16, len(order))
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[torch.arange(len(order)), torch.tensor(order)] = 1

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.head(images.flatten(1))


def looked(student: nn.Module | None = None, teacher: nn.Module | None = None, *, warn: tuple[str, ...] = (),
           data: Data | None = None, weight: object = 1.0, teacher_kind: Frozen | None = None,
           skilled: bool = True) -> list[Check]:
    graph, models = Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy)]), {"s": student or Net()}
    if teacher is not None:
        graph = Graph({"t": teacher_kind or Frozen(), "s": Trained()}, [*graph.edges, Edge("t", "s", kl, weight)])
        models["t"] = teacher
    settings, data = Settings(1, SGD, batch_size=8, warn=warn), data or globals()["data"]()
    return check_networks(check(graph, models, data, settings, CPU), data, settings, CPU, skilled=skilled)


def by_name(checks: list[Check], node: str) -> dict[str, str]:
    return {one.name: one.result for one in checks if one.node == node}


# Probabilities

class Softmax(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(-1)


class WarmSoftmax(Net):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": (super().forward(images) / 7).softmax(-1)}


class Sigmoid(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sigmoid()


class HardSigmoid(Net):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(self.head, nn.BatchNorm1d(CLASSES), nn.Hardsigmoid())
        del self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))


class NormedSigmoid(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(24, CLASSES, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sigmoid()


class Convolved(nn.Module):
    """The head is a convolution, as squeezenet's is, and the network's own parameter comes after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls = nn.Parameter(torch.ones(1))
        self.head = nn.Conv2d(1, CLASSES, 3)

    def forward(self, images: Tensor) -> Tensor:
        return (self.cls * self.head(images).mean((-1, -2))).sigmoid()


PROBABILITIES = [Softmax, WarmSoftmax, Sigmoid, HardSigmoid, NormedSigmoid, Convolved]


@pytest.mark.parametrize("kind", PROBABILITIES)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_probabilities_are_refused_of_teachers_and_students(kind, role):
    with pytest.raises(ModelError, match="gives probabilities where logits are wanted") as caught:
        looked(**{role: kind()}, data=data(40))
    assert caught.value.exit_code == 4
    assert f"node '{role[0]}'" in str(caught.value)
    assert 'warn = ["probabilities"]' in str(caught.value)


class LogSoftmax(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).log_softmax(-1)


class Rectified(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).relu()


class SmallLogits(Net):
    """Logits that happen to lie in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.head.weight.mul_(1e-3)
            self.head.bias.fill_(0.5)


class ZeroHead(Net):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


@pytest.mark.parametrize("kind", [Net, LogSoftmax, Rectified, SmallLogits, ZeroHead])
def test_logits_and_log_probabilities_pass(kind):
    assert by_name(looked(kind(), data=data(40)), "s") == dict.fromkeys(
        ("neighbours", "probabilities", "training_output"), "passed")


def test_probabilities_are_found_before_outputs_are_cut_to_the_data():
    from tutelage.models.architecture import Architecture
    from tutelage.models.network import Network

    cut = Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.Softmax(-1)), Architecture("resnet8"), mean=(0.0,),
                  std=(1.0,), channels=1, body_classes=tuple("abcdefghi"), columns=(1, 4, 2, 7))
    with pytest.raises(ModelError, match="probabilities"):
        looked(teacher=cut, data=data(40))


class Buffered(nn.Module):
    """A head that is no parameter, as of a network that was exported: nothing can be tried."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.randn(classes, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.linear(images.flatten(1), self.weight).sigmoid()


def test_a_sigmoid_that_cannot_be_tried_is_a_warning_where_there_are_many_classes():
    checks = looked(Net(classes=10), Buffered(10), data=data(100, classes=10))
    assert by_name(checks, "t")["probabilities"] == "warned"
    assert by_name(looked(teacher=Buffered(4), data=data(100)), "t")["probabilities"] == "not judged"


def test_a_check_may_warn_instead():
    checks = looked(Softmax(), warn=("probabilities",))
    assert by_name(checks, "s")["probabilities"] == "warned"
    (text,) = warnings_of(checks)
    assert text.startswith("s: a network gives probabilities")


def test_a_name_of_a_check_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'class_order'"):
        Settings(1, SGD, warn=("class_odrer",))
    assert every(Settings(1, SGD, warn=(name,)) for name in CHECKS)


def test_edges_of_no_weight_are_not_looked_at_and_those_of_a_schedule_are():
    looked(teacher=Softmax(), weight=0.0)
    with pytest.raises(ModelError, match="probabilities"):
        looked(teacher=Softmax(), weight=partial(ramp_up, to=1.0))


def test_where_features_alone_are_read_the_logits_do_not_matter():
    features = Edge("t.hidden", "s.hidden", lambda s, t, y: (s - t).square().mean(-1))
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("labels", "s", cross_entropy), features])
    models, settings, images = {"t": Softmax(), "s": Net()}, Settings(1, SGD, batch_size=8), data()
    checks = check_networks(check(graph, models, images, settings, CPU), images, settings, CPU)
    assert by_name(checks, "t") == {"neighbours": "passed"}


# Neighbours

class BatchStatistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(24, track_running_stats=False)


class GhostNorm(Net):
    def features(self, images: Tensor) -> Tensor:
        hidden = self.hidden(images.flatten(1))
        return torch.cat([(part - part.mean(0)) for part in hidden.split(4)]).relu()


class Mixing(Net):
    """Attention over the batch, behind a gate that begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(24))

    def features(self, images: Tensor) -> Tensor:
        rows = super().features(images)
        return rows + 0.01 * self.gate * ((rows @ rows.T).softmax(-1) @ rows)


class Centred(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 0.01 * images.mean(0))


class CountsRows(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / len(images)


class Squeezing(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()[:, :]


@pytest.mark.parametrize("kind", [BatchStatistics, GhostNorm, Mixing, Centred, CountsRows, Squeezing])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_rows_that_depend_on_the_batch_are_refused(kind, role):
    with pytest.raises(ModelError, match=r"other rows of its batch|does not run on a single image") as caught:
        looked(**{role: kind()}, data=data(40))
    assert f"node '{role[0]}'" in str(caught.value)


class NoisyInEval(Net):
    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.5)


def test_a_network_that_is_random_in_evaluation_is_refused():
    with pytest.raises(ModelError, match="random in evaluation"):
        looked(NoisyInEval())


def test_dropout_that_knows_its_mode_is_honest():
    assert looked(nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Dropout(0.5), nn.Linear(24, CLASSES)))


# Training and evaluation

class Auxiliary(Net):
    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class OtherShape(Net):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.cat([logits, logits], -1) if self.training else logits


@pytest.mark.parametrize("kind", [Auxiliary, OtherShape])
def test_a_network_that_gives_something_else_in_training_is_refused_at_the_start(kind, tmp_path):
    graph = Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy)])
    with pytest.raises(ModelError, match="something else in training than in evaluation") as caught:
        list(train(graph, {"s": kind()}, data(), epochs=1, optimizer=SGD, batch_size=8, out=tmp_path / "run"))
    assert "node 's'" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_frozen_network_is_never_in_training_mode_and_may_have_auxiliary_heads():
    assert looked(teacher=Auxiliary())


# Constants and skill

class Same(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 0)


def test_a_frozen_network_with_one_output_for_every_image_is_refused():
    with pytest.raises(ModelError, match="same output for every image"):
        looked(teacher=Same())
    looked(teacher=Same(), skilled=False)
    looked(teacher=Same(), teacher_kind=Frozen(early=True))
    assert by_name(looked(Same()), "s")["neighbours"] == "passed", "a student has time to learn"


def test_a_teacher_in_another_class_order_is_refused_and_one_in_its_own_passes():
    checks = looked(teacher=Seeing([0, 1, 2, 3]), data=data(600))
    assert every(by_name(checks, "t")[name] == "passed" for name in ("class_order", "swapped_pairs", "chance",
                                                                      "one_class"))
    with pytest.raises(ModelError, match=r"outputs fit the classes better in another order \(\d+ %, \d+ %\): another "
                                         "class order, or a head that was never trained"):
        looked(teacher=Seeing([1, 2, 3, 0]), data=data(600))


def test_a_reversed_network_of_two_classes_is_refused():
    with pytest.raises(ModelError, match="another order"):
        looked(Net(classes=2), Seeing([1, 0]), data=data(600, classes=2))


def test_two_swapped_classes_of_ten_are_a_warning():
    checks = looked(Net(classes=10), Seeing([1, 0, *range(2, 10)]), data=data(600, classes=10),
                    warn=("class_order",))
    assert by_name(checks, "t")["swapped_pairs"] == "warned"
    assert "'0' and '1'" in " ".join(warnings_of(checks))


def test_a_teacher_at_chance_is_refused():
    class Guessing(Seeing):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward((images.flatten(1) * 1e4).frac())

    with pytest.raises(ModelError, match=r"ignores the image \(n = 512: \d+ hits, 128 by chance\)"):
        looked(teacher=Guessing([0, 1, 2, 3]), data=data(600))


def test_few_labelled_images_and_exempt_nodes_are_not_judged():
    wrong = Seeing([1, 2, 3, 0])
    assert by_name(looked(teacher=wrong, data=data(255)), "t")["class_order"] == "not judged"
    for checks in (looked(teacher=wrong, data=data(600), skilled=False),
                   looked(teacher=wrong, data=data(600), teacher_kind=Frozen(early=True)),
                   looked(teacher=wrong, data=data(600), teacher_kind=Frozen(before="x"))):
        assert "class_order" not in by_name(checks, "t")
    assert by_name(looked(teacher=wrong, data=data(600), warn=("class_order",)), "t")["class_order"] == "warned"


def test_trained_and_following_networks_are_not_asked_what_they_know():
    graph = Graph({"s": Trained(), "slow": Ema("s")}, [Edge("labels", "s", cross_entropy), Edge("slow", "s", kl)])
    settings, images = Settings(1, SGD, batch_size=8), data(600)
    checks = check_networks(check(graph, {"s": Net()}, images, settings, CPU), images, settings, CPU)
    assert {one.node for one in checks} == {"s"}
    assert not {"class_order", "chance"} & set(by_name(checks, "s"))


@pytest.mark.parametrize("role", ["s", "t"])
def test_a_network_without_a_classifier_has_words_of_its_own(role):
    import timm

    headless = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=4, patch_size=2, in_chans=1, depth=1,
                                 embed_dim=12, num_heads=2)
    with pytest.raises(ModelError, match=rf"a network without a classifier[\s\S]*node '{role}'[\s\S]*, 12\]"):
        looked(**{"s": {"student": headless}, "t": {"teacher": headless}}[role])


# What is left behind

def test_networks_and_random_numbers_stay_as_they_were():
    student, teacher = Net(1), Seeing([0, 1, 2, 3])
    student.train()
    before = {node: fingerprint(net.state_dict()) for node, net in (("s", student), ("t", teacher))}
    modes = [module.training for module in (*student.modules(), *teacher.modules())]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    looked(student, teacher, data=data(600))
    assert torch.equal(torch.get_rng_state(), state)
    assert {"s": fingerprint(student.state_dict()), "t": fingerprint(teacher.state_dict())} == before
    assert [module.training for module in (*student.modules(), *teacher.modules())] == modes
    assert every(not module._forward_hooks for module in student.modules())


def test_a_run_has_the_bits_that_it_has_without_the_checks(monkeypatch):
    from tutelage.engine import train as page

    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("labels", "s", cross_entropy), Edge("t", "s", kl)])
    seen, run = [], partial(train, graph, epochs=1, optimizer=SGD, batch_size=8, precision="exact")
    for off in (False, True):
        if off:
            monkeypatch.setattr(page, "check_networks", lambda *args, **options: [])
        models = {"t": Net(1), "s": Net(2)}
        list(run(models, data()))
        seen.append(fingerprint(models["s"].state_dict()))
    assert seen[0] == seen[1]


def test_what_was_looked_at_stands_in_the_run_folder_and_in_words(tmp_path):
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("labels", "s", cross_entropy), Edge("t", "s", kl)])
    models = {"t": Seeing([0, 1, 2, 3]), "s": Net()}
    list(train(graph, models, data(600), epochs=1, optimizer=SGD, batch_size=64, out=tmp_path / "run"))
    told = read_json(tmp_path / "run" / "checks.json")
    assert {"class_order", "probabilities", "neighbours"} <= {one["name"] for one in told["checks"]}
    assert every(one["seconds"] >= 0 and one["looked_at"] for one in told["checks"])
    lines = summary([Check(**one) for one in told["checks"]])
    assert any(line.startswith("checked t on 512 images of validation: class order, ") for line in lines)


# Parts that do not learn

def test_a_trunk_frozen_by_hand_whose_statistics_move_is_told_of():
    student = Net()
    for parameter in (*student.hidden.parameters(), *student.norm.parameters()):
        parameter.requires_grad_(False)
    (text,) = warnings_of(looked(student))
    assert text.startswith("s: the weights of norm do not learn, but their running statistics will move")
    frozen = Net()
    freeze(frozen, ["hidden", "norm"])
    assert warnings_of(looked(frozen)) == []
    assert warnings_of(looked(deepcopy(Net()))) == []
