"""TOAST (Shirai et al., 2026): frequencies of the chunk, rounded, in pieces of a unigram language model.

coefficients = round(scale * DCT-II(chunk))     orthonormal, over time, for each dimension
codes        = the likeliest pieces of coefficients [m, H] row by row: all frequencies of a dimension come first
pieces       = argmax over all ways to cut the row of  sum score(piece)     the score: a log-probability (Kudo, 2018)

The published tokenizer is named stochastic for its training, in which a policy sees many ways to cut the same chunk:
`sample` draws one. Its own files are not read: how they write coefficients is in code on the Hub alone.

`CoefficientUnigram` reads and writes such codes with a `tokenizer.json`; `train_unigram` makes one. What has no piece
is written by its bytes, so that any coefficient in range can be.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lattok.action_vq.dct import DCTConfig, DCTTokenizer, padded
from lattok.action_vq.subwords import LAST_CHARACTER, CoefficientSubwords, Corpus, read_tokenizer, written_with
from lattok.utils import checks
from lattok.utils.arrays import Values, like

UNKNOWN = "<unk>"  # has an id because the library wants one; stands for nothing
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_SCORE = 10**6  # of a score; logarithms of probabilities are far smaller
DIGITS = 3  # of scores: the library adds up expectations in any order, so that the last digits differ from run to run


class CoefficientUnigram(CoefficientSubwords):
    """Subwords of a unigram language model, rare characters by their bytes."""

    needs = "TOAST needs a unigram model with nothing before it and no added tokens."

    def __init__(self, text: str, min_token: int, max_token: int | None = None):
        super().__init__(text, min_token, max_token)
        vocab: list[tuple[str, float]] = json.loads(self._tokenizer.to_str())["model"]["vocab"]
        self._pieces = {piece: (i, score) for i, (piece, score) in enumerate(vocab) if self.token_bytes[i]}
        self._longest = max(map(len, self._pieces))
        self._never = min(score for _, score in vocab) - 10  # of a character without a piece, as in the library

    def sample(self, numbers: np.ndarray, alpha: float, nbest: int, draw: np.random.Generator) -> list[list[int]]:
        """Turn whole numbers [B, n] into ids: of the `nbest` best cuts of a row one, by its likelihood ** alpha."""
        text, n = self._points(numbers).astype("<u2").tobytes().decode("utf-16-le"), numbers.shape[1]
        return [self._drawn(text[i : i + n], alpha, nbest, draw) for i in range(0, len(text), n)]

    def _drawn(self, text: str, alpha: float, nbest: int, draw: np.random.Generator) -> list[int]:
        scores, back = [np.zeros(1)], [np.zeros((1, 2), dtype=int)]  # of cuts of the first characters, best first
        for end in range(1, len(text) + 1):
            starts = [s for s in range(max(0, end - self._longest), end) if text[s:end] in self._pieces] or [end - 1]
            found = [scores[s] + self._pieces.get(text[s:end], (0, self._never))[1] for s in starts]
            ways = [np.stack([np.full(len(f), s), np.arange(len(f))], 1) for s, f in zip(starts, found, strict=True)]
            best = np.argsort(-np.concatenate(found), kind="stable")[:nbest]
            scores.append(np.concatenate(found)[best])
            back.append(np.concatenate(ways)[best])
        chances = np.exp(alpha * (scores[-1] - scores[-1][0]))
        way, end, ids = int(draw.choice(len(chances), p=chances / chances.sum())), len(text), list[int]()
        while end:
            start, way = back[end][way].tolist()
            ids[:0] = self._ids(text[start:end])
            end = start
        return ids

    def _ids(self, piece: str) -> list[int]:
        if piece in self._pieces:
            return [self._pieces[piece][0]]
        return [self._pieces[f"<0x{byte:02X}>"][0] for byte in piece.encode()]

    @staticmethod
    def _read(text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        tokenizer, raw = read_tokenizer(text)
        model = raw["model"]
        around = [name for name in ("normalizer", "pre_tokenizer", "added_tokens") if raw.get(name)]
        if model.get("type") != "Unigram" or around:
            got = f"{model.get('type')}{''.join(f' with a {name}' for name in around)}"
            checks.fail("tokenizer.json", "a unigram model", got, CoefficientUnigram.needs)
        if not model["vocab"]:
            checks.fail("tokenizer.json", "a vocabulary that can write coefficients", "none", CoefficientUnigram.needs)
        pieces, scores = zip(*model["vocab"], strict=True)
        if len(set(pieces)) != len(pieces) or "" in pieces:
            checks.fail("tokenizer.json", "different pieces", "some twice, or an empty one", CoefficientUnigram.needs)
        if not max(map(abs, scores)) < MAX_SCORE:
            checks.fail("tokenizer.json", f"scores within +-{MAX_SCORE:,}", "others", CoefficientUnigram.needs)
        bytes_of = {piece: int(found[1], 16) for piece in pieces if (found := BYTE.fullmatch(piece))}
        fallback = model.get("byte_fallback") and model.get("unk_id") is not None
        token_bytes = [bytes([bytes_of[piece]]) if piece in bytes_of else piece.encode() for piece in pieces]
        if model.get("unk_id") is not None:
            token_bytes[model["unk_id"]] = b""
        known = written_with(set(bytes_of.values()) if fallback else ())
        alone = [ord(piece) for i, piece in enumerate(pieces) if len(piece) == 1 and token_bytes[i]]
        known[[point for point in alone if point <= LAST_CHARACTER]] = True
        return tokenizer, token_bytes, known


def train_unigram(numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
    """Make a tokenizer.json for rows of whole numbers [N, n], and the range (min_token, max_token) that it has."""
    corpus = Corpus.of(numbers, vocab_size - 1, expected)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\0")  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.UnigramTrainer(
        vocab_size=corpus.free, show_progress=False, initial_alphabet=corpus.characters, special_tokens=[]
    )
    tokenizer.train_from_iterator(corpus.texts, trainer)
    found = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = sorted(((piece, round(score, DIGITS)) for piece, score in found), key=lambda each: (-each[1], each[0]))
    always = [(UNKNOWN, 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in corpus.alphabet)]
    text = Tokenizer(models.Unigram([*always, *pieces], unk_id=0, byte_fallback=True)).to_str()
    return text, corpus.min_token, corpus.max_token


@dataclass(frozen=True)
class TOASTConfig(DCTConfig):
    """As every `DCTConfig`; the published vocabulary has 512 pieces."""

    vocab_size: int = 512


class TOAST(DCTTokenizer):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    >>> tokenizer = TOAST.fit(chunks, vocab_size=512)            # [N, H, m] in physical units
    """

    type = "toast"
    config_class = TOASTConfig
    config: TOASTConfig
    subwords_class = CoefficientUnigram
    train_subwords = staticmethod(train_unigram)
    by_dimension = True

    @torch.no_grad()
    def sample(
        self, chunks: Values, valid: Values | None = None, *, alpha: float = 0.1, nbest: int = 64, seed: int = 0
    ) -> Any:
        """Turn chunks into codes as `encode` does, but cut otherwise: by one of the `nbest` best ways, for training.

        A way is drawn by its likelihood to the power of `alpha` (0: any of them; the defaults are the published ones).
        What is drawn decodes to the chunk that `encode` gives. Python, some milliseconds a chunk.
        """
        checks.counts(nbest=nbest)
        checks.at_least_zero(alpha=alpha)
        actions, _ = self._prepare(chunks, valid)
        assert isinstance(self.subwords, CoefficientUnigram)
        rows = self.subwords.sample(self._coefficients(actions), alpha, nbest, np.random.default_rng(seed))
        return like(chunks, padded(rows, self.tokens_per_chunk))
