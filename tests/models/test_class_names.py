import pytest
import torch

from tutelage.errors import ModelError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.class_names import columns_by_name, imagenet_spellings, plain, read_names

IMAGENET = imagenet_spellings(1000)


def test_imagenet_is_known_by_its_1000_classes_and_other_counts_are_not():
    assert len(IMAGENET) == 1000
    assert IMAGENET[0] == ("n01440764", "tench, Tinca tinca", "tench", "Tinca tinca")
    assert imagenet_spellings(999) is None
    assert imagenet_spellings(0) is None


@pytest.mark.parametrize(("name", "column"), [
    ("n01440764", 0), ("tench", 0), ("Tinca_tinca", 0), ("Great_White SHARK", 2), ("great white shark, white shark, "
     "man-eater, man-eating shark, Carcharodon carcharias", 2), ("toilet tissue", 999)])
def test_a_class_is_found_by_id_by_name_and_by_any_lemma(name, column):
    assert columns_by_name([name], IMAGENET) == (column,)


def test_an_ambiguous_name_is_an_error_that_shows_both():
    with pytest.raises(ModelError, match="name of 2 outputs") as caught:
        columns_by_name(["crane"], IMAGENET)
    assert "n02012849" in caught.value.found
    assert "n03126707" in caught.value.found


def test_unknown_classes_are_listed_up_to_twenty_with_their_number():
    with pytest.raises(ModelError, match="does not know 30 of the data's classes") as caught:
        columns_by_name([f"gold fsh {i}" for i in range(30)], IMAGENET, where="timm:resnet18")
    assert caught.value.where == "timm:resnet18"
    assert caught.value.found.count("'gold fsh") == 20
    assert "(30 in all)" in caught.value.found


def test_an_unknown_class_brings_the_one_that_was_meant():
    with pytest.raises(ModelError) as caught:
        columns_by_name(["goldfsh"], IMAGENET)
    assert "did you mean 'goldfish'" in caught.value.fix


def test_two_classes_must_not_be_one_output():
    with pytest.raises(ModelError, match="two classes of the data are one output") as caught:
        columns_by_name(["tench", "n01440764"], IMAGENET)
    assert "'tench' and 'n01440764'" in caught.value.found


def test_exact_names_win_over_names_that_differ_in_case():
    assert columns_by_name(["A", "a"], plain(["a", "A"])) == (1, 0)


@pytest.mark.parametrize("arch", ["timm:resnet18", "torchvision:resnet18"])
def test_a_cut_network_s_logits_are_columns_of_the_whole_one_s(arch):
    network = build(Architecture(arch, classes="by-name"), class_names=["goldfish", "n01440764", "hen"]).eval()
    image = torch.rand(2, 3, 32, 32)
    whole = network.body((image - network.mean) / network.std)
    assert whole.shape == (2, 1000)
    assert torch.equal(network(image), whole[:, [1, 0, 8]])


def test_a_file_of_names_cuts_too(tmp_path):
    (tmp_path / "names.txt").write_text("crow\njay\n\ngreat tit\n", encoding="utf-8")
    spec = Architecture("resnet8", classes=str(tmp_path / "names.txt"))
    network = build(spec, class_names=["Great_Tit", "crow"]).eval()
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(network(image), network.body((image - network.mean) / network.std)[:, [2, 0]])


@pytest.mark.parametrize(("content", "text"), [(b"a\nb\na\n", "more than once"), (b"", "no name"), (b"\xff\xfe", "")])
def test_an_unusable_file_of_names_is_an_error(tmp_path, content, text):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_names(str(path))
    assert caught.value.where == str(path)
    assert text in caught.value.found


def test_a_missing_file_of_names_is_an_error():
    with pytest.raises(ModelError, match="cannot read the file of class names"):
        read_names("/nowhere/names.txt")


def test_by_name_needs_a_network_whose_outputs_have_names():
    with pytest.raises(ModelError, match="names of the network's outputs are not known"):
        build(Architecture("resnet8", classes="by-name"), class_names=["a"])
