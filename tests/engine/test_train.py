"""The engine: what a step does, and that a run goes on to the same bits from wherever it was stopped."""

import signal
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

import tutelage
from every import every
from toys import SGD, data, everything, models, network, run
from tutelage import Computed, Edge, Ema, Frozen, Graph, Trained
from tutelage.data import from_tensors
from tutelage.engine import python_config
from tutelage.engine.loop import mean_losses, steps_of
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings
from tutelage.engine.state import capture, restore
from tutelage.engine.train import load, train_in_folder
from tutelage.errors import DataError, Interrupted, ModelError, NumericError, UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.methods.dual_student import dual_student
from tutelage.runs.checkpoint import named_state
from tutelage.runs.folder import finished, read_records
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint, pack, unpack

CPU = World(torch.device("cpu"))


def finish(run: Run) -> Run:
    for _ in steps_of(run):
        pass
    return run


def digest(run: Run) -> dict[str, str]:
    return {name: fingerprint(tensors) for name, tensors in capture(run).items()}


def stopped_and_resumed(after: int, drop: str | None = None) -> dict[str, str]:
    """A run saved after `after` steps, through bytes, into fresh objects; `drop` loses one file of the state."""
    first = run()
    for _ in steps_of(first):
        if first.step == after:
            break
    state = {name: unpack(pack(tensors), name)[0] for name, tensors in capture(first).items()}
    second = run()
    if drop is not None:
        state[drop] = capture(second)[drop]
    restore(second, {"frozen": first.frozen, "best": {}, "step": first.step, "scores": first.scores}, state)
    return digest(finish(second))


WHOLE = digest(finish(run()))


@pytest.mark.parametrize("after", range(1, 9))
def test_a_run_resumed_after_any_step_ends_with_the_same_bits(after):
    assert stopped_and_resumed(after) == WHOLE


@pytest.mark.parametrize("lost", ["a", "slow", "stale", "run.parts", "run.controllers", "run.optimizers"])
def test_each_piece_of_state_that_is_lost_is_noticed(lost):
    assert stopped_and_resumed(4, drop=lost) != WHOLE


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    assert digest(finish(run())) == WHOLE
    assert digest(finish(run(seed=1))) != WHOLE


def test_what_the_user_draws_from_the_global_generator_changes_nothing():
    torch.manual_seed(123)
    job = run()
    for _ in steps_of(job):
        torch.rand(3)
    assert digest(job) == WHOLE


def test_a_student_without_peers_is_bit_identical_whether_or_not_the_other_exists():
    both = finish(run(dual_student("t", ["a", "b"], peers="none"), models()))
    alone = Graph({"t": Frozen(), "a": Trained()},
                  [edge for edge in dual_student("t", ["a", "b"], peers="none").edges if edge.student == "a"])
    only = finish(run(alone, {name: net for name, net in models().items() if name != "b"}))
    assert digest(both)["a"] == digest(only)["a"]


def test_the_order_of_students_changes_nothing():
    one = digest(finish(run(dual_student("t", ["a", "b"]), models())))
    other = digest(finish(run(dual_student("t", ["b", "a"]), models())))
    assert (one["a"], one["b"]) == (other["a"], other["b"])


def test_a_frozen_teacher_keeps_its_bytes_and_stays_in_eval_mode():
    networks = models()
    before = fingerprint(networks["t"].state_dict())
    job = run(dual_student("t", ["a", "b"]), networks)
    for _ in steps_of(job):
        assert not networks["t"].training
        assert networks["a"].training
    assert fingerprint(networks["t"].state_dict()) == before
    assert every(parameter.grad is None for parameter in networks["t"].parameters())


def test_the_graph_you_hold_never_learns():
    graph = everything()
    finish(run(graph))
    assert graph.nodes["gate"].by.linear.has_uninitialized_params()
    assert graph.edges[4].divergence.calls == 0
    assert graph.controllers["switch"].seen == 0
    assert graph.edges[7].divergence.projection is None


def test_one_step_equals_a_hand_written_one():
    networks = {"t": network(1, norm=False), "a": network(2, norm=False)}
    by_hand = network(2, norm=False)
    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    graph = Graph({"t": Frozen(), "a": Trained()},
                  [Edge("labels", "a", cross_entropy, weight=0.3), Edge("t", "a", kl, weight=0.7, temperature=4.0)])
    job = run(graph, networks, epochs=1, warmup_epochs=0, rate=lambda progress: 1.0)
    seen = []
    source = job.data.train
    batches = source.batches

    class Spy:
        ids, labels = source.ids, source.labels

        def batches(self, plan, *, draw, views=("",)):
            for batch in batches(plan, draw=draw, views=views):
                seen.append(batch)
                yield batch
    object.__setattr__(job.data, "train", Spy())
    next(steps_of(job))
    images, labels, _ = seen[0]
    logits, target = by_hand(images), networks["t"](images).detach()
    hinton = nn.functional.kl_div((logits / 4).log_softmax(1), (target / 4).softmax(1), reduction="batchmean") * 16
    (0.3 * nn.functional.cross_entropy(logits, labels) + 0.7 * hinton).backward()
    sgd.step()
    for mine, theirs in zip(networks["a"].parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    whole = run(dual_student("t", ["a", "b"]), models(norm=False), epochs=1)
    parts = run(dual_student("t", ["a", "b"]), models(norm=False), epochs=1, accumulate=4)
    next(steps_of(whole))
    next(steps_of(parts))
    for node in ("a", "b"):
        for one, other in zip(whole.models[node].parameters(), parts.models[node].parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)
    # Losses near 0 are differences of numbers near 1, in float32.
    assert mean_losses(parts) == pytest.approx(mean_losses(whole), rel=1e-6, abs=1e-9)


def test_an_ema_node_follows_by_the_warmed_up_decay():
    job = run(Graph({"a": Trained(), "slow": Ema("a", 0.8)}, [Edge("labels", "a", cross_entropy)]), models())
    average = [parameter.detach().clone().double() for parameter in job.models["slow"].parameters()]
    for update, _ in enumerate(steps_of(job), 1):
        decay = min(1 - 1 / (update + 1), 0.8)
        average = [decay * old + (1 - decay) * new.detach().double()
                   for old, new in zip(average, job.models["a"].parameters(), strict=True)]
        for mine, theirs in zip(average, job.models["slow"].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.double(), rtol=1e-5, atol=1e-6)


def test_an_ema_node_that_no_edge_reads_takes_over_the_statistics_of_what_it_follows():
    job = finish(run(Graph({"a": Trained(), "slow": Ema("a", 0.8)}, [Edge("labels", "a", cross_entropy)]), models()))
    assert torch.equal(job.models["slow"][1].running_mean, job.models["a"][1].running_mean)


def test_a_stale_copy_changes_only_every_kth_step():
    job = run(Graph({"a": Trained(), "b": Trained(), "stale": Ema("a", 0.0, every=2)},
                    [Edge("labels", "a", cross_entropy), Edge("stale", "b", kl)]), models())
    weights = []
    for _ in steps_of(job):
        weights.append(fingerprint(dict(job.models["stale"].named_parameters())))
        if job.step % 2 == 0:
            assert weights[-1] == fingerprint(dict(job.models["a"].named_parameters()))
    assert weights[1] == weights[2] != weights[3]


def test_a_node_that_no_live_edge_reaches_is_not_stepped_at_all():
    def late(progress: float) -> float:
        return float(progress >= 0.5)
    graph = Graph({"a": Trained(), "b": Trained()},
                  [Edge("labels", "a", cross_entropy), Edge("labels", "b", cross_entropy, weight=late)])
    job = run(graph, models(), epochs=2, warmup_epochs=0)
    untouched = fingerprint(job.models["b"].state_dict())
    for _ in steps_of(job):
        if job.step <= job.steps // 2:
            assert fingerprint(job.models["b"].state_dict()) == untouched
            assert not job.optimizers["b"].state
    assert fingerprint(job.models["b"].state_dict()) != untouched


def test_a_step_without_a_live_edge_is_skipped():
    graph = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy, weight=lambda progress: 0.0)])
    job = run(graph, models())
    before = fingerprint(job.models["a"].state_dict())
    finish(job)
    assert fingerprint(job.models["a"].state_dict()) == before


def test_the_learning_rate_is_a_function_of_the_step():
    job, rates = run(Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)]), models(),
                     rate=lambda progress: 1 - progress), []
    for _ in steps_of(job):
        rates.append(job.optimizers["a"].param_groups[0]["lr"] / 0.05)
    per_epoch = job.steps_per_epoch
    warm = [(k + 1) / per_epoch for k in range(per_epoch)]
    rest = [1 - k / (2 * per_epoch) for k in range(2 * per_epoch)]
    assert rates == pytest.approx(warm + rest)


def test_clipping_bounds_each_network_by_itself():
    job = run(dual_student("t", ["a", "b"]), models(), clip_norm=1e-3)
    next(steps_of(job))
    for node in ("a", "b"):
        norm = torch.stack([p.grad.norm() for p in job.models[node].parameters()]).norm()
        assert norm <= 1e-3 * 1.001


def test_bf16_keeps_losses_and_weights_in_float32():
    job = finish(run(dual_student("t", ["a", "b"]), models(), precision="bf16", epochs=1))
    assert {p.dtype for p in job.models["a"].parameters()} == {torch.float32}
    assert digest(job)["a"] != digest(finish(run(dual_student("t", ["a", "b"]), models(), epochs=1)))["a"]


@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "RMSprop", "Adagrad", "NAdam", "Adadelta"])
def test_any_torch_optimizer_resumes_to_the_same_bits(optimizer):
    make = partial(vars(torch.optim)[optimizer], lr=0.01)
    graph = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)])
    whole = digest(finish(run(graph, models(), optimizer=make)))
    first = run(graph, models(), optimizer=make)
    for _ in steps_of(first):
        if first.step == 4:
            break
    state = {name: unpack(pack(tensors), name)[0] for name, tensors in capture(first).items()}
    second = run(graph, models(), optimizer=make)
    restore(second, {"frozen": {}, "best": {}, "step": 4, "scores": {}}, state)
    assert digest(finish(second)) == whole


def test_an_optimizer_by_name_and_a_recipe_for_the_rest():
    job = run(optimizer={"a": partial(torch.optim.AdamW, lr=0.01), "": SGD})
    assert isinstance(job.optimizers["a"], torch.optim.AdamW)
    assert isinstance(job.optimizers["gate"], torch.optim.SGD)


def test_a_network_that_gives_nan_stops_the_run_before_a_weight_is_touched():
    networks = models()
    with torch.no_grad():
        networks["t"][0].weight[0] = float("nan")
    job = run(Graph({"t": Frozen(), "a": Trained()}, [Edge("t", "a", kl)]), networks)
    parameters = fingerprint(dict(networks["a"].named_parameters()))
    with pytest.raises(NumericError, match="outputs of t for samples") as error:
        next(steps_of(job))
    assert error.value.where == "step 0"
    assert fingerprint(dict(networks["a"].named_parameters())) == parameters


def test_mixed_labels_train_and_resume():
    mixed = partial(run, dual_student("t", ["a", "b"]))
    one = digest(finish(mixed(models(), data=data(mixup=0.4, cutmix=1.0))))
    assert one == digest(finish(mixed(models(), data=data(mixup=0.4, cutmix=1.0))))
    assert one != digest(finish(mixed(models())))


def test_two_views_are_drawn_apart_and_both_are_used():
    graph = Graph({"a": Trained(), "slow": Ema("a", 0.9)},
                  [Edge("labels", "a@one", cross_entropy), Edge("slow@two", "a@one", kl)])
    epoch = next(event for event in steps_of(run(graph, models())) if event)
    assert set(epoch.losses) == {"labels->a@one:cross_entropy", "slow@two->a@one:kl"}


def test_train_yields_epochs_and_learns():
    epochs = list(tutelage.train(Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)]), models(), data(200),
                                 epochs=15, optimizer=SGD, batch_size=10))
    assert [epoch.number for epoch in epochs] == list(range(1, 16))
    assert epochs[-1].accuracy["a"] > 0.9
    assert epochs[-1].losses["labels->a:cross_entropy"] < epochs[0].losses["labels->a:cross_entropy"]
    assert str(epochs[0]).startswith("epoch 1")


def train_in(folder, epochs=3, **options):
    networks = models()
    return networks, tutelage.train(everything(), networks, data(), epochs=epochs, optimizer=SGD, batch_size=12,
                                    out=folder, **options)


def test_a_loop_that_breaks_off_leaves_networks_to_load_and_a_run_to_resume(tmp_path):
    networks, epochs = train_in(tmp_path / "a")
    seen = []
    for epoch in epochs:
        seen.append(epoch)
        if epoch.number == 2:
            break
    del epochs
    net, classes = load(tmp_path / "a", "a", into=network(9))
    assert classes == ("0", "1", "2", "3")
    assert fingerprint(net.state_dict()) == fingerprint(networks["a"].state_dict())
    assert not (tmp_path / "a" / "FINISHED").exists()
    again, epochs = train_in(tmp_path / "a")
    replayed = list(epochs)
    assert replayed[:2] == seen
    assert len(replayed) == 3
    straight, epochs = train_in(tmp_path / "b")
    list(epochs)
    assert fingerprint(again["b"].state_dict()) == fingerprint(straight["b"].state_dict())
    names = [(tmp_path / run / "FINISHED").read_text() for run in "ab"]
    assert names[0] == names[1]


def test_a_finished_run_gives_its_epochs_and_weights_back_without_training(tmp_path):
    first, epochs = train_in(tmp_path)
    told = list(epochs)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.safetensors"))
    second, epochs = train_in(tmp_path)
    assert list(epochs) == told
    assert fingerprint(second["a"].state_dict()) == fingerprint(first["a"].state_dict())
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.safetensors")) == before


def test_another_run_or_another_teacher_in_the_same_folder_is_refused(tmp_path):
    _, epochs = train_in(tmp_path)
    next(epochs)
    epochs.close()
    with pytest.raises(UsageError, match="another run"):
        next(train_in(tmp_path, epochs=4)[1])
    networks = models()
    with torch.no_grad():
        networks["t"][0].weight.add_(1)
    with pytest.raises(ModelError, match="another teacher"):
        next(tutelage.train(everything(), networks, data(), epochs=3, optimizer=SGD, batch_size=12, out=tmp_path))


def test_a_run_from_python_goes_on_where_an_older_version_did_not_know_every_setting(tmp_path, monkeypatch):
    described = python_config.described

    def older(*words: object) -> str:
        return "".join(line for line in described(*words).splitlines(keepends=True) if not line.startswith("cache"))

    with monkeypatch.context() as old:
        old.setattr(python_config, "described", older)
        next(train_in(tmp_path)[1])
    assert "cache" not in (tmp_path / "config.toml").read_text()
    with pytest.raises(UsageError, match="another run"):
        next(train_in(tmp_path, cache_gib=1.0)[1])
    assert len(list(train_in(tmp_path)[1])) == 3
    assert "cache" not in (tmp_path / "config.toml").read_text()


def test_best_keeps_the_weights_with_the_best_validation_accuracy(tmp_path):
    networks, epochs = train_in(tmp_path, best=True, epochs=6)
    kept = {}
    for epoch in epochs:
        for node in ("a", "b"):
            if epoch.accuracy[node] > kept.get(node, (-1.0, ""))[0]:
                kept[node] = (epoch.accuracy[node], fingerprint(networks[node].state_dict()))
    for node in ("a", "b"):
        net, _ = load(tmp_path, node, into=network(9, width={"a": 4, "b": 5}[node]))
        assert fingerprint(net.state_dict()) == kept[node][1]


def test_a_balanced_run_that_is_broken_off_within_an_epoch_goes_on_to_the_same_bits(tmp_path):
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 8 + [3] * 4)
    unequal = from_tensors((images, labels), (images[:8], labels[:8]), augment="crop-flip", balance="uniform")
    graph = Graph({"a": Trained()}, [Edge("labels", "a", partial(cross_entropy, logit_adjustment=0.5))])
    words = Settings(2, SGD, batch_size=8, precision="exact")

    def trained(folder: Path, stop: int = 0) -> str:
        """The weights at the end, or where the run was interrupted."""
        net, steps = network(0), count(1)
        with suppress(Interrupted):
            for _ in train_in_folder(folder, graph, {"a": net}, unequal, words, CPU, tensorboard=False,
                                     interrupted=lambda: signal.SIGINT if next(steps) == stop else 0):
                pass
        return fingerprint(net.state_dict())

    whole = trained(tmp_path / "whole")
    for stop in (5, 11):
        assert trained(tmp_path / f"{stop}", stop) != whole
        assert (tmp_path / f"{stop}" / "checkpoints" / f"step-{stop:08d}").exists()
        assert trained(tmp_path / f"{stop}") == whole


@pytest.mark.parametrize(("score", "better"), [("top1", max), ("balanced_accuracy", max), ("nll", min), ("ece", min)])
def test_best_keeps_the_weights_that_the_named_score_prefers(tmp_path, score, better):
    networks, epochs = train_in(tmp_path, best=score, epochs=4)
    seen = {"a": {}, "b": {}}
    for _ in epochs:
        (record,) = [line for line in read_records(tmp_path) if line["event"] == "epoch"][-1:]
        for node, weights in seen.items():
            value = record["metrics"]["nodes"][node][score]
            weights.setdefault(value, fingerprint(networks[node].state_dict()))
    for node, weights in seen.items():
        net, _ = load(tmp_path, node, into=network(9, width={"a": 4, "b": 5}[node]))
        assert fingerprint(net.state_dict()) == weights[better(weights)]
        assert finished(tmp_path)["metrics"]["nodes"][node][score] == better(weights)


def test_best_by_a_score_that_there_is_not_names_those_there_are():
    with pytest.raises(UsageError, match=r"unknown score 'top-1'[\s\S]*balanced_accuracy"):
        run(best="top-1")


@pytest.mark.parametrize(("options", "error", "says"), [
    ({"epochs": 0}, UsageError, "epochs out of range"),
    ({"batch_size": 1000}, DataError, "fewer training images than one batch"),
    ({"accumulate": 5}, UsageError, "shared out evenly"),
    ({"accumulate": 12}, UsageError, "BatchNorm needs two images"),
    ({"warmup_epochs": 3}, UsageError, "warm-up"),
    ({"clip_norm": 0.0}, UsageError, "norm to clip"),
    ({"precision": "fp8"}, UsageError, "unknown precision"),
    ({"optimizer": {"c": SGD}}, UsageError, "unknown trained node or part 'c'"),
    ({"optimizer": {"a": SGD}}, UsageError, "no optimizer for 'b'"),
])
def test_settings_that_cannot_work_are_told_at_the_door(options, error, says):
    with pytest.raises(error, match=says):
        run(**options)


def test_networks_that_are_missing_or_shared_are_told_at_the_door():
    with pytest.raises(UsageError, match="unknown network 'b'"):
        run(everything(), {"t": network(1), "a": network(2)})
    shared = network(2)
    with pytest.raises(ModelError, match="two nodes share weights"):
        run(dual_student("t", ["a", "b"]), {"t": network(1), "a": shared, "b": shared})


def test_parts_are_the_same_whatever_else_the_graph_holds():
    job = run()
    smaller = Graph({"a": Trained(), "b": Trained(), "gate": Computed(("a", "b"), type(job.graph.nodes["gate"].by)())},
                    [Edge("labels", "gate", cross_entropy)])
    other = run(smaller, models())
    mine = {name: value for name, value in named_state(job.graph.parts()).items() if name.startswith("gate")}
    assert fingerprint(mine) == fingerprint(named_state(other.graph.parts()))
