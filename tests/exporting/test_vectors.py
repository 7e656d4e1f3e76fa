"""Vectors of a recommender as a file."""

import json

import pytest
import torch
from safetensors import safe_open

from tutelage.data.settings import DataSettings
from tutelage.errors import ModelError, UsageError
from tutelage.exporting.module import Choice
from tutelage.exporting.vectors import export_vectors, vectors_bytes
from tutelage.models.recommend import lightgcn, mf
from tutelage.tasks.named import data_for
from tutelage.tasks.recommendation.teaching import connected


@pytest.mark.parametrize("make", [mf, lightgcn])
def test_a_score_is_the_product_of_two_rows_that_are_found_by_their_names(make, tmp_path):
    data = data_for(DataSettings("shop"))
    torch.manual_seed(0)
    network = make(len(data.classes), data.shape[0], dim=4)
    connected(network, data.train)
    target = tmp_path / "vectors.safetensors"

    export_vectors(network, data.classes, data.train, "student", target, Choice("safetensors"))

    with safe_open(target, "pt") as file:
        users, items, told = file.get_tensor("users"), file.get_tensor("items"), file.metadata()
    row, column = json.loads(told["user_ids"]).index("u007"), json.loads(told["item_ids"]).index(data.classes[5])
    number = data.train.names.index("u007")
    said = float(network(users=torch.tensor([number]))[0, 5].detach())
    assert float(users[row] @ items[column]) == pytest.approx(said, abs=1e-6)
    assert json.loads((tmp_path / "vectors.safetensors.json").read_text())["numbers"] == 4


def test_other_formats_and_other_networks_are_refused(tmp_path):
    data = data_for(DataSettings("shop"))
    with pytest.raises(UsageError, match="exported as its vectors"):
        export_vectors(mf(2, 2), data.classes, data.train, "student", tmp_path / "a.onnx", Choice("onnx"))
    with pytest.raises(ModelError, match="without vectors"):
        vectors_bytes(torch.nn.Linear(2, 2), ["a"], ["b"])
