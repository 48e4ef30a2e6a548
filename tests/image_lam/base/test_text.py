"""The frozen text encoder, with a tiny random T5 and a tokenizer of a few words made on the spot."""

import json
import sys

import pytest
import torch

from lattok.image_lam.base.features import TextEncoder
from tests.errors import refused

transformers = pytest.importorskip("transformers")
WORDS = ("lift", "the", "red", "cube", "push", "it")
TEXTS = ["lift the red cube", "push it", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 of width 24 with random weights, as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    path = tmp_path_factory.mktemp("t5")
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **names).save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3}
    config = transformers.T5Config(vocab_size=len(vocabulary), **sizes)
    transformers.T5EncoderModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder(f"t5:{folder}").load()


def test_vectors_are_those_of_transformers(encoder, folder):
    vectors, mask = encoder.encode(TEXTS)
    assert vectors.shape == (3, 5, 24)
    assert (vectors.dtype, mask.dtype) == (torch.float32, torch.bool)
    assert mask.sum(1).tolist() == [5, 3, 1]  # words and the end
    assert (mask.long().diff(dim=1) <= 0).all()  # padding stands on the right
    network = transformers.T5EncoderModel.from_pretrained(folder).eval()
    for text, row, used in zip(TEXTS, vectors, mask, strict=True):
        ids = torch.tensor([[3 + WORDS.index(word) for word in text.split()] + [1]])
        torch.testing.assert_close(row[used], network(input_ids=ids).last_hidden_state[0], atol=1e-5, rtol=1e-4)
        assert (row[~used] == 0).all()


def test_other_texts_of_the_batch_do_not_matter(encoder):
    together = encoder.train().encode(TEXTS)[0]
    alone = encoder.encode(TEXTS[1:2])[0]
    torch.testing.assert_close(together[1, :3], alone[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(together, encoder.encode(TEXTS)[0])


def test_it_is_frozen(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.network.training


def test_weights_come_with_load_only(folder):
    encoder = TextEncoder(f"t5:{folder}")
    assert not list(encoder.parameters())
    with pytest.raises(RuntimeError, match="call .load"):
        encoder.encode(TEXTS)
    assert encoder.load() is encoder
    assert encoder.load().network is encoder.network


@pytest.mark.parametrize("texts", ["lift", [], [1]])
def test_bad_texts(encoder, texts):
    refused("`texts`", encoder.encode, texts)


@pytest.mark.parametrize("name", ["t5:", "google-t5/t5-base", "precomputed"])
def test_other_names_are_refused(name):
    refused("`language`", TextEncoder, name)


def test_a_folder_that_is_not_there(tmp_path):
    refused("^`language`: expected a folder with config.json, or a Hub id", TextEncoder(f"t5:{tmp_path}/nothing").load)


def test_a_folder_without_weights_or_with_half_of_them(folder, tmp_path):
    import safetensors.torch

    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    refused("could not be read", TextEncoder(f"t5:{tmp_path}").load)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused("lacks weights, got encoder.block.1", TextEncoder(f"t5:{tmp_path}").load)


def test_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none-such"}))
    refused("could not be read", TextEncoder(f"t5:{tmp_path}").load)


def test_without_transformers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    encoder = TextEncoder(f"t5:{folder}")
    refused("`language`", encoder.load)
