"""FAST in its straightforward form: the baseline that lattok's is compared with, never used by the library.

Our own re-implementation of how the published processor (`physical-intelligence/fast`) behaves: one chunk at a time
through scipy's DCT, a Python string and a transformers tokenizer; a row that does not decode to H*m coefficients
becomes zeros, and characters that the vocabulary lacks disappear. Takes and returns normalised actions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


class ReferenceFAST:
    """The published processor's behaviour: `encode` and `decode` for arrays [B, H, m]."""

    def __init__(self, tokenizer: Any, scale: float, min_token: int, horizon: int, action_dim: int):
        self.tokenizer, self.scale, self.min_token = tokenizer, scale, min_token
        self.horizon, self.action_dim = horizon, action_dim

    @classmethod
    def load(cls, folder: Path, horizon: int, action_dim: int) -> "ReferenceFAST":
        """From a folder with `tokenizer.json` and `processor_config.json`."""
        facts = json.loads((folder / "processor_config.json").read_text())
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False
        )
        return cls(tokenizer, facts["scale"], facts["min_token"], horizon, action_dim)

    def encode(self, chunks: np.ndarray) -> list[list[int]]:
        """Normalised chunks [B, H, m] to ids, a list per chunk."""
        rows = []
        for numbers in np.around(dct(chunks, axis=1, norm="ortho") * self.scale):
            points = np.maximum(numbers.flatten() - self.min_token, 0).astype(int)
            rows.append(self.tokenizer("".join(map(chr, points)))["input_ids"])
        return rows

    def decode(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Ids to normalised chunks [B, H, m]; zeros for each row that does not parse."""
        chunks = []
        for row in rows:
            try:
                numbers = np.array([ord(c) for c in self.tokenizer.decode(row)]) + self.min_token
                numbers = numbers.reshape(self.horizon, self.action_dim)
            except ValueError:
                numbers = np.zeros((self.horizon, self.action_dim))
            chunks.append(idct(numbers / self.scale, axis=0, norm="ortho"))
        return np.stack(chunks)


def fit_published(
    chunks: np.ndarray, folder: Path, vocab_size: int = 1024, scale: float = 10.0, min_token: int | None = None
) -> Path:
    """Train a vocabulary as the published processor does, on normalised chunks [N, H, m], and write its two files.

    Its alphabet are the characters of the coefficients seen, not their bytes, so some coefficients cannot be written.
    `min_token` is the least coefficient unless given; the universal tokenizer has -354.
    """
    numbers = np.around(dct(chunks, axis=1, norm="ortho") * scale).astype(int).reshape(len(chunks), -1)
    low, high = int(numbers.min()) if min_token is None else min_token, int(numbers.max())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=[chr(i) for i in range(high - low + 1)],
        max_token_length=10000,
    )
    tokenizer.train_from_iterator(("".join(map(chr, row - low)) for row in numbers), trainer=trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"scale": scale, "vocab_size": tokenizer.get_vocab_size(), "min_token": low}
    (folder / "processor_config.json").write_text(json.dumps({**facts, "action_dim": None, "time_horizon": None}))
    return folder
