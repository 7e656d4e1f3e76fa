"""A cut of the gradient, many draws of dropout, and a second head."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from every import every
from tutelage.errors import ModelError, UsageError
from tutelage.graph.taps import read
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.classifier import classifiers_of
from tutelage.models.network import weights_of
from tutelage.models.saved import load_network, metadata_of
from tutelage.models.weights import load_weights
from tutelage.models.wrappers import add_second_head, cut, draw, draws_of
from tutelage.system.random import derive, uniform

NAMES = ["cat", "dog"]
IDS = torch.tensor([40, 7, 23])


def images(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def built(**words) -> nn.Module:
    return build(Architecture("resnet8", **words), class_names=NAMES, name="net")


def dense(share: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(share), nn.Linear(6, 5), nn.Dropout(share),
                         nn.Linear(5, 2)).eval()


class Block(nn.Module):
    """A shortcut around a layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.linear(x))


def seen(network: nn.Module, inputs: Tensor, layer: str, ids: Tensor | None = None, key: int = 0) -> Tensor:
    """The draws of a layer, when these are the samples."""
    draws = draws_of(network)
    assert draws is not None
    draws.ids, draws.key = ids, key
    return read(network, inputs, [f"draws.{layer}"])[f"draws.{layer}"]


def test_labels_reach_what_comes_after_the_cut_and_features_what_is_before_it():
    network = built(cut="layer3")
    for tap, learns in (("", ("fc",)), ("cut", ("conv1", "bn1", "layer1", "layer2", "layer3"))):
        network.zero_grad(set_to_none=True)
        read(network, images(), ["", "cut"])[tap].square().sum().backward()
        for name, parameter in weights_of_parameters(network):
            assert (parameter.grad is not None) == (name.split(".")[0] in learns), (tap, name)


def weights_of_parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name.removeprefix("body."), parameter) for name, parameter in network.named_parameters()]


def test_a_cut_changes_neither_logits_nor_weights_nor_their_names():
    plain, network = built(), built(cut="layer2")
    assert list(weights_of(plain)) == list(weights_of(network))
    assert torch.equal(plain(images()), network(images()))
    tapped = read(network, images(), ["cut", "layer2", "layer1"])
    assert torch.equal(tapped["cut"], tapped["layer2"])
    assert torch.equal(tapped["cut"], read(plain, images(), ["layer2"])["layer2"])


@pytest.mark.parametrize("words", [{"cut": "layer3"}, {"draws": 4, "dropout": 0.3}, {"second_head": True}])
def test_the_word_survives_a_copy_and_a_file(tmp_path, words):
    network = built(**words)
    save_file(weights_of(network), tmp_path / "net.safetensors", metadata_of(network, NAMES, "net"))
    again, _ = load_network(tmp_path / "net.safetensors")
    for other in (again, deepcopy(network)):
        tap = next(iter(words)).replace("draws", "draws.pool")
        assert torch.equal(read(other.eval(), images(), [tap])[tap], read(network.eval(), images(), [tap])[tap])
        other.train()
        other(images()).sum().backward()
        trunk = other.get_submodule("body.conv1").weight.grad
        assert (trunk is None) == ("cut" in words)


@pytest.mark.parametrize(("layer", "says"), [("layer9", "did you mean"), ("fc", "nothing that could learn"),
                                             ("", "unknown layer")])
def test_a_cut_where_none_can_be_is_refused(layer, says):
    with pytest.raises(ModelError, match=says):
        built(cut=layer)


def test_a_cut_of_several_tensors_is_refused():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    network = nn.Sequential(Two())
    network.head = nn.Linear(2, 2)
    cut(network, "0")
    with pytest.raises(ModelError, match="one tensor"):
        network(torch.zeros(1, 2))


@pytest.mark.parametrize(("tap", "word"), [("cut", 'cut = "LAYER"'), ("draws.pool", "draws = 30"),
                                           ("second_head", "second_head = true")])
def test_a_recipe_that_forgot_the_word_is_told_the_word(tap, word):
    with pytest.raises(ModelError) as caught:
        read(built(), images(), [tap])
    assert word in str(caught.value.fix)
    assert "[models.NODE]" in str(caught.value.fix)


def test_draws_are_a_loop_over_images_and_draws_with_a_mask_for_each():
    network, inputs = dense(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    draw(network, 5)
    found = seen(network, inputs, "4", IDS, key=9)
    assert found.shape == (3, 5, 5)
    for row, sample in enumerate(IDS.tolist()):
        for number in range(5):
            hidden = F.relu(network[0](inputs[row]))
            for name, layer in (("2", None), ("4", network[3])):
                hidden = hidden if layer is None else layer(hidden)
                mask = uniform(derive(9, name), torch.tensor([sample * 5 + number]), len(hidden))[0] >= 0.5
                hidden = hidden * mask * 2
            torch.testing.assert_close(found[row, number], hidden)


def test_draws_depend_on_the_key_and_the_id_and_on_nothing_else():
    network, inputs = dense(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    draw(network, 4)
    whole = seen(network, inputs, "4", IDS)
    torch.manual_seed(5)
    torch.testing.assert_close(seen(network, inputs[1:2], "4", IDS[1:2]), whole[1:2])
    torch.testing.assert_close(seen(network, inputs.flip(0), "4", IDS.flip(0)), whole.flip(0))
    assert not torch.allclose(seen(network, inputs, "4", IDS, key=1), whole)
    assert not torch.allclose(seen(network, inputs, "4", IDS + 1), whole)
    assert len({tuple(one.tolist()) for one in whole[0]}) == 4


def test_the_mean_of_many_draws_is_what_the_network_gives_without_dropout():
    network = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2)).eval()
    inputs = torch.ones(1, 4)
    draw(network, 4000)
    found = seen(network, inputs, "0")
    assert set(found.unique().tolist()) == {0.0, found.max().item()}
    assert found.max().item() == pytest.approx(1 / 0.7)
    torch.testing.assert_close(found.mean(1), inputs, rtol=0, atol=0.05)


def test_a_block_with_dropout_is_drawn_with_its_shortcut():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), Block(), nn.Sequential(Block(), nn.ReLU()), nn.Linear(4, 2)).eval()
    alone, inputs = deepcopy(network), torch.randn(3, 4)
    draw(network, 3)
    draw(alone, 1)
    numbers = (IDS[:, None] * 3 + torch.arange(3)).flatten()
    each = seen(alone, inputs.repeat_interleave(3, 0), "2", numbers)
    torch.testing.assert_close(seen(network, inputs, "2", IDS), each.view(3, 3, 4))


def test_dropout_of_channels_leaves_out_whole_channels():
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(32, 2)).eval()
    draw(network, 6)
    maps = seen(network, torch.rand(3, 1, 2, 2), "1")
    left_out = (maps == 0).flatten(3)
    assert torch.equal(left_out.any(-1), left_out.all(-1))
    assert 0 < left_out.float().mean() < 1


def test_a_network_without_dropout_is_given_some_on_the_layer_that_is_read():
    network = built(draws=6, dropout=0.25).eval()
    features = read(network, images(), ["pool"])["pool"]
    found = seen(network, images(), "pool", IDS)
    assert found.shape == (3, 6, 64)
    plain = features[:, None].expand_as(found)
    kept = found != 0
    torch.testing.assert_close(found[kept], plain[kept] / 0.75)
    assert ((plain != 0) & ~kept).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_the_plain_pass_stays_as_it_was_and_is_made_only_if_it_is_asked_for():
    network, inputs, calls = dense(), torch.randn(3, 4), []
    plain = network(inputs)
    draw(network, 4)
    assert torch.equal(network(inputs), plain)
    found = read(network, inputs, ["", "draws.2", "draws.4", "0"])
    assert torch.equal(found[""], plain)
    assert list(map(len, (found["0"], found["draws.2"]))) == [3, 3]
    network.register_forward_hook(lambda module, given, output: calls.append(len(output)))
    read(network, inputs, ["draws.2", "draws.4"])
    assert calls == [12]
    assert every(not module._forward_pre_hooks for module in network.modules())


def test_a_layer_before_the_first_dropout_is_refused():
    network = dense()
    draw(network, 4)
    with pytest.raises(ModelError, match="before the network's first dropout"):
        read(network, torch.zeros(2, 4), ["draws.1"])


def test_a_network_without_dropout_is_refused():
    with pytest.raises(ModelError) as caught:
        built(draws=3)
    assert "dropout = 0.5" in str(caught.value.fix)


@pytest.mark.parametrize("words", [{"draws": 0}, {"draws": 3, "dropout": 1.0}, {"draws": 3, "dropout": 0.0},
                                   {"dropout": 0.5}])
def test_words_that_cannot_be_are_refused(words):
    with pytest.raises(UsageError):
        Architecture("resnet8", **words)


# A second head


def test_a_second_head_reads_what_the_first_one_reads_and_changes_nothing_of_it():
    plain, network = built(), built(second_head=True)
    own = weights_of(network)
    assert own.keys() - weights_of(plain).keys() == {"fc.second_head.weight", "fc.second_head.bias"}
    assert every(torch.equal(own[name], tensor) for name, tensor in weights_of(plain).items())
    assert torch.equal(plain(images()), network(images()))
    tapped = read(network, images(), ["", "second_head", "pool"])
    expected = tapped["pool"].flatten(1) @ own["fc.second_head.weight"].T + own["fc.second_head.bias"]
    torch.testing.assert_close(tapped["second_head"], expected)
    assert not torch.equal(own["fc.second_head.weight"], own["fc.weight"])
    torch.testing.assert_close(own["fc.second_head.weight"].std(), own["fc.weight"].std(), rtol=0.3, atol=0)


def test_its_first_weights_are_of_seed_and_name():
    again, other = (build(Architecture("resnet8", second_head=True), class_names=NAMES, name="net", seed=seed)
                    for seed in (0, 1))
    weight = weights_of(built(second_head=True))["fc.second_head.weight"]
    assert torch.equal(weights_of(again)["fc.second_head.weight"], weight)
    assert not torch.equal(weights_of(other)["fc.second_head.weight"], weight)


def test_a_copy_has_a_head_of_its_own():
    network = built(second_head=True)
    before, copy = read(network, images(), ["second_head"])["second_head"], deepcopy(network)
    copy.body.fc.second_head.weight.data.zero_()
    copy.body.fc.second_head.bias.data.fill_(3.0)
    assert (read(copy, images(), ["second_head"])["second_head"] == 3).all()
    assert torch.equal(read(network, images(), ["second_head"])["second_head"], before)


def test_a_loss_of_the_second_head_reaches_it_and_what_both_share():
    network = built(second_head=True)
    read(network, images(), ["", "second_head"])["second_head"].sum().backward()
    for name, parameter in weights_of_parameters(network):
        assert (parameter.grad is None) == (name in ("fc.weight", "fc.bias")), name


def test_weights_go_between_networks_with_one_head_and_with_two(tmp_path):
    for words in ({}, {"second_head": True}):
        save_file(weights_of(built(**words)), tmp_path / f"{len(words)}.safetensors",
                  metadata_of(built(**words), NAMES, "net"))
    one, two = (str(tmp_path / f"{number}.safetensors") for number in range(2))
    seeded = {"class_names": NAMES, "name": "net", "seed": 9}
    fresh = weights_of(build(Architecture("resnet8", second_head=True), **seeded))
    for file, second in ((one, fresh), (two, weights_of(built(second_head=True)))):
        found = weights_of(build(Architecture("resnet8", weights=file, second_head=True), **seeded))
        assert every(torch.equal(found[name], tensor) for name, tensor in weights_of(built()).items())
        assert torch.equal(found["fc.second_head.weight"], second["fc.second_head.weight"])
    plain = weights_of(build(Architecture("resnet8", weights=two), **seeded))
    assert plain.keys() == weights_of(built()).keys()
    new = build(Architecture("resnet8", weights=two, head="new", second_head=True), class_names=["a", "b", "c"])
    assert [len(weights_of(new)[name]) for name in ("fc.bias", "fc.second_head.bias")] == [3, 3]


def test_a_users_own_layer_of_that_name_is_loaded_as_strictly_as_any_other():
    own = nn.Module()
    own.fc, own.second_head = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ModelError, match="do not fit"):
        load_weights(own, nn.ModuleDict({"fc": nn.Linear(2, 2)}).state_dict())


def test_a_network_that_is_cut_to_the_data_has_a_second_head_for_the_data(tmp_path):
    save_file(weights_of(built()), tmp_path / "net.safetensors", metadata_of(built(), NAMES, "net"))
    network = build(Architecture("resnet8", weights=str(tmp_path / "net.safetensors"), classes="by-name",
                                 second_head=True), class_names=["dog"])
    assert [x.shape for x in read(network, images(), ["", "second_head"]).values()] == [(3, 1), (3, 1)]


def test_a_sequence_and_a_network_that_is_one_layer_get_a_second_head():
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), nn.Linear(4, 2)):
        x, plain = torch.ones(5, 4), deepcopy(network)
        add_second_head(network)
        found = read(network, x, ["", "second_head"])
        assert torch.equal(found[""], plain(x))
        assert found["second_head"].shape == (5, 2)
        assert classifiers_of(network) == classifiers_of(plain)


@pytest.mark.parametrize("body", [nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), nn.Sequential(nn.ReLU())])
def test_without_a_linear_first_head_there_is_no_second(body):
    with pytest.raises(ModelError, match="second head"):
        add_second_head(body)
