"""Text: rows of words and hidden pieces, what is said of slots and out of scope, and runs on made sentences."""

import math
import random
import signal
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from every import every
from tutelage.data.settings import DataSettings
from tutelage.engine.loop import start, steps_of
from tutelage.engine.settings import Settings
from tutelage.engine.train import train_in_folder
from tutelage.errors import DataError, Interrupted, ModelError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.graph.objective import losses
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.mutual import mutual
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.methods.scratch import scratch
from tutelage.models.text import sentence_encoder, word_encoder
from tutelage.runs import checkpoint
from tutelage.runs.folder import read_json
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.tasks.named import data_for, task_of
from tutelage.tasks.text.metrics import entities, entity_f1, said_right
from tutelage.tasks.text.rows import slots, words
from tutelage.tasks.text.task import SLOTS, WORDS, judge_of_sentences, judge_of_slots, judge_of_words, mean_over_places

CPU = World(torch.device("cpu"))
ADAM = partial(torch.optim.AdamW, lr=0.01)


# --- rows ------------------------------------------------------------------------------------------------------


def test_hidden_pieces_are_rows_and_places_without_one_do_not_count():
    logits = torch.zeros(1, 3, 10, dtype=torch.float64)
    logits[0, 0, 5], logits[0, 2, 7] = 2.0, 1.0
    graph = Graph({"student": Trained()}, WORDS.from_labels("student"))
    labels = torch.tensor([[5, -1, 7]])

    found = losses(graph, {"student": logits, "labels": labels}, labels)

    assert [float(value) for value in found.values()] == pytest.approx([1.1288819864], abs=1e-9)
    assert int(words.total(labels)) == 2


@pytest.mark.parametrize("task", [WORDS, SLOTS])
def test_a_batch_in_which_nothing_counts_costs_exactly_nothing(task):
    logits, none = torch.randn(2, 3, 4, requires_grad=True), torch.full((2, 3), -1)
    labels = none if task is WORDS else {"tags": none, "there": torch.zeros(2, 3).long()}
    ends = {"labels": labels} if task is WORDS else {f"labels.{name}": one for name, one in labels.items()}
    graph = Graph({"a": Trained(), "b": Trained()}, [*task.from_labels("a"), *task.from_network("b", "a")])

    found = losses(graph, {"a": logits, "b": torch.randn(2, 3, 4), **ends}, labels)

    assert every(float(value.detach()) == 0 for value in found.values())
    sum(found.values()).backward()
    assert not bool(logits.grad.any())


def test_a_word_without_a_tag_is_heard_from_a_teacher_and_learned_from_nothing():
    labels = {"tags": torch.tensor([[1, -1, -1]]), "there": torch.tensor([[1, 1, 0]])}
    rows = slots({"student": torch.randn(1, 3, 4)}, labels)

    assert rows.counts.tolist() == [1, 1, 0]
    assert cross_entropy(rows.values["student"], rows.labels)[1:].tolist() == [0, 0]


def test_a_network_that_says_one_thing_of_a_sentence_is_refused_for_its_words():
    with pytest.raises(ModelError, match="nothing of these places"):
        words({"student": torch.randn(2, 4)}, torch.zeros(2, 3).long())


# --- scores ----------------------------------------------------------------------------------------------------


def naive_entities(tags: list[str]) -> set[tuple[int, int, str]]:
    """Every stretch of words, asked one by one whether it is a slot: it begins one, goes on, and ends."""
    found = set()
    for begin in range(len(tags)):
        for end in range(begin + 1, len(tags) + 1):
            name = tags[begin][2:]
            begins = tags[begin][0] == "B" or (tags[begin][0] == "I" and (
                begin == 0 or tags[begin - 1] == "O" or tags[begin - 1][2:] != name))
            inside = [tag for tag in tags[begin + 1:end] if tag != f"I-{name}"]
            if begins and not inside and (end == len(tags) or tags[end] != f"I-{name}"):
                found.add((begin, end, name))
    return found


def random_tags(count: int) -> list[tuple[list[str], list[str]]]:
    draw = random.Random(0)
    names = ["O", "O", *(f"{mark}-{name}" for mark in "BI" for name in ("a", "b", "c"))]
    made = []
    for _ in range(count):
        true = [draw.choice(names) for _ in range(draw.randint(1, 9))]
        made.append((true, [tag if draw.random() < 0.85 else draw.choice(names) for tag in true]))
    return made


def test_slots_are_those_that_a_search_of_every_stretch_finds():
    pairs = random_tags(2000)
    assert every({*entities(tags)} == naive_entities(tags) for pair in pairs for tags in pair)
    right = sum(len(naive_entities(true) & naive_entities(said)) for true, said in pairs)
    there = sum(len(naive_entities(tags)) for pair in pairs for tags in pair)
    assert entity_f1(pairs) == pytest.approx(2 * right / there, abs=1e-12)
    assert 0.5 < entity_f1(pairs) < 0.9


@pytest.mark.skipif(find_spec("seqeval") is None, reason="seqeval is not installed")
def test_entity_f1_is_that_of_seqeval():
    from seqeval.metrics import f1_score  # pyright: ignore[reportMissingImports]

    true, said = zip(*random_tags(2000), strict=True)
    assert entity_f1(zip(true, said, strict=True)) == pytest.approx(f1_score([*true], [*said]), abs=1e-12)


def test_without_a_slot_there_is_no_f1():
    assert entity_f1([(["O", "O"], ["O", "O"])]) != entity_f1([(["O"], ["O"])])


def test_how_well_what_is_out_of_scope_is_told_apart_is_the_area_that_sklearn_gives():
    torch.manual_seed(0)
    logits, labels = torch.randn(290, 3).round(decimals=1), torch.cat([torch.arange(200) % 3, torch.full((90,), -1)])
    found = judge_of_sentences(3).summary({"logits": logits, "labels": labels})["oos_auroc"]
    sure = logits.double().softmax(-1).amax(-1)
    assert found == pytest.approx(roc_auc_score((labels >= 0).tolist(), sure), abs=1e-12)
    inside = {"logits": logits[:9], "labels": labels[:9]}
    assert math.isnan(judge_of_sentences(3).summary(inside)["oos_auroc"])


def test_a_sentence_out_of_scope_counts_by_how_sure_a_network_is_and_in_nothing_else():
    logits = torch.tensor([[4.0, 0.0], [0.0, 3.0], [0.5, 0.0]])
    judge = judge_of_sentences(2)
    found = judge.summary({"logits": logits, "labels": torch.tensor([0, 1, -1])})
    assert (found["top1"], found["macro_f1"], found["oos_auroc"]) == (1.0, 1.0, 1.0)
    turned = judge.summary({"logits": logits.flip(0), "labels": torch.tensor([0, 1, -1])})
    assert turned["oos_auroc"] == 0.0


def test_slots_are_judged_word_by_word_and_sentence_by_sentence():
    names = ("O", "B-a", "I-a")
    judge = judge_of_slots(names)
    tags = torch.tensor([[1, 2, 0], [1, 0, -1]])
    said = torch.tensor([[1, 2, 0], [0, 0, 2]])
    logits = torch.nn.functional.one_hot(said, 3).float()
    labels = {"tags": tags, "there": (tags >= 0).long()}
    seen = judge.measure({"": logits}, labels, torch.arange(2))
    found = judge.summary(seen)
    assert found["entity_f1"] == pytest.approx(2 * 1 / (2 + 1))
    assert found["tag_accuracy"] == pytest.approx(4 / 5)
    assert found["whole_sentences"] == 0.5
    assert judge.by_sample(seen).tolist() == [1.0, 0.5]
    assert judge.measure({"": logits[:, :2]}, labels, torch.arange(2)) is None


def test_hidden_words_are_judged_over_all_that_are_hidden():
    judge = judge_of_words(4)
    labels = torch.tensor([[2, 3], [1, -1]])
    logits = torch.nn.functional.one_hot(torch.tensor([[2, 0], [1, 1]]), 4).double()
    found = judge.summary(judge.measure({"": logits}, labels, torch.arange(2)))
    assert found["word_accuracy"] == pytest.approx(2 / 3)
    right, wrong = (-torch.tensor([1.0 - far, 0, 0, far], dtype=torch.float64).log_softmax(0)[0] for far in (0, 1))
    assert found["nll"] == pytest.approx((2 * right + wrong).item() / 3)


def test_nothing_to_judge_is_an_error():
    with pytest.raises(DataError, match="nothing to evaluate"):
        judge_of_words(4).summary({"said": torch.full((2, 1), -1), "tags": torch.full((2, 1), -1),
                                   "nll": torch.zeros(2)})
    assert bool(said_right(torch.full((1, 1), -1), torch.full((1, 1), -1)).isnan())


def test_a_mean_of_unlike_places_is_refused():
    with pytest.raises(ModelError, match="same places"):
        mean_over_places(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3))


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sentences", "slots", "words"])
def made(request):
    shares = {"generic": 0.5, "task": 0.5} if request.param == "words" else None
    return data_for(DataSettings("sentences", task=request.param, mixture=shares), quick=True)


def network(data, seed: int, **options) -> torch.nn.Module:
    torch.manual_seed(seed)
    make = sentence_encoder if task_of(data).name == "sentences" else word_encoder
    return make(len(data.classes), data.shape[0], width=8, depth=1, heads=2, **options)


@pytest.mark.parametrize("method", [
    lambda task: distill("t", "a", task=task), lambda task: mutual(["a", "b"], task=task),
    lambda task: dual_student("t", ["a", "b"], task=task), lambda task: peer_cohort("t", ["a", "b"], task=task)])
def test_each_method_teaches_every_student(made, method):
    graph = method(task_of(made))
    networks = {node: network(made, number) for number, node in enumerate(("t", "a", "b")) if node in graph.nodes}
    run = start(graph, networks, made, Settings(1, ADAM, batch_size=12), CPU)
    before = {node: fingerprint(run.models[node].state_dict()) for node in graph.named(Trained)}
    next(steps_of(run))

    assert every(value > 0 for value in run.means.read([edge.name for edge in graph.edges], 1).values())
    assert every(fingerprint(run.models[node].state_dict()) != before[node] for node in before)


def trained(folder: Path, data, stop: bool = False) -> dict[str, str]:
    graph = scratch("student", task=task_of(data))
    settings = Settings(2, ADAM, batch_size=16, checkpoint_steps=1)
    for _ in train_in_folder(folder, graph, {"student": network(data, 0)}, data, settings, CPU, tensorboard=False,
                             interrupted=lambda: signal.SIGINT if stop else 0):
        pass
    _, state, damaged = checkpoint.newest(folder / "checkpoints", read_json(folder / "run.json")["id"])
    assert not damaged
    return {name: fingerprint(tensors) for name, tensors in state.items()}


def test_a_run_that_is_stopped_within_and_after_an_epoch_has_the_bits_of_one_that_was_not(made, tmp_path):
    whole = trained(tmp_path / "whole", made)
    for _ in range(5):
        with pytest.raises(Interrupted):
            trained(tmp_path / "run", made, stop=True)
    assert trained(tmp_path / "run", made) == whole


@pytest.mark.parametrize("shares", [{"generic": 1.0}, {"generic": 0.7, "task": 0.3}, {"task": 1.0}])
def test_every_arm_takes_as_many_steps_from_the_same_first_weights(shares, tmp_path):
    data = data_for(DataSettings("sentences", task="words", mixture=shares), quick=True)
    graph = scratch("student", task=WORDS)
    run = start(graph, {"student": network(data, 0)}, data, Settings(1, ADAM, batch_size=16), CPU)
    assert (run.steps, data.shape[0]) == (8, data_for(DataSettings("sentences"), quick=True).shape[0])
    assert fingerprint(run.models["student"].state_dict()) == fingerprint(network(data, 0).state_dict())


def test_teacher_and_student_of_unlike_tokenizers_read_pieces_of_their_own():
    data = data_for(DataSettings("sentences", tokenizers={"other": "anywhere"}), quick=True)
    other = network(data, 1, tokenizer="other")
    (batch,) = data.train.batches([torch.arange(4)], draw=0)
    view = batch.inputs[""]
    assert set(view) == {"tokens", "tokens_other"}
    changed = {**view, "tokens": torch.zeros_like(view["tokens"])}
    own: Tensor = other.eval()(**view)
    assert torch.equal(own, other(**changed))
    assert not torch.equal(network(data, 1).eval()(**view), network(data, 1).eval()(**changed))
    run = start(distill("t", "a", task=task_of(data)), {"t": other, "a": network(data, 2)}, data,
                Settings(1, ADAM, batch_size=8), CPU)
    assert run.steps == 8
