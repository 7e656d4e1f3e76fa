"""A network that is at chance, or says one class for everything, is marked wherever it is spoken of."""

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tutelage import Edge, Graph, Trained, train
from tutelage.cli.results import evaluation_text
from tutelage.cli.terminal import show_checks
from tutelage.data import Data, from_tensors
from tutelage.engine.checks import Check
from tutelage.graph.divergences import cross_entropy
from tutelage.reporting.run_folder import checked, read_run
from tutelage.reporting.schema import Metrics
from tutelage.runs.folder import finished, marks_of_run, read_records
from tutelage.studies.compare import _judge
from tutelage.studies.tables import as_markdown
from tutelage.tasks.classification.evaluate import assess
from tutelage.tasks.classification.task import CLASSIFICATION

GRAPH = Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy)])
SGD = partial(torch.optim.SGD, lr=0.5)


def data(rows: int = 300) -> Data:
    """The class is the brightest of four pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 4
    images = torch.rand(rows, 1, 2, 2, generator=generator) * 60
    images.view(rows, 4)[torch.arange(rows), labels] += 190
    pixels = images.to(torch.uint8)
    return from_tensors((pixels, labels), validation=(pixels, labels), augment="none")


class Blind(nn.Module):
    """It learns how frequent classes are, and does not see the image."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.0, 0.1, 0.2, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.bias + 0 * images.flatten(1)


class Sees(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def trained(network: nn.Module, out: Path | None, **options) -> None:
    list(train(GRAPH, {"s": network}, data(), epochs=2, optimizer=SGD, batch_size=50, out=out, **options))


@pytest.mark.parametrize("best", [False, True])
def test_the_mark_of_the_checkpoint_that_is_kept_stands_at_the_end(best, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "tutelage"):
        trained(Blind(), tmp_path / "run", best=best)
    (node, mark), = finished(tmp_path / "run")["marks"].items()
    assert (node, mark["kind"]) == ("s", "one class")
    assert mark["text"].startswith("says '")
    assert mark["text"].endswith("of which 25 % are " + mark["text"].split()[1])
    assert read_records(tmp_path / "run")[-1]["marks"] == {"s": mark}
    assert marks_of_run(tmp_path / "run") == read_run(tmp_path / "run").marks == {"s": mark["text"]}
    assert f"note: s {mark['text']}" in caplog.messages


def test_a_network_that_learned_has_none_and_old_records_are_read(tmp_path, caplog):
    trained(Sees(), tmp_path / "run")
    assert "marks" not in finished(tmp_path / "run")
    assert marks_of_run(tmp_path / "run") == marks_of_run(tmp_path) == read_run(tmp_path / "run").marks == {}
    assert caplog.messages == []


def test_without_a_folder_it_is_said_all_the_same(caplog):
    trained(Blind(), None)
    assert [message for message in caplog.messages if message.startswith("note: s says ")]


def evaluation(logits: Tensor) -> dict:
    found = assess(GRAPH, "validation", data().validation, {"s": logits}, ("a", "b", "rose", "d"),
                   (data().validation, {"s": logits}))
    return checked(Metrics, json.loads(json.dumps(found.metrics)), "here")


def test_an_evaluation_holds_the_mark_and_says_it():
    rose = torch.zeros(300, 4)
    rose[:, 2] = 9
    metrics = evaluation(rose)
    assert metrics["nodes"]["s"]["mark"] == {"kind": "one class",
                                             "text": "says 'rose' for 100 % of images, of which 25 % are 'rose'"}
    assert "\ns says 'rose' for 100 % of images" in evaluation_text(metrics, None)
    for of in metrics["nodes"].values():
        del of["mark"], of["temperature"]["identified"]
    assert "says 'rose'" not in evaluation_text(metrics, None), "an evaluation of an earlier version has no mark"


def test_a_temperature_that_is_not_identified_is_said():
    right = torch.eye(4)[torch.arange(300) % 4]
    text = evaluation_text(evaluation(right), None)
    assert "T of s is not identified" in text
    assert "says" not in text


def test_a_study_marks_the_network_in_its_tables_and_says_why():
    labels = torch.arange(300) % 4
    mark = _judge(torch.eye(4)[torch.ones(300, dtype=torch.long)], labels, labels, list("abcd"), CLASSIFICATION).mark
    assert mark == "says 'b' for 100 % of images, of which 25 % are 'b'"
    page = as_markdown({"methods": ["m"], "seeds": [0], "on": "test", "cells": [], "tables": {}, "mcnemar": [],
                        "marks": [{"method": "m", "seed": 0, "node": "s", "text": mark}], "versions": {},
                        "command": "", "machine": "", "baseline": "m"})
    assert f"- m, seed 0: s {mark}" in page


def test_a_terminal_shows_what_was_looked_at_and_what_is_worth_a_warning(capsys):
    checks = [Check("neighbours", "s", "passed", "8 images", "", 0.02),
              Check("swapped_pairs", "t", "warned", "512 images of validation", "classes taken for each other", 0.5)]
    show_checks(checks, as_json=False)
    shown = capsys.readouterr()
    assert "checked s on 8 images: neighbours (0.0 s)" in shown.out
    assert "note: t: classes taken for each other (swapped_pairs, on 512 images of validation)" in shown.err
    show_checks(checks, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["event"], told["checks"][1]["result"]) == ("checked", "warned")
