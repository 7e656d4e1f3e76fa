"""Networks for text: shapes, padding, places, options, and one body under two heads."""

import pytest
import torch

from every import every
from tutelage.errors import ModelError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.text import sentence_encoder, word_encoder
from tutelage.models.weights import load_weights

TOKENS = torch.tensor([[3, 4, 5, -1, -1], [6, 7, 3, 4, 5]])


def small(make, **options):
    torch.manual_seed(0)
    return make(4, 9, width=8, depth=2, heads=2, **options).eval()


def test_a_sentence_gets_logits_and_so_does_each_place():
    assert small(sentence_encoder)(tokens=TOKENS).shape == (2, 4)
    assert small(word_encoder)(tokens=TOKENS).shape == (2, 5, 4)
    places = torch.tensor([[2, 0], [4, 1]])
    whole, asked = small(word_encoder)(tokens=TOKENS), small(word_encoder)(tokens=TOKENS, places=places)
    assert torch.equal(asked[1, 0], whole[1, 4])
    assert torch.equal(asked[0, 1], whole[0, 0])


@pytest.mark.parametrize("make", [sentence_encoder, word_encoder])
def test_padding_changes_nothing(make):
    network = small(make)
    alone, beside = network(tokens=TOKENS[:1, :3]), network(tokens=TOKENS)[:1]
    assert torch.allclose(alone, beside if make is sentence_encoder else beside[:, :3], atol=1e-6)


def test_the_order_of_words_counts():
    network = small(sentence_encoder)
    assert not torch.allclose(network(tokens=TOKENS[1:]), network(tokens=TOKENS[1:].flip(1)), atol=1e-5)


def test_weights_of_one_head_start_the_other():
    one, other = (build(Architecture(arch, options={"width": 8, "depth": 1, "heads": 2}), class_names=names, channels=9,
                        seed=seed) for arch, names, seed in (("word_encoder", list("abcdef"), 0),
                                                             ("sentence_encoder", ["x", "y"], 1)))
    head = other.body.fc.weight.clone()
    load_weights(other, one.body.state_dict(), head="new")
    theirs = one.body.state_dict()
    assert every(torch.equal(value, theirs[key]) for key, value in other.body.state_dict().items()
                 if not key.startswith("fc."))
    assert torch.equal(other.body.fc.weight, head)


def test_the_size_is_as_the_page_says():
    assert sum(p.numel() for p in sentence_encoder(10, 2000).parameters()) == pytest.approx(230_000, rel=0.1)


@pytest.mark.parametrize(("options", "key"), [({"heads": 3}, "heads"), ({"width": 0}, "width"), ({"depth": 0}, "depth"),
                                              ({"dropout": 1.0}, "dropout"), ({"most": 0}, "most")])
def test_options_that_cannot_be_are_named(options, key):
    with pytest.raises(UsageError, match="option") as caught:
        sentence_encoder(2, 9, **options)
    assert key in caught.value.where


def test_what_is_no_text_and_what_is_too_long_is_refused():
    with pytest.raises(ModelError, match="not text"):
        small(sentence_encoder)(tokens=TOKENS.float())
    with pytest.raises(ModelError, match="not text") as caught:
        small(sentence_encoder, tokenizer="bert")(tokens=TOKENS)
    assert "bert" in caught.value.fix
    with pytest.raises(ModelError, match="longer than the network"):
        small(sentence_encoder, most=4)(tokens=TOKENS)
