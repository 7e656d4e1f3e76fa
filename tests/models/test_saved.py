import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from every import every
from tutelage.errors import ModelError, SecurityError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.network import preprocessing_of, weights_of
from tutelage.models.saved import load_network, metadata_of

NAMES = ["hen", "tench", "cock"]


def written(network, path, class_names=NAMES, **changes):
    metadata = metadata_of(network, class_names, "student") | changes
    save_file(weights_of(network), path, {key: value for key, value in metadata.items() if value})
    return path


@pytest.mark.parametrize(("spec", "channels"), [
    (Architecture("resnet8", mean=(0.3,), std=(0.7,)), 1),
    (Architecture("timm:resnet10t", stem="cifar", options={"drop_rate": 0.1}, head="new"), 3),
    (Architecture("torchvision:mobilenet_v3_small", stem="cifar"), 1),
    (Architecture("timm:mobilenetv3_small_050", classes="by-name"), 3),
])
def test_a_saved_network_comes_back_as_it_was(spec, channels, tmp_path):
    network = build(spec, class_names=NAMES, channels=channels, seed=5).eval()
    back, names = load_network(written(network, tmp_path / "student.safetensors"))
    image = torch.rand(2, channels, 32, 32)
    assert torch.equal(back.eval()(image), network(image))
    assert names == tuple(NAMES)
    assert preprocessing_of(back) == preprocessing_of(network)


def test_metadata_says_what_the_page_says():
    told = metadata_of(build(Architecture("resnet8"), class_names=NAMES), NAMES, "student")
    assert set(told) == {"format", "node", "classes", "architecture", "channels", "mean", "std"}
    assert every(isinstance(value, str) for value in told.values())
    assert (told["format"], told["node"], json.loads(told["classes"])) == ("tutelage-1", "student", NAMES)
    assert json.loads(told["architecture"])["arch"] == "resnet8"
    assert not {"weights", "pretrained"} & set(json.loads(told["architecture"]))


def test_a_cut_network_names_all_rows_of_its_classifier(tmp_path):
    network = build(Architecture("timm:mobilenetv3_small_050", classes="by-name"), class_names=NAMES).eval()
    told = metadata_of(network, NAMES, "teacher")
    assert json.loads(told["columns"]) == [8, 0, 7]
    assert json.loads(told["classes"])[:2] == ["tench", "n01443537"]
    assert len(json.loads(told["classes"])) == 1000
    path = written(network, tmp_path / "teacher.safetensors")
    spec = Architecture("timm:mobilenetv3_small_050", weights=str(path), classes="by-name")
    image = torch.rand(1, 3, 32, 32)
    again = build(spec, class_names=["cock", "hen"]).eval()
    assert torch.equal(again(image), network(image)[:, [2, 0]])


def test_a_user_s_own_module_is_filled(tmp_path):
    module = nn.Linear(2, 3)
    path = written(module, tmp_path / "own.safetensors")
    with pytest.raises(ModelError, match="user's own module") as caught:
        load_network(path)
    assert "into=" in caught.value.fix
    other = nn.Linear(2, 3)
    back, names = load_network(path, into=other)
    assert back is other
    assert torch.equal(other.weight, module.weight)
    assert names == tuple(NAMES)
    with pytest.raises(ModelError, match="another size"):
        load_network(path, into=nn.Linear(2, 4))


def test_a_plugin_named_in_a_file_is_not_run(tmp_path):
    fields = json.dumps({"arch": "os:system", "options": {}})
    path = written(build(Architecture("resnet8"), class_names=NAMES), tmp_path / "x.safetensors", architecture=fields)
    with pytest.raises(SecurityError, match="not allowed"):
        load_network(path)


@pytest.mark.parametrize("changes", [
    {"format": "tutelage-2"}, {"format": ""}, {"classes": ""}, {"classes": "7"}, {"architecture": "["},
    {"architecture": '{"arch": "resnet8", "colour": 1}'}, {"architecture": '{"arch": "resnet8", "stem": "x"}'},
    {"architecture": "{}"}, {"channels": "[3]"}, {"channels": '"3"'}, {"mean": "[[1]]"}, {"mean": ""}, {"std": "[0.0]"},
    {"columns": "[0, 1, 5]"}, {"columns": "[-1]"}, {"columns": '["a"]'}, {"absent": '["wren"]'},
    {"columns": "[0, -1]", "absent": "[]"}, {"columns": "[0, -1]", "absent": "[7]"}, {"absent": "7"}])
def test_metadata_that_cannot_be_used_is_an_error_that_names_the_file(tmp_path, changes):
    path = written(build(Architecture("resnet8"), class_names=NAMES), tmp_path / "x.safetensors", **changes)
    with pytest.raises(ModelError) as caught:
        load_network(path)
    assert caught.value.where == str(path)
    assert caught.value.fix
