"""TOAST (Shirai et al., 2026): pieces of a unigram language model, of a chunk's rounded cosine transform (dct.py).

pieces = argmax over all ways to cut the row of  sum score(piece)     the score: a log-probability (Kudo, 2018)

Coefficients are in order [m, H], all frequencies of a dimension first. In the published training a policy sees many
ways to cut the same chunk: `sample` draws one. The published files are not read: how they write coefficients is in code
on the Hub alone.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, trainers

from lattok.action_vq.dct import DCTConfig, DCTTokenizer, padded
from lattok.action_vq.subwords import LAST_CHARACTER, CoefficientSubwords, Corpus, read_tokenizer, written_with
from lattok.utils import checks
from lattok.utils.arrays import Values, like

UNKNOWN = "<unk>"  # has an id because the library wants one; stands for nothing
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_SCORE = 10**6  # of a score; logarithms of probabilities are far smaller
DIGITS = 6  # of scores: the last digits of a logarithm are the machine's
SPARE, ROUNDS = 1.25, 2  # pieces that are asked for, for each that is kept; how often all of them are counted


@dataclass(frozen=True)
class TOASTConfig(DCTConfig):
    """As `DCTConfig`; the published vocabulary has 512 pieces."""

    vocab_size: int = 512


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
        return [self._drawn(text, alpha, nbest, draw) for text in self._texts(numbers)]

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
            piece, end = text[start:end], start
            written = [piece] if piece in self._pieces else [f"<0x{byte:02X}>" for byte in piece.encode()]
            ids[:0] = [self._pieces[each][0] for each in written]
        return ids

    @classmethod
    def _read(cls, text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        tokenizer, raw = read_tokenizer(text)
        model = raw["model"]
        around = [name for name in ("normalizer", "pre_tokenizer", "added_tokens") if raw.get(name)]
        if model.get("type") != "Unigram" or around:
            got = f"{model.get('type')}{''.join(f' with a {name}' for name in around)}"
            checks.fail("tokenizer.json", "a unigram model", got, cls.needs)
        if not model["vocab"]:
            checks.fail("tokenizer.json", "a vocabulary that can write coefficients", "none", cls.needs)
        pieces, scores = zip(*model["vocab"], strict=True)
        if len(set(pieces)) != len(pieces) or "" in pieces:
            checks.fail("tokenizer.json", "different pieces", "some twice, or an empty one", cls.needs)
        if not max(map(abs, scores)) < MAX_SCORE:
            checks.fail("tokenizer.json", f"scores within +-{MAX_SCORE:,}", "others", cls.needs)
        bytes_of = {piece: int(found[1], 16) for piece in pieces if (found := BYTE.fullmatch(piece))}
        fallback = model.get("byte_fallback") and model.get("unk_id") is not None
        token_bytes = [bytes([bytes_of[piece]]) if piece in bytes_of else piece.encode() for piece in pieces]
        if model.get("unk_id") is not None:
            token_bytes[model["unk_id"]] = b""
        known = written_with(set(bytes_of.values()) if fallback else ())
        alone = [ord(piece) for i, piece in enumerate(pieces) if len(piece) == 1 and token_bytes[i]]
        known[[point for point in alone if point <= LAST_CHARACTER]] = True
        return tokenizer, token_bytes, known

    @classmethod
    def train(cls, numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
        corpus = Corpus.of(numbers, vocab_size, expected, other=1)
        size, alphabet = round(SPARE * corpus.free), corpus.characters
        trainer = trainers.UnigramTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
        found = scored(corpus, {piece for piece, _ in corpus.taught(models.Unigram(), trainer)["vocab"]})
        always = [(UNKNOWN, 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in corpus.alphabet)]
        pieces = [*always, *sorted(found, key=lambda each: (-each[1], each[0]))]
        text = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True)).to_str()
        return text, corpus.min_token, corpus.max_token


class TOAST(DCTTokenizer):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    >>> tokenizer = TOAST.fit(chunks, vocab_size=512)            # [N, H, m] in physical units
    """

    type = "toast"
    arxiv = "2610.00899"
    config_class = TOASTConfig
    subwords_class = CoefficientUnigram
    by_dimension = True

    @torch.no_grad()
    def sample(
        self, chunks: Values, valid: Values | None = None, *, alpha: float = 0.1, nbest: int = 64, seed: int = 0
    ) -> Any:
        """Turn chunks into codes as `encode` does, but cut into subwords in one of the `nbest` best ways, for training.

        A way is drawn by its likelihood to the power of `alpha` (0: any of them; the defaults are the published ones).
        What is drawn decodes to the chunk that `encode` gives. It runs in Python, some milliseconds a chunk.
        """
        checks.counts(nbest=nbest)
        checks.whole(seed=seed)
        checks.at_least_zero(alpha=alpha)
        actions, _ = self._prepare(chunks, valid)
        assert isinstance(self.subwords, CoefficientUnigram)
        rows = self.subwords.sample(self._coefficients(actions), alpha, nbest, np.random.default_rng(seed))
        return like(chunks, padded(rows, self.tokens_per_chunk).to(actions.device))


def scored(corpus: Corpus, pieces: Collection[str]) -> list[tuple[str, float]]:
    """Keep the most common pieces, as many as are free, and score them by how often the likeliest cuts have them.

    This follows from whole numbers alone: the library adds up expectations in any order, so that which pieces are
    rare, and what they score, differs from run to run.
    """
    text, found = "\0".join(corpus.texts), list[tuple[str, float]]()
    runs = (text[i : i + n] for n in sorted(set(map(len, pieces))) for i in range(len(text) - n + 1))
    counts = dict.fromkeys(pieces, 0) | Counter(run for run in runs if run in pieces)
    for size in [len(counts)] * ROUNDS + [corpus.free] * ROUNDS:
        kept = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece], piece))[:size]
        total = sum(counts[piece] for piece in kept)
        found = [(piece, round(math.log(max(counts[piece], 0.5) / total), DIGITS)) for piece in kept]
        model = models.Unigram([*found, (UNKNOWN, 0.0)], unk_id=len(found))
        cuts = Tokenizer(model).encode_batch_fast(text.split("\0"))
        ids = np.bincount([i for cut in cuts for i in cut.ids], minlength=size)
        counts = dict(zip(kept, ids.tolist(), strict=False))
    return found
