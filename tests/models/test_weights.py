import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from every import every
from tutelage.errors import ModelError, SecurityError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.classifier import classifiers_of
from tutelage.models.network import weights_of
from tutelage.models.weights import load_weights, read_weights

NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def trained():
    """A network unlike the one that seed 0 starts with."""
    network = build(Architecture("resnet8"), class_names=NAMES, seed=9).eval()
    with torch.no_grad():
        for number, (_, buffer) in enumerate(network.body.named_buffers()):
            if buffer.is_floating_point():
                buffer.add_(0.01 * number)
    return network


def saved(network, path, classes=None):
    metadata = None if classes is None else {"classes": json.dumps(classes)}
    save_file(weights_of(network), path, metadata)
    return str(path)


def rebuilt(path, class_names=NAMES, **fields):
    return build(Architecture("resnet8", weights=path, **fields), class_names=class_names).eval()


def test_weights_without_a_classifier_are_told_of_and_may_get_a_new_one(trained, tmp_path):
    body = {name: tensor for name, tensor in weights_of(trained).items() if not name.startswith("fc.")}
    save_file(body, tmp_path / "headless.safetensors")
    with pytest.raises(ModelError, match=r"these weights have no classifier[\s\S]*fc\.weight, fc\.bias"):
        rebuilt(str(tmp_path / "headless.safetensors"))
    fine = rebuilt(str(tmp_path / "headless.safetensors"), head="new")
    assert torch.equal(fine.body.conv1.weight, trained.body.conv1.weight)


def test_weights_from_a_file_give_the_same_logits(trained, tmp_path):
    image = torch.rand(2, 3, 16, 16)
    for classes in (None, NAMES):
        path = saved(trained, tmp_path / "net.safetensors", classes)
        assert torch.equal(rebuilt(path)(image), trained(image))


def test_classes_in_another_order_are_put_in_the_data_s(trained, tmp_path):
    path = saved(trained, tmp_path / "net.safetensors", NAMES)
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(rebuilt(path, ["cat", "ant", "bee"])(image), trained(image)[:, [2, 0, 1]])


def test_more_classes_than_the_data_s_are_cut_only_by_name(trained, tmp_path):
    path = saved(trained, tmp_path / "net.safetensors", NAMES)
    with pytest.raises(ModelError, match="other classes than the data") as caught:
        rebuilt(path, ["cat", "ant"])
    assert "'bee'" in caught.value.found
    assert 'classes = "by-name"' in caught.value.fix
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(rebuilt(path, ["cat", "ant"], classes="by-name")(image), trained(image)[:, [2, 0]])


def test_other_classes_of_the_same_number_are_refused(trained, tmp_path):
    path = saved(trained, tmp_path / "net.safetensors", NAMES)
    with pytest.raises(ModelError) as caught:
        rebuilt(path, ["ant", "bee", "dog"])
    assert "'cat'" in caught.value.found
    assert "'dog'" in caught.value.expected


def test_a_new_head_keeps_everything_else(trained, tmp_path):
    path = saved(trained, tmp_path / "net.safetensors", NAMES)
    for names in (["w", "x", "y", "z"], ["w", "x", "y"]):
        fresh = weights_of(build(Architecture("resnet8"), class_names=names))
        for name, tensor in weights_of(rebuilt(path, names, head="new")).items():
            assert torch.equal(tensor, fresh[name] if name.startswith("fc.") else weights_of(trained)[name])


def test_a_head_of_another_size_says_to_write_head_new(trained, tmp_path):
    with pytest.raises(ModelError, match="classifier of the weights has another size") as caught:
        rebuilt(saved(trained, tmp_path / "net.safetensors"), ["w", "x"])
    assert "fc.weight [3, 64] for [2, 64]" in caught.value.found
    assert 'head = "new"' in caught.value.fix
    assert caught.value.where == str(tmp_path / "net.safetensors")


def test_every_tensor_must_have_its_place(trained):
    tensors = weights_of(trained)
    tensors["strange"] = tensors.pop("conv1.weight")
    tensors["bn1.weight"] = torch.zeros(3)
    with pytest.raises(ModelError, match="do not fit") as caught:
        load_weights(trained, tensors)
    assert "1 missing: conv1.weight" in caught.value.found
    assert "1 unexpected: strange" in caught.value.found
    assert "bn1.weight [3] for [16]" in caught.value.found
    with pytest.raises(ModelError, match="do not fit"):
        load_weights(trained, tensors, head="new")


def test_long_lists_stop_at_twenty(trained):
    with pytest.raises(ModelError) as caught:
        load_weights(trained, {})
    assert caught.value.found.count(", ") == 19
    assert f"{len(weights_of(trained))} missing" in caught.value.found


def test_a_prefix_on_all_names_is_told(trained):
    with pytest.raises(ModelError) as caught:
        load_weights(trained, {f"module.{name}": tensor for name, tensor in weights_of(trained).items()})
    assert "'module.'" in caught.value.fix


def test_a_refused_file_changes_nothing(trained):
    before = {name: tensor.clone() for name, tensor in weights_of(trained).items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    del tensors["fc.bias"]
    with pytest.raises(ModelError):
        load_weights(trained, tensors)
    assert every(torch.equal(before[name], tensor) for name, tensor in weights_of(trained).items())


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.PKL"])
def test_pickles_are_refused_with_the_way_to_convert(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(SecurityError, match="pickled") as caught:
        read_weights(tmp_path / name)
    assert "save_file" in caught.value.fix


def test_a_missing_file_never_means_an_untrained_network():
    with pytest.raises(ModelError, match="no such file") as caught:
        build(Architecture("resnet8", weights="/nowhere/net.safetensors"), class_names=NAMES)
    assert caught.value.where == "/nowhere/net.safetensors"
    assert "untrained" in caught.value.fix


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50], lambda b: b"", lambda b: b"x" * 500,
                                    lambda b: b[:8] + b"!" * (len(b) - 8)])
def test_a_damaged_file_is_told_as_such(trained, tmp_path, damage):
    path = tmp_path / "net.safetensors"
    saved(trained, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="damaged or cut short") as caught:
        read_weights(path)
    assert caught.value.found


def test_a_huge_header_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", 5 * 2**20) + b" " * (6 * 2**20))
    with pytest.raises(SecurityError, match="header"):
        read_weights(path)


@pytest.mark.parametrize("classes", ["not json", "{}", "[]", "[1, 2]", '["a", "a"]'])
def test_class_names_that_cannot_be_used_are_an_error(trained, tmp_path, classes):
    save_file(weights_of(trained), tmp_path / "net.safetensors", {"classes": classes})
    with pytest.raises(ModelError) as caught:
        rebuilt(str(tmp_path / "net.safetensors"))
    assert caught.value.where == str(tmp_path / "net.safetensors")


def test_a_run_folder_stands_for_its_network(trained, tmp_path):
    run = tmp_path / "run"
    (run / "models").mkdir(parents=True)
    saved(trained, run / "models" / "first.safetensors")
    assert read_weights(run, "teacher").path.stem == "first"
    saved(trained, run / "models" / "teacher.safetensors")
    assert read_weights(run, "teacher").path.stem == "teacher"
    assert read_weights(run / "first", "teacher").path.stem == "first"
    assert read_weights(run / "models" / "first.safetensors", "teacher").path.stem == "first"
    with pytest.raises(ModelError, match="does not hold one network") as caught:
        read_weights(run, "student")
    assert caught.value.found == "first, teacher"


def test_a_folder_without_networks_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="holds no network"):
        read_weights(tmp_path)


@pytest.mark.parametrize(("arch", "classifier"), [
    ("timm:mobilenetv2_100", "classifier"), ("timm:regnety_002", "head.fc"), ("torchvision:resnet18", "fc"),
    ("torchvision:mobilenet_v2", "classifier.1"), ("torchvision:squeezenet1_1", "classifier.1"),
    ("vgg8", "classifier"), ("shufflenetv2", "linear")])
def test_the_classifier_is_found(arch, classifier):
    assert classifiers_of(build(Architecture(arch), class_names=NAMES).body) == (classifier,)
