"""Encoders from a folder: no code, no pickle, nothing fetched; and, where transformers is there, what they give."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from tutelage.errors import DataError, ModelError, SecurityError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.huggingface import hf_most, hf_weights

CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 20, "hidden_size": 8,
          "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32,
          "pad_token_id": 0}


def test_a_folder_that_asks_to_run_its_own_python_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(SecurityError, match="Python of its own"):
        build(Architecture(f"hf:{tmp_path}"), class_names=["a", "b"], channels=20)


def test_a_folder_with_pickled_weights_alone_is_refused_and_nothing_of_it_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(DataError, match="no weights"):
        hf_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Path))
    with pytest.raises(SecurityError, match="pickled") as caught:
        hf_weights(tmp_path)
    assert caught.value.exit_code == 9


def test_nothing_is_fetched(tmp_path):
    with pytest.raises(UsageError, match="no such folder") as caught:
        build(Architecture("hf:bert-base-uncased"), class_names=["a", "b"], channels=20)
    assert "nothing is fetched" in caught.value.fix
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert hf_most(str(tmp_path)) == 32


def test_its_own_weights_and_a_new_head_give_logits_that_padding_does_not_change(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    bert = transformers.BertModel(transformers.BertConfig(**{k: v for k, v in CONFIG.items() if k != "architectures"}))
    bert.save_pretrained(str(tmp_path))
    spec = Architecture(f"hf:{tmp_path}", pretrained=True, head="new", options={"per": "word"})
    network = build(spec, class_names=["a", "b", "c"], channels=20).eval()
    assert torch.equal(network.body.encoder.state_dict()["embeddings.word_embeddings.weight"],
                       bert.state_dict()["embeddings.word_embeddings.weight"])
    tokens = torch.tensor([[2, 5, 3, -1, -1], [2, 5, 6, 7, 3]])
    found = network(tokens=tokens)
    assert found.shape == (2, 5, 3)
    assert torch.allclose(found[0, :3], network(tokens=tokens[:1, :3])[0], atol=1e-5)
    one = build(Architecture(f"hf:{tmp_path}"), class_names=["a", "b"], channels=20)
    assert one(tokens=tokens).shape == (2, 2)
    with pytest.raises(ModelError, match="more pieces"):
        build(Architecture(f"hf:{tmp_path}"), class_names=["a", "b"], channels=21)
