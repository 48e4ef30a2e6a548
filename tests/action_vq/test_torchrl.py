"""The adapter for TorchRL, as the how-to prints it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lattok
from tests.action_vq.walks import smooth

PAGE = Path(__file__).parents[2] / "docs/howto/action_tokenizers.md"


def test_the_printed_adapter_is_a_tokenizer_of_torchrl():
    vla = pytest.importorskip("torchrl.data.vla")
    (text,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(text, names)
    own = lattok.UniformBins.fit(smooth(), bins=16)
    tokenizer = names["Tokenizer"](own)
    assert isinstance(tokenizer, vla.ActionTokenizerBase)
    assert tokenizer.vocab_size == 16
    chunks = smooth(10).unflatten(0, (2, 5))  # b t h m
    tokens = tokenizer.encode(chunks)
    assert tokens.dtype == torch.long
    assert torch.equal(tokens.flatten(0, 1), own.encode(chunks.flatten(0, 1)))
    assert torch.equal(tokenizer.decode(tokens).flatten(0, 1), own.decode(tokens.flatten(0, 1)))
    assert tokenizer.decode(tokens).shape == chunks.shape
    assert sum(line.strip() != "" for line in text.splitlines()) <= 11
