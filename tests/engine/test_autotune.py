"""How networks compute is chosen by trying, once for each run; the trials leave nothing behind but the choice."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from every import every
from toys import SGD, data, models, network, settings
from tutelage.engine import autotune, train
from tutelage.engine.autotune import FEWEST, SHARE, SHORTEST, Tuned, begin, choose, from_json, tune
from tutelage.engine.dry_run import Prepared
from tutelage.engine.loop import check, start_prepared
from tutelage.engine.precision import Execution
from tutelage.engine.settings import Settings
from tutelage.engine.train import train_in_folder
from tutelage.errors import ModelError
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Ema, Frozen, Trained
from tutelage.models.dense_boxes import pack_places
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint

CPU = World(torch.device("cpu"))
PLAIN, LAST, BF16, BOTH = (Execution(bf16, last) for bf16 in (False, True) for last in (False, True))
GRAPH = Graph({"t": Frozen(), "a": Trained(), "slow": Ema("a", 0.9)},
              [Edge("labels", "a", cross_entropy), Edge("t", "a", kl), Edge("slow", "a", mse, 0.1)])
IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LONG = 10_000
"""Steps: of a tenth of a second each, a run of 1000 seconds."""


@pytest.fixture(autouse=True)
def memory(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    return tmp_path / "memory"


def prepared(given: Settings) -> Prepared:
    return check(GRAPH, models(), data(), given, CPU)


def networks() -> dict[str, nn.Module]:
    return {"t": network(1, width=6), "a": network(2), "slow": network(2)}


Asked = list[tuple[str, Execution]]


@pytest.fixture
def clock(monkeypatch) -> Callable[..., Asked]:
    """Every network takes the seconds told for its choice (0.1 if none is told), and a trial moves the only clock.

    The compiler gives back what it gets. What is made returns the list of all that was tried.
    """
    def make(told: dict[tuple[str, Execution], float] | None = None, trial: float = 0.1) -> Asked:
        asked: Asked = []
        now = SimpleNamespace(seconds=0.0)

        def seconds(graph, node, network, inputs, choice, count, fastest=None, *, recorded=False):
            asked.append((node, choice))
            now.seconds += trial
            found = (told or {}).get((node, choice), 0.1)
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(autotune, "_seconds", seconds)
        monkeypatch.setattr(autotune, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
        monkeypatch.setattr(torch, "compile", lambda function, **options: function)
        return asked

    return make


def tuned(steps: int = LONG, memory: Path | None = None, graph: Graph = GRAPH,
          held: dict[str, nn.Module] | None = None) -> Tuned:
    held = held or {node: net for node, net in networks().items() if node in graph.nodes}
    return tune(graph, held, IMAGES, steps, dict.fromkeys(held, PLAIN), memory)


def without_compiler(monkeypatch) -> None:
    def missing(*args, **options):
        raise RuntimeError("no compiler is here\nand more lines")

    monkeypatch.setattr(torch, "compile", missing)


ALONE = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)])


# --- what is chosen ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fastest", [PLAIN, LAST, BF16, BOTH], ids=str)
def test_the_fastest_choice_wins(clock, fastest):
    clock({("a", fastest): 0.06})
    assert tuned(4000, graph=ALONE).choices == {"a": fastest}


def test_each_network_gets_what_is_fastest_for_itself(clock, monkeypatch):
    monkeypatch.setattr(autotune, "_keeps_the_signal", lambda *args: True)
    asked = clock({("a", LAST): 0.03, ("t", BOTH): 0.02, ("t", LAST): 0.05})
    found = tuned(4000)
    assert found.choices == {"a": LAST, "t": BOTH, "slow": LAST}
    assert "slow" not in dict(asked), "an Ema node lies as what it follows"
    assert found.seconds["t"] == {"fp32, channels first": 0.1, "fp32, channels last": 0.05, "bf16, channels first": 0.1,
                                  "bf16, channels last": 0.02}


def sharp_teacher() -> nn.Module:
    """One whose logits are so large that bfloat16 moves them by more than they may."""
    teacher = network(1, width=6)
    with torch.no_grad():
        teacher[-1].weight.mul_(300)
    return teacher


def test_a_teacher_that_does_not_keep_its_signal_stays_exact_and_it_is_said_why(clock):
    clock({("t", BF16): 0.01, ("t", BOTH): 0.02, ("t", LAST): 0.03, ("a", BF16): 0.01})
    held = networks() | {"t": sharp_teacher()}
    found = tuned(4000, held=held)
    assert found.choices == {"t": LAST, "a": BF16, "slow": BF16}
    notes = [note for note in found.notes if note.startswith("t stays out of bf16: KL at T = 4 is ")]
    assert len(notes) == 1
    said = float(notes[0].split("KL at T = 4 is ")[1].split()[0])
    with torch.no_grad():
        teacher = held["t"].eval()
        exact = (teacher(IMAGES) / 4).log_softmax(-1)
        with torch.autocast("cpu", torch.bfloat16):
            other = (teacher(IMAGES).float() / 4).log_softmax(-1)
    assert said == pytest.approx(float((exact.exp() * (exact - other)).sum(-1).mean()), rel=0.5)
    assert said > autotune.SIGNAL_KL


def test_a_teacher_that_keeps_its_signal_may_be_fast(clock):
    clock({("t", BF16): 0.01})
    teacher = network(1, width=6)
    with torch.no_grad():
        teacher[-1].weight.mul_(0.01)
        teacher[-1].bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert tuned(4000, held=networks() | {"t": teacher}).choices["t"] == BF16


def test_a_kernel_that_is_missing_is_a_note_and_another_choice_is_taken(clock):
    clock({("a", BF16): RuntimeError("no such kernel\nTraceback"), ("a", LAST): 0.05})
    found = tuned(4000, graph=ALONE)
    assert found.choices == {"a": LAST}
    assert found.notes == ["a cannot run in bf16, channels first: no such kernel"]


# --- what is not tried -------------------------------------------------------------------------------------------


def test_in_a_run_shorter_than_two_minutes_nothing_is_tried(clock):
    steps = int(SHORTEST / 0.2) - 1
    asked = clock({("t", LAST): 0.01, ("a", LAST): 0.01})
    assert tuned(steps).choices == dict.fromkeys(["t", "a", "slow"], PLAIN)
    assert asked == [("t", PLAIN), ("a", PLAIN)], "one measurement says how long the run is"
    asked.clear()
    tuned(steps + 2)
    assert ("a", BOTH) in asked


def long_settings(**options):
    return settings(-(-FEWEST // 3) + 1, batch_size=12, **options)


@pytest.mark.parametrize(("options", "choice"), [
    ({"precision": "exact"}, PLAIN), ({"precision": "bf16"}, BOTH), ({"epochs": FEWEST // 3}, LAST)])
def test_nothing_is_measured_where_the_precision_is_told_or_the_run_has_few_steps(monkeypatch, options, choice):
    def never(*args):
        raise AssertionError("measured")

    monkeypatch.setattr(autotune, "_seconds", never)
    given = settings(options.pop("epochs"), **options) if "epochs" in options else long_settings(**options)
    steps = len(data().train.ids) // given.batch_size * given.epochs
    assert (steps < FEWEST) == (given.precision == "auto")
    found = choose(prepared(given), data(), given, CPU)
    assert found.choices == dict.fromkeys(["t", "a", "slow"], choice)
    assert not found.compiled_losses


def test_a_long_run_is_measured_with_the_images_of_one_micro_batch(monkeypatch):
    seen = []
    monkeypatch.setattr(autotune, "_seconds", lambda graph, node, network, inputs, *rest, **options:
                        seen.append(inputs.shape) or 0)
    choose(prepared(long_settings(accumulate=2)), data(), long_settings(accumulate=2), CPU)
    assert seen == [(6, 1, 8, 8)] * 2


def test_what_cannot_work_is_told_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(autotune, "_seconds", lambda *args: pytest.fail("measured"))
    with pytest.raises(ModelError, match="another number of classes"):
        choose(check(GRAPH, models() | {"t": network(1, classes=5)}, data(), long_settings(), CPU), data(),
               long_settings(), CPU)


def test_trials_stop_when_their_share_of_the_run_is_spent(clock):
    steps, trial = 4000, 15.0  # the run takes 800 s, so trials may take 40: after the first measurements hardly any
    asked = clock({("a", BOTH): 0.01, ("a", LAST): 0.09}, trial=trial)
    found = tuned(steps)
    allowed = SHARE * steps * 0.2
    tried = [choice for node, choice in asked if choice != PLAIN]
    assert len(tried) * trial <= allowed
    assert found.choices["a"] != BOTH
    asked.clear()
    asked = clock({("a", BOTH): 0.01})
    assert tuned(steps).choices["a"] == BOTH


def test_a_choice_that_is_far_slower_is_given_up_after_one_step(monkeypatch):
    steps = []
    monkeypatch.setattr(autotune, "_step", lambda *args, **options: steps.append(1))
    monkeypatch.setattr(autotune, "_now", lambda device: float(len(steps)))
    for fastest, taken in ((None, 4), (0.5, 4), (0.2, 1)):
        steps.clear()
        assert autotune._seconds(ALONE, "a", network(2), IMAGES, PLAIN, 3, fastest) == 1.0
        assert len(steps) == taken


# --- compiling ---------------------------------------------------------------------------------------------------


def test_a_compiler_that_is_missing_is_a_note_and_not_an_error(clock, monkeypatch):
    clock()
    without_compiler(monkeypatch)
    monkeypatch.setattr(autotune, "_seconds", compiling(tuning_seconds={PLAIN: 0.2}))
    found = tuned(LONG, graph=ALONE)
    assert found.choices == {"a": PLAIN}
    assert found.notes == ["a is not compiled: RuntimeError: no compiler is here",
                           "losses are not compiled: RuntimeError: no compiler is here"]
    assert not found.compiled_losses


def compiling(tuning_seconds: dict[Execution, float]) -> Callable:
    """Seconds as told; what is compiled goes to the compiler."""
    def seconds(graph, node, network, inputs, choice, count, fastest=None, *, recorded=False):
        if choice.compiled:
            torch.compile(network)
        return tuning_seconds.get(choice, 0.5)

    return seconds


@pytest.mark.parametrize(("compiled", "steps", "wins"), [
    (0.05, LONG, True), (0.0995, LONG, False), (0.05, 7_000, False)],
    ids=["much faster", "not worth the compiling", "a run too short"])
def test_a_network_is_compiled_if_the_run_is_long_and_it_pays(clock, compiled, steps, wins):
    asked = clock({("a", LAST): 0.1, ("a", PLAIN): 0.2, ("a", Execution(channels_last=True, compiled=True)): compiled},
                  trial=0.1)
    found = tuned(steps, graph=ALONE)
    assert found.choices == {"a": Execution(channels_last=True, compiled=wins)}
    assert {choice.compiled for _, choice in asked} == {False, steps == LONG}
    assert found.compiled_losses


def test_what_is_timed_is_what_the_run_will_do_its_recorded_steps(clock):
    clock(trial=0.1)
    asked = []
    original = autotune._seconds
    autotune._seconds = lambda *args, **options: asked.append(options["recorded"]) or original(*args)
    try:
        tune(ALONE, {"a": network(2)}, IMAGES, LONG, {"a": PLAIN}, recorded=True)
    finally:
        autotune._seconds = original
    assert every(asked)


@pytest.mark.parametrize(("device", "ranks", "accumulate", "precision", "may"), [
    ("cuda", 1, 1, "auto", True), ("cpu", 1, 1, "auto", False), ("cuda", 2, 1, "auto", False),
    ("cuda", 1, 2, "auto", False), ("cuda", 1, 1, "exact", False)])
def test_steps_are_recorded_on_one_gpu_where_a_step_has_one_backward(device, ranks, accumulate, precision, may):
    given = settings(accumulate=accumulate, precision=precision)
    assert autotune.records(World(torch.device(device), 0, ranks), given) is may


@pytest.mark.parametrize(("steps", "keeps", "best"), [
    (LONG, False, LAST), (LONG, True, BOTH), (10, False, LAST), (10, True, BOTH)],
    ids=["long", "long and as good", "short", "short and as good"])
def test_a_teacher_that_begins_in_bf16_leaves_it_if_it_says_something_else_there(clock, monkeypatch, steps, keeps,
                                                                                  best):
    clock({("t", BOTH): 0.05, ("t", LAST): 0.1, ("t", PLAIN): 0.2, ("t", BF16): 0.2})
    monkeypatch.setattr(autotune, "_keeps_the_signal", lambda tuned, graph, node, network, inputs, choice:
                        keeps or not choice.bf16)
    held = {"t": network(1), "a": network(2)}
    graph = Graph({"t": Frozen(), "a": Trained()}, [Edge("t", "a", kl)])
    assert tune(graph, held, IMAGES, steps, dict.fromkeys("ta", BOTH)).choices["t"] == best


def test_a_network_that_is_read_inside_is_not_compiled(clock):
    asked = clock(trial=0.1)
    nodes = {"a": Trained(), "inside": Computed(("a.0",), lambda x: x.flatten(1))}
    edges = [Edge("labels", "a", cross_entropy), Edge("ids", "inside", lambda s, i, y: s.sum(-1))]
    tuned(LONG, graph=Graph(nodes, edges), held={"a": network(2)})
    assert every(not choice.compiled for _, choice in asked)


def test_an_ema_node_is_never_compiled(clock):
    clock({("a", Execution(compiled=True)): 0.01})
    found = tuned(LONG)
    assert (found.choices["a"], found.choices["slow"]) == (Execution(compiled=True), PLAIN)


def test_a_run_whose_compiler_has_gone_since_goes_on_without_it_and_says_so(monkeypatch, caplog):
    without_compiler(monkeypatch)
    held = Tuned(dict.fromkeys(["t", "a", "slow"], Execution(channels_last=True, compiled=True)), compiled_losses=True)
    run = begin(prepared(long_settings()), data(), long_settings(), CPU, held)
    assert run.choices == dict.fromkeys(["t", "a", "slow"], LAST) == held.choices
    assert not held.compiled_losses
    assert [record.message for record in caplog.records] == [
        "note: nothing is compiled: RuntimeError: no compiler is here"]


# --- the memory of this machine ----------------------------------------------------------------------------------


def test_a_remembered_choice_is_used_without_a_trial(clock, memory):
    asked = clock({("a", LAST): 0.05})
    first = tuned(4000, memory)
    assert (LAST, first.choices["a"]) == (first.choices["slow"], LAST)
    asked.clear()
    clock({("a", BOTH): 0.01})
    assert tuned(4000, memory).choices == first.choices
    assert ("a", BOTH) not in asked


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"7", b"null", b'{"bf17": true}', b"\xff\xfe\x00", b'"text"'])
def test_a_damaged_memory_is_found_again(clock, memory, damage):
    clock({("a", LAST): 0.05})
    tuned(4000, memory, ALONE)
    (path,) = (memory / "choices").iterdir()
    path.write_bytes(damage)
    clock({("a", BOTH): 0.05})
    assert tuned(4000, memory, ALONE).choices == {"a": BOTH}
    assert json.loads(path.read_bytes()) == {"bf16": True, "channels_last": True, "compiled": False}


@pytest.mark.parametrize("other", ["machine", "inputs", "kind", "shape"])
def test_a_choice_is_remembered_for_this_machine_these_images_and_this_network(clock, memory, monkeypatch, other):
    clock({("a", LAST): 0.05})
    tuned(4000, memory, ALONE)
    clock({("a", BOTH): 0.05})
    images, held, graph = IMAGES, network(2), ALONE
    if other == "machine":
        monkeypatch.setattr(autotune, "describe_machine", lambda device: "another one")
    elif other == "inputs":
        images = IMAGES[:4]
    elif other == "shape":
        held = network(2, width=5)
    else:
        monkeypatch.setattr(autotune, "_keeps_the_signal", lambda *args: True)
        graph = Graph({"a": Frozen(), "b": Trained()}, [Edge("a", "b", kl)])
    held = {"a": held, "b": network(3, width=3)} if other == "kind" else {"a": held}
    assert tune(graph, held, images, 4000, dict.fromkeys(held, PLAIN), memory).choices["a"] == BOTH
    assert len(list((memory / "choices").iterdir())) == (3 if other == "kind" else 2)


def test_a_choice_of_one_teacher_says_nothing_of_another_teachers_signal(clock, memory):
    clock({("t", BF16): 0.01})
    kind = networks()["t"]
    with torch.no_grad():
        kind[-1].weight.mul_(0.01)
        kind[-1].bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert tuned(4000, memory, held=networks() | {"t": kind}).choices["t"] == BF16
    assert tuned(4000, memory, held=networks() | {"t": sharp_teacher()}).choices["t"] == PLAIN


def test_a_memory_that_cannot_be_written_does_not_matter(clock, memory):
    memory.parent.mkdir(exist_ok=True)
    memory.write_text("a file where the folder should be")
    clock({("a", LAST): 0.05})
    assert tuned(4000, memory, ALONE).choices == {"a": LAST}


def test_a_full_disk_does_not_matter(clock, memory, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    clock({("a", LAST): 0.05})
    assert tuned(4000, memory, ALONE).choices == {"a": LAST}
    assert list((memory / "choices").iterdir()) == []


def test_without_a_memory_nothing_is_written(clock, memory):
    clock()
    tuned(4000)
    assert not memory.exists()


@pytest.mark.parametrize(("variables", "folder"), [
    ({"TUTELAGE_CACHE": "/x/y"}, "/x/y"), ({"XDG_CACHE_HOME": "/x"}, "/x/tutelage"),
    ({"HOME": "/h"}, "/h/.cache/tutelage")])
def test_the_memory_lies_where_the_user_says_or_in_the_cache_folder(monkeypatch, variables, folder):
    for name in ("TUTELAGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(autotune.memory_folder()) == folder


# --- nothing is left behind --------------------------------------------------------------------------------------


def everything_of(held: dict[str, nn.Module]) -> list:
    return [(node, name, fingerprint({"": tensor}), tensor.stride(), tensor.data_ptr())
            for node, net in held.items() for name, tensor in net.state_dict().items()] + [
        (node, name, module.training, len(module._forward_hooks)) for node, net in held.items()
        for name, module in net.named_modules()] + [
        (node, name, None if weight.grad is None else fingerprint({"": weight.grad}), weight.requires_grad)
        for node, net in held.items() for name, weight in net.named_parameters()]


def test_real_trials_leave_networks_their_statistics_modes_gradients_and_the_random_numbers_as_they_were(monkeypatch):
    without_compiler(monkeypatch)
    held = networks()
    held["t"].train()
    held["t"][1].eval()
    held["a"].eval()
    held["a"][3].train()
    held["a"](IMAGES).sum().backward()
    torch.manual_seed(7)
    before, numbers = everything_of(held), torch.get_rng_state()
    found = tuned(10**9, held=held)
    assert len(found.seconds["t"]) == len(found.seconds["a"]) == 4
    assert [note for note in found.notes if "compiled" in note]
    assert everything_of(held) == before
    assert torch.equal(torch.get_rng_state(), numbers)


def test_choosing_for_a_whole_run_leaves_networks_and_random_numbers_as_they_were(monkeypatch):
    without_compiler(monkeypatch)
    monkeypatch.setattr(autotune, "SHORTEST", 0.0)
    held = models()
    torch.manual_seed(7)
    before, numbers = everything_of(held), torch.get_rng_state()
    found = choose(check(GRAPH, held, data(), long_settings(), CPU), data(), long_settings(), CPU)
    assert len(found.seconds["a"]) >= 1
    assert everything_of(held) == before
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_trial_of_a_student_learns_and_one_of_a_teacher_does_not(monkeypatch):
    seen = []

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return images.flatten(1)[:, :4] * self.weight

    for node, expected in (("t", (False, False)), ("a", (True, True))):
        seen.clear()
        autotune._seconds(GRAPH, node, Looks(), IMAGES, PLAIN, 2)
        assert seen == [expected] * 3


# --- a run folder says how it computes ---------------------------------------------------------------------------


def test_what_was_tuned_is_the_same_after_json():
    found = Tuned({"a": BOTH, "t": Execution(compiled=True)}, compiled_losses=True,
                  seconds={"a": {str(BOTH): 0.1}}, notes=["why"])
    assert from_json(json.loads(json.dumps(found.as_json()))) == found
    assert from_json(json.loads(json.dumps(Tuned({}).as_json()))) == Tuned({})


def train_to(folder: Path, monkeypatch, choice: Execution,
             after: int | None = None) -> tuple[list[str], dict[str, nn.Module]]:
    """Train in a folder while tuning would choose `choice`; how runs were started, and the networks."""
    started: list[str] = []

    def spied(*args, **options):
        run = start_prepared(*args, **options)
        started.append(str(run.choices["a"]))
        return run

    monkeypatch.setattr(autotune, "start_prepared", spied)
    monkeypatch.setattr(train, "choose", lambda *args: Tuned(dict.fromkeys(["t", "a", "slow"], choice)))
    held = models()
    events = train_in_folder(folder, GRAPH, held, data(), settings(3, optimizer=SGD), CPU, tensorboard=False)
    for event in events:
        if event is not None and after is not None and getattr(event, "number", 0) == after:
            break
    events.close()
    return started, held


def test_a_run_folder_keeps_its_choice_whatever_tuning_would_say_later(tmp_path, monkeypatch):
    straight = train_to(tmp_path / "straight", monkeypatch, LAST)
    assert train_to(tmp_path / "run", monkeypatch, LAST, after=1)[0] == [str(LAST)]
    path = tmp_path / "run" / "tuning.json"
    written = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
    assert from_json(json.loads(written[0])).choices == dict.fromkeys(["t", "a", "slow"], LAST)
    started, held = train_to(tmp_path / "run", monkeypatch, BOTH)
    assert started == [str(LAST)]
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == written
    assert {node: fingerprint(held[node].state_dict()) for node in held} == {
        node: fingerprint(straight[1][node].state_dict()) for node in held}


def test_the_run_says_in_its_records_how_it_computes(tmp_path, monkeypatch):
    train_to(tmp_path, monkeypatch, LAST)
    first = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    assert first["computed"] == dict.fromkeys(["t", "a", "slow"], str(LAST))


def test_a_detector_says_the_same_where_its_classes_are_as_likely_and_its_boxes_where_they_were():
    generator = torch.Generator().manual_seed(0)
    logits, distances = (torch.randn(2, 5, count, generator=generator) for count in (3, 4))
    said = pack_places(torch.ones(5, 4), distances.exp(), torch.zeros(2, 5), logits)
    assert autotune._alike(said, said) == (0.0, 1.0)
    larger = pack_places(torch.ones(5, 4), 1.5 * distances.exp(), torch.zeros(2, 5), logits)
    assert autotune._alike(said, larger) == (0.0, 0.0)
    surer = pack_places(torch.ones(5, 4), distances.exp(), torch.zeros(2, 5), logits + 1)
    p, q = ((rows / 4).sigmoid() for rows in (logits, logits + 1))
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean().item()
    assert autotune._alike(said, surer) == (pytest.approx(by_hand, rel=1e-4), 1.0)
