"""Networks for series: what lies in the padding has no part, any length will do, and what a recipe adds works."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from every import every
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.engine.precision import Execution, prepared_for
from tutelage.errors import ModelError, UsageError
from tutelage.graph.taps import call, read
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.cost import costs, flops
from tutelage.models.freezing import freeze, rest
from tutelage.models.lazy import finish
from tutelage.models.network import body_of, weights_of
from tutelage.models.probes import copy_to_probe, first_rows, last_head, neighbours_matter, repeatable, with_others
from tutelage.models.saved import load_network, metadata_of
from tutelage.models.series import _MaskedNorm, series_cnn, series_gru
from tutelage.models.sources import own_networks
from tutelage.models.wrappers import draws_of

LENGTHS = (20, 5, 7, 1, 12, 19)
FORMS = [("series_cnn", {}), ("series_cnn", {"width": 2, "depth": 4, "dropout": 0.3}), ("series_gru", {"width": 6}),
         ("series_gru", {"width": 5, "depth": 2, "dropout": 0.2, "pool": "last"}),
         ("series_gru", {"width": 5, "bidirectional": False, "pool": "last"})]
each_form = pytest.mark.parametrize(("name", "options"), FORMS)
CPU = torch.device("cpu")


def view(lengths=LENGTHS, longest=20, channels=2, seed=0) -> dict[str, Tensor]:
    values = torch.randn(len(lengths), channels, longest, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return {"values": values.masked_fill(~mask[:, None], 0), "mask": mask}


def built(name, options=(), **words) -> nn.Module:
    return build(Architecture(name, options=dict(options), **words), class_names=["a", "b", "c"], channels=2)


def passed(network, training, **given) -> Tensor:
    network.train(training)
    torch.manual_seed(0)
    return network(**given)


@each_form
@pytest.mark.parametrize("training", [True, False])
def test_padding_has_no_part_in_the_logits(name, options, training):
    network, given = built(name, options), view()
    plain = passed(network, training, **given)
    for wrong in (1e6, float("inf"), float("nan")):
        changed = given["values"].masked_fill(~given["mask"][:, None], wrong)
        assert torch.equal(passed(network, training, values=changed, mask=given["mask"]), plain)


@each_form
def test_padding_has_no_part_in_gradients_and_statistics(name, options):
    found = []
    for wrong in (0.0, 1e6):
        network, given = built(name, options), view()
        changed = given["values"].masked_fill(~given["mask"][:, None], wrong)
        passed(network, True, values=changed, mask=given["mask"]).square().sum().backward()
        found.append([*(p.grad for p in network.parameters()), *network.buffers()])
    assert every(torch.equal(one, other) for one, other in zip(*found, strict=True))


@each_form
def test_a_series_by_itself_says_what_it_says_in_a_padded_batch(name, options):
    network, given = built(name, options).eval(), view()
    together = network(**given)
    for row, length in enumerate(LENGTHS):
        alone = given["values"][row : row + 1, :, :length]
        assert torch.allclose(network(alone), together[row : row + 1], atol=1e-6)
        assert torch.allclose(network(values=alone), together[row : row + 1], atol=1e-6)


@each_form
def test_further_padding_changes_nothing(name, options):
    network, given = built(name, options).eval(), view()
    longer = {"values": torch.nn.functional.pad(given["values"], (0, 9)),
              "mask": torch.nn.functional.pad(given["mask"], (0, 9))}
    assert torch.allclose(network(**longer), network(**given), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_masked_norm_is_batchnorm_of_the_steps_that_there_are(training):
    masked, plain = (kind(3).train(training) for kind in (_MaskedNorm, nn.BatchNorm1d))
    for norm in (masked, plain):
        norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0])
    given = view(channels=3)
    kept = given["mask"].flatten()
    steps = given["values"].transpose(1, 2).flatten(0, 1)[kept]
    found = masked(given["values"], given["mask"]).transpose(1, 2).flatten(0, 1)[kept]
    assert torch.allclose(found, plain(steps), atol=1e-5)
    assert torch.allclose(masked.running_mean, plain.running_mean, atol=1e-6)
    assert torch.allclose(masked.running_var, plain.running_var, atol=1e-6)
    assert masked.num_batches_tracked == plain.num_batches_tracked == training


def test_the_gru_is_that_of_torch_on_packed_series():
    given = view()
    ours = series_gru(3, 2, width=4).eval()
    layer = ours.get_submodule("layer1")
    theirs = nn.GRU(2, 4, batch_first=True, bidirectional=True)
    state = {**layer.forwards.state_dict(),
             **{f"{name}_reverse": value for name, value in layer.backwards.state_dict().items()}}
    theirs.load_state_dict(state)
    packed = nn.utils.rnn.pack_padded_sequence(given["values"].transpose(1, 2), torch.tensor(LENGTHS), batch_first=True,
                                               enforce_sorted=False)
    output, last = theirs(packed)
    output, lengths = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    assert torch.allclose(layer(given["values"], given["mask"]).transpose(1, 2), output, atol=1e-6)
    mean = ours.features(layer(given["values"], given["mask"]), given["mask"])
    assert torch.allclose(mean, output.sum(1) / lengths[:, None], atol=1e-6)
    ends = series_gru(3, 2, width=4, pool="last").eval().features(layer(given["values"], given["mask"]), given["mask"])
    assert torch.allclose(ends, last.transpose(0, 1).flatten(1), atol=1e-6)


def test_the_networks_are_small_and_found_by_either_name():
    assert {"series_cnn", "series_gru", "resnet8"} <= set(own_networks())
    sizes = [sum(p.numel() for p in network(4, 1).parameters()) for network in (series_cnn, series_gru)]
    assert sizes == [7604, 6980]
    for name in ("series_cnn", "series_gru", "resnet8"):
        plain, named = (build(Architecture(prefix + name), class_names=["a", "b"], channels=2)
                        for prefix in ("", "tutelage:"))
        assert every(torch.equal(one, other) for one, other in zip(plain.parameters(), named.parameters(), strict=True))


@pytest.mark.parametrize("arch", ["series_cn", "tutelage:series_cn"])
def test_a_name_that_is_nearly_right_is_told(arch):
    with pytest.raises(UsageError, match="did you mean 'series_cnn'"):
        build(Architecture(arch), class_names=["a", "b"])


@pytest.mark.parametrize(("name", "options", "option"), [
    ("series_cnn", {"depth": 1}, "depth"), ("series_cnn", {"width": 0}, "width"),
    ("series_cnn", {"dropout": 1.0}, "dropout"),
    ("series_gru", {"depth": 0}, "depth"), ("series_gru", {"pool": "max"}, "pool")])
def test_options_that_cannot_be_are_refused(name, options, option):
    with pytest.raises(UsageError, match=f"options, {option}"):
        built(name, options)


def test_a_mean_and_images_are_refused():
    with pytest.raises(UsageError, match="scaled by its data"):
        built("series_cnn", mean=(0.5,))
    with pytest.raises(ModelError, match=r"not series[\s\S]*\[2, 2, 4, 4\]"):
        built("series_cnn")(torch.zeros(2, 2, 4, 4))
    with pytest.raises(ModelError, match="another number of channels"):
        built("series_cnn")(torch.zeros(2, 3, 4))


@each_form
def test_taps_are_read_from_a_view_as_from_a_tensor(name, options):
    network, given = built(name, options).eval(), view()
    found = read(network, given, ["", "features", "layer1"])
    assert torch.equal(found[""], call(network, given))
    assert torch.equal(body_of(network).fc(found["features"]), found[""])
    assert found["layer1"].shape[::2] == (6, 20)
    whole = {"values": given["values"], "mask": torch.ones_like(given["mask"])}
    for tap, tensor in read(network, given["values"], ["", "features"]).items():
        assert torch.allclose(tensor, read(network, whole, [tap])[tap], atol=1e-6)


@pytest.mark.parametrize("name", ["series_cnn", "series_gru"])
def test_draws_of_dropout_are_of_the_ids_and_not_of_padding(name):
    network, given = built(name, {"dropout": 0.4}, draws=5).eval(), view()
    draws = draws_of(network)
    draws.ids = torch.arange(40, 46)
    drawn = read(network, given, ["", "draws.features"])
    assert drawn["draws.features"].shape[:2] == (6, 5)
    changed = {**given, "values": given["values"].masked_fill(~given["mask"][:, None], 1e6)}
    assert torch.equal(read(network, changed, ["draws.features"])["draws.features"], drawn["draws.features"])
    draws.ids = torch.tensor([42])
    one = read(network, {key: x[2:3] for key, x in given.items()}, ["draws.features"])["draws.features"]
    assert torch.allclose(one[0], drawn["draws.features"][2], atol=1e-6)
    assert float(one.detach().std(1).max()) > 0


@each_form
def test_a_second_head_a_cut_and_a_frozen_layer_work_on_views(name, options):
    given = view()
    network = built(name, options, second_head=True, cut="layer1")
    found = read(network, given, ["", "second_head", "cut"])
    assert found["second_head"].shape == found[""].shape == (6, 3)
    (found[""].sum() + found["second_head"].sum()).backward()
    assert every(parameter.grad is None for parameter in body_of(network).layer1.parameters())
    frozen = built(name, options)
    freeze(frozen, "layer1")
    before = [buffer.clone() for buffer in body_of(frozen).layer1.buffers()]
    frozen.train()
    rest(frozen)
    frozen(**given)
    assert [buffer.tolist() for buffer in before] == [buffer.tolist() for buffer in body_of(frozen).layer1.buffers()]


@each_form
def test_a_network_comes_back_from_its_file(name, options, tmp_path):
    network = built(name, options).eval()
    save_file(weights_of(network), tmp_path / "net.safetensors", metadata_of(network, ("a", "b", "c"), "net"))
    again, classes = load_network(tmp_path / "net.safetensors")
    assert torch.equal(again.eval()(**view()), network(**view()))
    assert classes == ("a", "b", "c")


@each_form
def test_what_folds_norms_into_convolutions_keeps_masks(name, options):
    network = built(name, options)
    passed(network, True, **view(seed=3))
    network.eval()
    ready = prepared_for(network, Execution(), frozen=True, tapped=False)
    assert torch.allclose(call(ready, view()), network(**view()), atol=1e-6)
    assert torch.allclose(ready(view()["values"]), network(view()["values"]), atol=1e-6)


@each_form
def test_rows_do_not_see_their_neighbours_when_they_are_judged(name, options):
    copy = copy_to_probe(built(name, options))
    logits = repeatable(lambda given: call(copy, given))
    others, alone = neighbours_matter(logits, view())
    assert others <= 1e-5
    assert alone <= 1e-4
    assert last_head(copy, logits, view()) is copy.body.fc


def test_other_rows_of_a_view_are_other_numbers_under_the_same_masks():
    given = view()
    other = with_others(given)
    assert torch.equal(other["mask"], given["mask"])
    assert torch.equal(other["values"][::2], given["values"][::2])
    assert not torch.equal(other["values"][1::2], given["values"][1::2])
    assert {name: len(x) for name, x in first_rows(given, 2).items()} == {"values": 2, "mask": 2}


class Counting(nn.Module):
    """A network of a user that needs both tensors, and knows its size from the first rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.fc((values * mask[:, None]).flatten(1))


def test_a_network_of_a_user_sees_views_and_is_measured_by_an_example():
    network, given = Counting(), view()
    finish({"net": network}, given, seed=0)
    assert network.fc.weight.shape == (3, 40)
    assert flops(network, (2, 20), CPU, given) == 2 * 40 * 3
    found = costs({"net": network}, (2, 20), ("a", "b", "c"), CPU, seconds=0, example=given)
    assert found["nodes"]["net"]["parameters"] == 123
    with pytest.raises(ModelError, match=r"does not run on these data[\s\S]*node 'net'[\s\S]*'values': \[6, 2, 20\]"):
        finish({"net": nn.Sequential(nn.LazyLinear(3))}, given, seed=0)


def test_flops_of_a_network_by_hand():
    steps = 10
    first = steps * 16 * (39 + 19 + 9)
    others = 2 * (steps * 48 * 15 + steps * 48 * 48)
    assert flops(series_cnn(4, 1), (1, steps), CPU) == 2 * (first + others + 48 * 4)


def test_a_small_network_learns_the_made_series_and_not_at_once():
    data = load_data(DataSettings("waves"))
    network = build(Architecture("series_cnn"), class_names=data.classes, channels=2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)

    def accuracy() -> float:
        network.eval()
        (batch,) = data.test.batches([torch.arange(150)], draw=None)
        with torch.no_grad():
            return float((call(network, batch.inputs[""]).argmax(1) == batch.labels).float().mean())

    reached = []
    for epoch in range(5):
        network.train()
        for batch in data.train.batches(torch.arange(270).roll(epoch).split(32), draw=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(call(network, batch.inputs[""]), batch.labels).backward()
            optimizer.step()
        reached.append(accuracy())
    assert reached[0] < 0.5
    assert max(reached) > 0.5
