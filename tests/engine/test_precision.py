"""How a network is run changes how fast it is, within rounding what it says, and never what it is."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from every import every
from toys import SGD, data, models, network, settings
from tutelage.data import Data, from_tensors
from tutelage.engine.loop import start, steps_of
from tutelage.engine.precision import Execution, default_executions, is_tapped, lay_out, prepared_for, run_network
from tutelage.engine.run import Run
from tutelage.engine.state import capture, restore
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Ema, Frozen, Trained
from tutelage.graph.taps import read
from tutelage.models.architecture import Architecture
from tutelage.models.network import Network
from tutelage.runs import checkpoint
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint

CHOICES = [Execution(bf16, last) for bf16 in (False, True) for last in (False, True)]
FAST = Execution(bf16=True, channels_last=True)
CPU = World(torch.device("cpu"))


class Residual(nn.Module):
    """Convolutions with norms, a depthwise one, a branch, ReLU in place and dropout: what a tracer often meets."""

    def __init__(self, seed: int, classes: int = 4, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.stem_norm = nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.depth_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 8, 1)
        self.relu, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, classes)
        for norm in (self.stem_norm, self.depth_norm):
            nn.init.normal_(norm.running_mean, 0.0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.weight, 1.0, 0.2)

    def forward(self, images: Tensor) -> Tensor:
        inside = self.relu(self.stem_norm(self.stem(images)))
        inside = inside + self.point(self.relu(self.depth_norm(self.depth(inside))))
        return self.head(self.drop(inside.mean((2, 3))))


class OneLayerTwice(Residual):
    """One convolution that runs twice, each time under a norm of its own: it cannot take in both."""

    def forward(self, images: Tensor) -> Tensor:
        inside = self.stem(images)
        inside = self.depth_norm(self.depth(self.relu(self.stem_norm(self.depth(inside)))))
        return self.head(inside.mean((2, 3)))


class Branching(Residual):
    """What it does depends on its numbers: no tracer can follow."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


def wrapped(body: nn.Module, channels: int = 3) -> Network:
    return Network(body, Architecture("resnet18"), mean=(0.4,) * channels, std=(0.3,) * channels,
                   channels=channels, body_classes=("0", "1", "2", "3"))


def images(rows: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(rows, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def strides_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: parameter.stride() for name, parameter in network.named_parameters()}


def logits_by(network: nn.Module, choice: Execution, *, frozen: bool = True, tapped: bool = False) -> Tensor:
    with torch.no_grad():
        return run_network(prepared_for(network, choice, frozen=frozen, tapped=tapped), choice, images(), [""])[""]


# --- a copy made for speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tapped", [False, True])
@pytest.mark.parametrize("choice", CHOICES[1:], ids=str)
def test_the_copy_of_a_frozen_network_leaves_the_original_as_it_was(choice, tapped):
    original = wrapped(Residual(0)).eval()
    before, strides, logits = fingerprint(original.state_dict()), strides_of(original), original(images())
    copy = prepared_for(original, choice, frozen=True, tapped=tapped)
    run_network(copy, choice, images(), [""])
    assert copy is not original
    assert not {*copy.parameters()} & {*original.parameters()}
    assert (fingerprint(original.state_dict()), strides_of(original)) == (before, strides)
    assert torch.equal(original(images()), logits)
    taps = read(original, images(), ["stem", ""])
    assert torch.equal(taps["stem"], original.body.stem((images() - original.mean) / original.std))


def test_a_copy_is_in_eval_mode_even_if_the_original_is_not():
    original = Residual(0).train()
    copy = prepared_for(original, Execution(channels_last=True), frozen=True, tapped=False)
    assert every(not module.training for module in copy.modules())
    assert original.training
    with torch.no_grad():
        torch.testing.assert_close(copy(images()), original.eval()(images()), rtol=1e-4, atol=1e-4)


def test_norms_are_folded_into_the_convolutions_before_them():
    original = Residual(0).eval()
    copy = prepared_for(original, Execution(channels_last=True), frozen=True, tapped=False)
    assert every(not isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    by_hand = fuse_conv_bn_eval(original.stem, original.stem_norm)
    torch.testing.assert_close(copy.stem.weight, by_hand.weight)
    torch.testing.assert_close(copy.stem.bias, by_hand.bias)
    assert not copy.stem.weight.is_contiguous(), "it lies in the layout of the choice"


@pytest.mark.parametrize("make", [Residual, OneLayerTwice, Branching])
def test_a_copy_in_float32_says_the_same_to_1e_4(make):
    original = wrapped(make(0)).eval()
    with torch.no_grad():
        exact = original(images())
    error = (logits_by(original, Execution(channels_last=True)) - exact).abs().max()
    assert error <= 1e-4 * exact.abs().max()


def test_a_layer_with_a_hook_keeps_its_norm_apart():
    original = Residual(0).eval()
    original.stem.register_forward_hook(lambda module, inputs, output: output.tanh())
    with torch.no_grad():
        torch.testing.assert_close(logits_by(original, Execution(channels_last=True)), original(images()),
                                   rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_traced_is_only_copied():
    copy = prepared_for(Branching(0).eval(), Execution(channels_last=True), frozen=True, tapped=False)
    assert isinstance(copy, Branching)
    assert isinstance(copy.stem_norm, nn.BatchNorm2d)


def test_a_tapped_network_keeps_its_layers():
    original = Residual(0).eval()
    copy = prepared_for(original, FAST, frozen=True, tapped=True)
    expected = read(original, images(), ["point", ""])
    with torch.no_grad():
        found = run_network(copy, FAST, images(), ["point", ""])
    assert isinstance(copy.stem_norm, nn.BatchNorm2d)
    assert {tap: tensor.dtype for tap, tensor in found.items()} == {"point": torch.float32, "": torch.float32}
    for tap, tensor in found.items():
        torch.testing.assert_close(tensor, expected[tap], rtol=0.03, atol=0.03)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_gives_close_logits_in_float32(choice, frozen):
    original = wrapped(Residual(1)).eval()
    with torch.no_grad():
        exact = original(images())
    found = logits_by(original, choice, frozen=frozen)
    assert found.dtype == torch.float32
    limit = 0.03 if choice.bf16 else 1e-4
    assert (found - exact).abs().max() <= limit * exact.abs().max()
    if choice.bf16:
        assert not torch.equal(found, exact), "it did not compute in bfloat16"


def test_a_frozen_copy_in_bf16_keeps_its_weights_in_bf16_and_the_normalisation_of_images_in_float32():
    copy = prepared_for(wrapped(Residual(0)).eval(), FAST, frozen=True, tapped=False)
    assert {parameter.dtype for parameter in copy.body.parameters()} == {torch.bfloat16}
    assert copy.mean.dtype == copy.std.dtype == torch.float32


def test_what_learns_keeps_its_weights_in_float32_and_is_no_copy():
    student = Residual(0)
    assert prepared_for(student, FAST, frozen=False, tapped=False) is student
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_the_plain_choice_is_the_network_itself():
    original = Residual(0).eval()
    assert prepared_for(original, Execution(), frozen=True, tapped=False) is original


def test_a_layout_changes_where_numbers_lie_and_not_one_of_them():
    student = Residual(0)
    before, held = fingerprint(student.state_dict()), list(student.parameters())
    lay_out(student, Execution(channels_last=True))
    assert student.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert not student.stem.weight.is_contiguous()
    assert fingerprint(student.state_dict()) == before
    lay_out(student, Execution())
    assert student.stem.weight.is_contiguous()
    now = student.parameters()
    assert every(one is other for one, other in zip(held, now, strict=True)), "an optimizer holds these"


def test_images_come_in_the_layout_of_the_choice():
    seen = []

    class Looks(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
            return inputs.flatten(1)

    for choice in CHOICES:
        run_network(Looks(), choice, images(), [""])
    assert seen == [choice.channels_last for choice in CHOICES]
    assert run_network(nn.Linear(4, 2), Execution(channels_last=True), torch.zeros(3, 4), [""])[""].shape == (3, 2)


def test_compiling_is_asked_for_only_where_it_is_chosen_and_nothing_is_tapped(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: asked.append(options["options"]) or module)
    for choice in (Execution(compiled=True), Execution()):
        for tapped in (False, True):
            for frozen in (False, True):
                prepared_for(Residual(0).eval(), choice, frozen=frozen, tapped=tapped)
    assert asked == [None, {"freezing": True}]


@pytest.mark.parametrize(("graph", "tapped"), [
    (Graph({"t": Frozen(), "a": Trained()}, [Edge("t", "a", kl)]), {"t": False, "a": False}),
    (Graph({"t": Frozen(), "a": Trained()}, [Edge("t.0", "a.0", mse), Edge("t", "a", kl)]), {"t": True, "a": True}),
    (Graph({"t": Frozen(), "a": Trained(), "c": Computed(("t.0@v", "a"), lambda t, a: a)},
           [Edge("labels", "c", cross_entropy)]), {"t": True, "a": False}),
])
def test_a_network_is_tapped_if_an_edge_or_a_computed_node_reads_inside_it(graph, tapped):
    assert {node: is_tapped(graph, node) for node in tapped} == tapped


def test_without_a_measurement_a_cpu_computes_in_float32_unless_bf16_is_asked_for(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert default_executions("ab", "exact", cpu) == {"a": Execution(), "b": Execution()}
    assert default_executions("ab", "auto", cpu) == dict.fromkeys("ab", Execution(channels_last=True))
    assert default_executions("ab", "bf16", cpu) == dict.fromkeys("ab", Execution(bf16=True, channels_last=True))
    for has_it in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert default_executions("a", "auto", gpu) == {"a": Execution(bf16=has_it, channels_last=True)}


# --- training in another layout ----------------------------------------------------------------------------------

LAST = Execution(channels_last=True)


def grey(rows: int = 48) -> Data:
    return data(rows)


def colour(rows: int = 48) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 4
    pictures = (torch.rand(rows, 3, 8, 8, generator=generator) * 100 + labels[:, None, None, None] * 35).to(torch.uint8)
    return from_tensors((pictures, labels), validation=0.25, augment="crop-flip")


GRAPH = Graph({"t": Frozen(), "a": Trained(), "slow": Ema("a", 0.9)},
              [Edge("labels", "a", cross_entropy), Edge("t", "a", kl, 0.5, 4.0), Edge("slow", "a", kl, 0.2)])


def begin(choice: Execution, optimizer: object = SGD, graph: Graph = GRAPH, **options) -> Run:
    networks = {"t": Residual(1), "a": Residual(2)}
    return start(graph, {node: networks[node] for node in networks if node in graph.nodes}, colour(),
                 settings(optimizer=optimizer, **options), CPU, dict.fromkeys(["t", "a", "slow"], choice))


def finish(run: Run) -> dict[str, str]:
    for _ in steps_of(run):
        pass
    return {name: fingerprint(tensors) for name, tensors in capture(run).items()}


def interrupted(make: object, after: int, folder: object) -> dict[str, str]:
    """The end of a run that was saved to a disk after some steps, and went on in new objects."""
    first = make()
    for _ in steps_of(first):
        if first.step == after:
            break
    checkpoint.save(folder, first.step, capture(first), {"run": "r", "frozen": first.frozen, "best": {}, "scores": {}})
    second = make()
    manifest, state, damaged = checkpoint.newest(folder, "r")
    assert not damaged
    restore(second, manifest, state)
    return finish(second)


FUSED = {"SGD": SGD, "AdamW": partial(torch.optim.AdamW, lr=0.01),
         "Adam": partial(torch.optim.Adam, lr=0.01, amsgrad=True), "Adagrad": partial(torch.optim.Adagrad, lr=0.01)}


@pytest.mark.parametrize("optimizer", FUSED)
def test_a_run_with_channels_last_resumed_within_an_epoch_ends_with_the_same_bits(tmp_path, optimizer):
    make = partial(begin, LAST, FUSED[optimizer])
    assert make().optimizers["a"].defaults["fused"]
    assert interrupted(make, 2, tmp_path) == finish(make())


def test_a_momentum_restored_in_another_layout_than_its_weights_is_noticed(tmp_path, monkeypatch):
    """That the test above can fail: fused kernels walk through memory blindly."""
    right = finish(begin(LAST))

    def as_it_lies(optimizers, learners, state):
        load(optimizers, learners, state)
        for optimizer in optimizers.values():
            for slots in optimizer.state.values():
                slots["momentum_buffer"] = slots["momentum_buffer"].contiguous()

    load = checkpoint.load_optimizers
    monkeypatch.setattr(checkpoint, "load_optimizers", as_it_lies)
    assert interrupted(partial(begin, LAST), 2, tmp_path)["a"] != right["a"]


def test_what_is_saved_does_not_depend_on_the_layout(tmp_path):
    first, second = begin(LAST), begin(Execution())
    assert {name: fingerprint(tensors) for name, tensors in capture(first).items()} == {
        name: fingerprint(tensors) for name, tensors in capture(second).items()}


@pytest.mark.parametrize("choice", [Execution(), LAST], ids=str)
def test_fused_sgd_equals_sgd_by_hand_in_any_layout(choice):
    run = begin(choice, partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
                warmup_epochs=0, rate=lambda progress: 1 - progress)
    assert run.optimizers["a"].defaults["fused"]
    assert run.models["a"].stem.weight.is_contiguous() != choice.channels_last
    weights = {name: parameter.detach().double().clone() for name, parameter in run.models["a"].named_parameters()}
    momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step, _ in enumerate(steps_of(run)):
        for name, parameter in run.models["a"].named_parameters():
            gradient = parameter.grad.double() + 1e-3 * weights[name]
            momentum[name] = 0.9 * momentum[name] + gradient
            weights[name] = weights[name] - 0.05 * (1 - step / run.steps) * (gradient + 0.9 * momentum[name])
            torch.testing.assert_close(parameter.double(), weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", FUSED)
def test_both_layouts_train_to_nearly_the_same_weights(optimizer):
    one, other = begin(Execution(), FUSED[optimizer], epochs=1), begin(LAST, FUSED[optimizer], epochs=1)
    finish(one)
    finish(other)
    mine, theirs = (dict(run.models["a"].named_parameters()) for run in (one, other))
    for parameters in (mine, theirs):
        del parameters["depth.bias"]  # a norm takes it away again: its gradient is rounding alone
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_an_ema_node_follows_in_the_layout_of_what_it_follows():
    run = begin(LAST)
    average = {name: p.detach().double().clone() for name, p in run.models["slow"].named_parameters()}
    assert not run.models["slow"].stem.weight.is_contiguous()
    for update, _ in enumerate(steps_of(run), 1):
        decay = min(1 - 1 / (update + 1), 0.9)
        for name, followed in run.models["a"].named_parameters():
            average[name] = decay * average[name] + (1 - decay) * followed.detach().double()
            mine = run.models["slow"].get_parameter(name).double()
            torch.testing.assert_close(mine, average[name], rtol=1e-5, atol=1e-6)
    assert run.models["slow"].stem.weight.stride() == run.models["a"].stem.weight.stride()


@pytest.mark.parametrize("choice", [LAST, FAST], ids=str)
def test_a_run_keeps_the_bytes_of_its_teacher_whatever_copy_it_asks(choice):
    run = begin(choice)
    before = fingerprint(run.models["t"].state_dict())
    assert run.runners["t"] is not run.models["t"]
    finish(run)
    assert fingerprint(run.models["t"].state_dict()) == before == run.frozen["t"]
    assert run.models["t"].stem.weight.is_contiguous(), "the original stays in the layout that its hash was taken in"


def test_a_run_with_taps_and_parts_computes_in_bf16_and_channels_last():
    graph = Graph({"t": Frozen(), "a": Trained()}, [Edge("labels", "a", cross_entropy), Edge("t.stem", "a.stem", mse)])
    run = begin(FAST, graph=graph, epochs=1)
    finish(run)
    assert {parameter.dtype for parameter in run.models["a"].parameters()} == {torch.float32}
    assert every(parameter.isfinite().all() for parameter in run.models["a"].parameters())


def test_toy_networks_of_one_channel_train_in_channels_last_too():
    graph = Graph({"t": Frozen(), "a": Trained()}, [Edge("labels", "a", cross_entropy), Edge("t", "a", kl)])
    run = start(graph, {"t": network(1), "a": models()["a"]}, grey(), settings(1), CPU, {"t": LAST, "a": LAST})
    finish(run)
    assert every(parameter.isfinite().all() for parameter in run.models["a"].parameters())


def test_any_number_of_networks_is_compiled_in_one_process(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for number in range(torch._dynamo.config.recompile_limit + 1):
            body = nn.Sequential(nn.Conv2d(3, 4 + number, 3), nn.Flatten(), nn.Linear(36 * (4 + number), 4))
            whole = Network(body, Architecture("resnet8"), mean=(0.5,) * 3, std=(0.5,) * 3, channels=3,
                            body_classes=tuple("abcd"), columns=None).eval()
            expected = whole(images)
            compiled = prepared_for(whole, Execution(compiled=True), frozen=False, tapped=False)
            torch.testing.assert_close(compiled(images), expected)
