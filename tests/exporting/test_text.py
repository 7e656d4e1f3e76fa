"""A small network for text as ONNX: it says the same, at any length, and its vocabulary lies beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.data.settings import DataSettings
from tutelage.data.text_preparation import text_preparation
from tutelage.exporting.export import Images, export_network
from tutelage.exporting.module import Choice, Student
from tutelage.exporting.predict import TextReader, open_onnx
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.tasks.named import data_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("task", "arch"), [("sentences", "sentence_encoder"), ("slots", "word_encoder")])
def test_the_file_says_what_the_network_says_and_predicts_words(task: str, arch: str, tmp_path: Path):
    pytest.importorskip("onnxscript")
    data = data_for(DataSettings("sentences", task=task), quick=True)
    network = build(Architecture(arch, options={"width": 8, "depth": 1, "heads": 2}), class_names=data.classes,
                    channels=data.shape[0]).eval()
    prepared = text_preparation(data.preprocessing)
    student = Student(network, data.classes, prepared, "student", task)
    report = export_network(student, tmp_path / "s.onnx", Choice("onnx"), Images(data.validation, data.train))
    assert report["checked"]["agreement"] == report["checked"]["agreement_at_half_length"] == 1.0
    assert (tmp_path / "s.onnx.tokenizer.json").is_file()
    opened = open_onnx(tmp_path / "s.onnx")
    assert isinstance(opened, TextReader)
    given = opened.prepared.inputs([("play", "green", "river"), ("rain",)])
    with torch.no_grad():
        wanted = network(**{name: torch.from_numpy(array) for name, array in given.items()})
    assert np.abs(opened.logits(given) - wanted.numpy()).max() < 1e-4
