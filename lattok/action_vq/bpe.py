"""Byte-pair encoding of whole numbers, as FAST writes DCT coefficients (Pertsch et al., 2025, section 4).

`CoefficientBPE` reads and writes such tokens with any byte-level `tokenizer.json`; `train_bpe` makes one.
"""

from __future__ import annotations

import json

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lattok.action_vq.subwords import CoefficientSubwords, Corpus, read_tokenizer, written_with
from lattok.utils import checks


def _byte_characters() -> dict[str, int]:
    """Return the byte of each printable character that byte-level tokenizers write for one (Radford et al., 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _byte_characters()
ODD = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # options by which codes are not their bytes
CHARACTERS = {byte: character for character, byte in BYTES.items()}


class CoefficientBPE(CoefficientSubwords):
    """Subwords of any byte-level byte-pair encoding."""

    needs = "FAST needs a byte-level BPE without a prefix space and without a normalizer."

    @staticmethod
    def _read(text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        tokenizer, raw = read_tokenizer(text)
        before = raw.get("pre_tokenizer") or {}
        plain = before.get("type") == "ByteLevel" and not before.get("add_prefix_space") and not raw.get("normalizer")
        if raw["model"].get("type") != "BPE" or not plain:
            got = f"{raw['model'].get('type')} after {before.get('type')}"
            checks.fail("tokenizer.json", "a byte-level BPE", got, CoefficientBPE.needs)
        if odd := [name for name in ODD if raw["model"].get(name)]:
            checks.fail("tokenizer.json", "a byte-level BPE", f"one with {', '.join(odd)}", CoefficientBPE.needs)
        made = {*BYTES, *(first + second for first, second in raw["model"]["merges"])}
        added = {token["content"] for token in raw.get("added_tokens", [])}
        token_bytes = _token_bytes(tokenizer, added - made)
        if added:  # they are looked for in a text before anything else, where they would stand for coefficients
            tokenizer = Tokenizer.from_str(json.dumps(raw | {"added_tokens": [], "post_processor": None}))
        return tokenizer, token_bytes, written_with({BYTES[token] for token in raw["model"]["vocab"] if token in BYTES})


def train_bpe(numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
    """Make a byte-level tokenizer.json for rows of whole numbers [N, n], and the range (min_token, max_token) it has.

    Merges first join the two bytes of the common characters and then only whole characters: rows are as short as with
    merges of any bytes, and no merged token ends inside a coefficient.
    """
    corpus = Corpus.of(numbers, vocab_size, expected)
    merges = _train_merges(corpus)
    return _byte_level(corpus.alphabet, corpus.characters, merges), corpus.min_token, corpus.max_token


def _train_merges(corpus: Corpus) -> list[tuple[str, str]]:
    """Learn merges of whole characters."""
    tokenizer, size = Tokenizer(models.BPE()), corpus.free
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\0")  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=corpus.characters, limit_alphabet=size
    )
    tokenizer.train_from_iterator(corpus.texts, trainer)
    return [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]


def _byte_level(alphabet: list[int], characters: list[str], merges: list[tuple[str, str]]) -> str:
    """Write a tokenizer.json with the bytes of `alphabet`, `characters`, and what `merges` of characters make."""

    def spelled(text: str) -> str:
        return "".join(CHARACTERS[byte] for byte in text.encode())

    pairs = [(spelled(c)[0], spelled(c)[1]) for c in characters] + [(spelled(a), spelled(b)) for a, b in merges]
    tokens = dict.fromkeys([CHARACTERS[byte] for byte in alphabet] + [a + b for a, b in pairs])
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    # No splitting by letters and digits: which coefficient is a letter is an accident of min_token.
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = whole  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.to_str()


def _token_bytes(tokenizer: Tokenizer, added: set[str]) -> list[bytes]:
    """Return the bytes each id stands for; special tokens stand for none."""
    ids = {index: token for token, index in tokenizer.get_vocab().items()}
    if sorted(ids) != list(range(len(ids))):
        checks.fail("tokenizer.json", "ids from 0 on without a gap", f"{len(ids)} ids up to {max(ids, default=-1)}")
    return [b"" if ids[i] in added else _bytes_of(ids[i]) for i in range(len(ids))]


def _bytes_of(token: str) -> bytes:
    """Take a token with any character that stands for no byte as plain text; published vocabularies have some."""
    return bytes(BYTES[c] for c in token) if all(c in BYTES for c in token) else token.encode()
