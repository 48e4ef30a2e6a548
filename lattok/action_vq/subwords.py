"""Subwords of whole numbers, which DCT coefficients are after rounding (Pertsch et al., 2025, section 4).

coefficient c -> character chr(c - min_token) -> its UTF-8 bytes -> tokens, which are runs of bytes

They are those of a `tokenizer.json`: any byte-level byte-pair encoding (FAST), or the likeliest pieces of a unigram
language model (TOAST), where what has no piece is written by its bytes, so that any coefficient in range can be.

pieces = argmax over all ways to cut the row of  sum score(piece)     the score: a log-probability (Kudo, 2018)
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lattok.utils import checks
from lattok.utils.untrusted import MAX_VOCABULARY, parse_json

LAST_CHARACTER = 0xD7FF  # the last character before the surrogates, which no text can hold
MAX_ABS = 960  # |coefficient| that characters of two bytes can hold: 128 .. 2047, 0 in the middle
MAX_CLIPPED_SHARE = 0.1  # share of coefficients beyond it that may be outliers; with more the scale is wrong
UNSIGNED = np.dtype("<u2")  # as characters stand in UTF-16
ALL_CHARACTERS = "".join(map(chr, range(LAST_CHARACTER + 1)))

_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level tokenizers write as they are
CHARACTERS = {byte: chr(byte) for byte in _SHOWN}  # what they write for each (Radford et al., 2019)
CHARACTERS |= {byte: chr(256 + i) for i, byte in enumerate(sorted({*range(256)} - {*_SHOWN}))}
BYTES = {character: byte for byte, character in CHARACTERS.items()}
UNSUPPORTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # with them codes are not their bytes

UNKNOWN = "<unk>"  # has an id because the library wants one; stands for nothing
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_SCORE = 10**6  # of a score; logarithms of probabilities are far smaller
DIGITS = 6  # of scores: the last digits of a logarithm are the machine's
SPARE, ROUNDS = 1.25, 2  # pieces that are asked for, for each that is kept; how often all of them are counted


class Coefficients(NamedTuple):
    """Coefficients of a row of ids."""

    coefficients: np.ndarray  # int [n], however many there were
    unknown: int  # ids outside the vocabulary, skipped
    unreadable: int  # bytes that are no character, skipped


class CoefficientSubwords(ABC):
    """Rows of whole numbers to token ids and back, exactly as the tokenizer in `text` (tokenizer.json) does.

    Numbers that the vocabulary cannot write, or above `max_token`, become the nearest: tokenizers drop them silently.
    """

    needs: ClassVar[str]  # of a tokenizer.json, for those that cannot be used

    def __init__(self, text: str, min_token: int, max_token: int | None = None):
        self.min_token = min_token
        self._tokenizer, self.token_bytes, self.known = self._read(text)
        self.vocab_size = len(self.token_bytes)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.known[max(0, LAST_CHARACTER if max_token is None else max_token - min_token) + 1 :] = False
        if not len(points := np.flatnonzero(self.known)):
            checks.fail("tokenizer.json", "a vocabulary that can write coefficients", "one that cannot", self.needs)
        first, last = int(points[0]), int(points[-1])
        self.bytes_per_number = len(chr(last).encode())  # the most bytes, and so tokens, that one number can take
        self._nearest: np.ndarray | None = None  # the character that is written for each; the lower of two
        if len(points) < last - first + 1:
            middles = (points[:-1] + points[1:]) / 2
            self._nearest = points[np.searchsorted(middles, np.arange(LAST_CHARACTER + 1))].astype(UNSIGNED)
        # Arrays, because numpy takes a microsecond to make one of each Python number.
        self._shift = np.array(min_token, dtype=np.int32)
        self._lowest, self._highest = (np.array(float(point + min_token)) for point in (first, last))
        self._numbers_of = {-1: b""}  # float32 numbers that a token of whole characters stands for
        for i, data in enumerate(self.token_bytes):
            with suppress(UnicodeDecodeError):
                self._numbers_of[i] = self._numbers(data.decode()).astype(np.float32).tobytes()

    @classmethod
    @abstractmethod
    def _read(cls, text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        """Read a tokenizer.json: the tokenizer, the bytes of each id, and which characters it can write, bool."""

    @classmethod
    @abstractmethod
    def train(cls, numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
        """Make a tokenizer.json for rows of whole numbers [N, n], and the range (min_token, max_token) that it has."""

    def encode(self, numbers: np.ndarray) -> list[list[int]]:
        """Turn whole numbers [B, n] into ids, a list per row."""
        return [row.ids for row in self._tokenizer.encode_batch_fast(self._texts(numbers), add_special_tokens=False)]

    def clipped(self, numbers: np.ndarray) -> np.ndarray:
        """Tell which whole numbers [B, n] the vocabulary cannot write."""
        return self._points(numbers) != numbers - self.min_token

    def decode(self, codes: np.ndarray, n: int) -> tuple[np.ndarray, dict[int, Coefficients]]:
        """Turn any codes [B, L] into whole numbers float32 [B, n], and tell how the rows were read that need care.

        What is missing in these is 0, and what is too much is dropped.
        """
        rows, doubtful = [], {}
        for i, row in enumerate(codes.tolist()):
            try:
                numbers = b"".join(map(self._numbers_of.__getitem__, row))
            except KeyError:  # not of tokens of whole characters alone
                numbers = b""
            if len(numbers) != 4 * n:
                doubtful[i] = self.read(codes[i])
                numbers = doubtful[i].coefficients[:n].astype("<f4").tobytes().ljust(4 * n, b"\0")
            rows.append(numbers)
        return np.frombuffer(bytearray().join(rows), np.float32).reshape(-1, n), doubtful

    def read(self, codes: np.ndarray) -> Coefficients:
        """Read what any codes [L] say; negative ones are padding."""
        ids = codes[codes >= 0]
        known = ids[ids < self.vocab_size].tolist()
        data = b"".join(map(self.token_bytes.__getitem__, known))
        text = data.decode(errors="ignore")
        return Coefficients(self._numbers(text), len(ids) - len(known), len(data) - len(text.encode()))

    def _numbers(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-32-le"), "<i4") + self._shift

    def _texts(self, numbers: np.ndarray) -> list[str]:
        """Write whole numbers [B, n] as rows of characters."""
        n, text = numbers.shape[1], self._points(numbers).tobytes().decode("utf-16-le")
        return [text[i : i + n] for i in range(0, len(text), n)]

    def _points(self, numbers: np.ndarray) -> np.ndarray:
        """Return the character of each number float64, or the nearest one that can be written."""
        points = (np.minimum(np.maximum(numbers, self._lowest), self._highest) - self._shift).astype(UNSIGNED)
        return points if self._nearest is None else self._nearest.take(points, mode="clip")


class Corpus(NamedTuple):
    """Rows of whole numbers as rows of characters, from which a vocabulary is learned."""

    texts: list[str]  # rare characters are 0, which separates
    characters: list[str]  # that deserve a token of their own, the most common one first
    alphabet: list[int]  # bytes of all characters that can be written
    free: int  # tokens besides these bytes
    min_token: int
    max_token: int

    @classmethod
    def of(cls, numbers: np.ndarray, vocab_size: int, expected: float, other: int = 0) -> "Corpus":
        """Write rows of whole numbers [N, n] as characters of two bytes; `other` tokens are for something else.

        The range is four times what was seen or is `expected`, and at most +-960; what is beyond is clipped.
        """
        beyond = float((np.abs(numbers) > MAX_ABS).mean())
        if beyond > MAX_CLIPPED_SHARE:
            got = f"{beyond:.0%} of them beyond"
            checks.fail("scale", f"one that keeps coefficients within +-{MAX_ABS}", got, "Choose a smaller scale.")
        numbers = numbers.clip(-MAX_ABS, MAX_ABS - 1)  # the limit itself would take three bytes
        seen = int(np.abs(numbers).max())
        reach = min(MAX_ABS, 32 * int(np.ceil(4 * max(seen, expected) / 32)))  # full lead bytes: 64 characters each
        min_token = -reach - 128
        alphabet = sorted({byte for point in range(128, 128 + 2 * reach) for byte in chr(point).encode()})
        if (free := vocab_size - other - len(alphabet)) < 8:
            hint = f"{len(alphabet)} bytes must be in the vocabulary."
            checks.fail("vocab_size", f"at least {len(alphabet) + other + 8}", vocab_size, hint)
        values, counts = np.unique(numbers, return_counts=True)
        # A rare value is written as two bytes: a token of its own would save less than a longer run does.
        common = values[np.argsort(-counts, kind="stable")[: free // 3]].astype(int)
        characters = [chr(value - min_token) for value in common]
        points = np.where(np.isin(numbers, common), numbers - min_token, 0).astype("<u2")
        texts = [row.tobytes().decode("utf-16-le") for row in points]
        return cls(texts, characters, alphabet, free, min_token, reach - 1)

    def scored(self, pieces: Collection[str]) -> list[tuple[str, float]]:
        """Keep the most common pieces, as many as are free, and score them by how often the likeliest cuts have them.

        This follows from whole numbers alone: the library adds up expectations in any order, so that which pieces are
        rare, and what they score, differs from run to run.
        """
        text, found = "\0".join(self.texts), list[tuple[str, float]]()
        runs = (text[i : i + n] for n in sorted(set(map(len, pieces))) for i in range(len(text) - n + 1))
        counts = dict.fromkeys(pieces, 0) | Counter(run for run in runs if run in pieces)
        for size in [len(counts)] * ROUNDS + [self.free] * ROUNDS:
            kept = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece], piece))[:size]
            total = sum(counts[piece] for piece in kept)
            found = [(piece, round(math.log(max(counts[piece], 0.5) / total), DIGITS)) for piece in kept]
            model = models.Unigram([*found, (UNKNOWN, 0.0)], unk_id=len(found))
            cuts = Tokenizer(model).encode_batch_fast(text.split("\0"))
            ids = np.bincount([i for cut in cuts for i in cut.ids], minlength=size)
            counts = dict(zip(kept, ids.tolist(), strict=False))
        return found

    def taught(self, model: Any, trainer: Any) -> dict[str, Any]:
        """Return what a model of the library says of itself once `trainer` has shown it the texts."""
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\0")  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.train_from_iterator(self.texts, trainer)
        return json.loads(tokenizer.to_str())["model"]


class CoefficientBPE(CoefficientSubwords):
    """Subwords of any byte-level byte-pair encoding."""

    needs = "FAST needs a byte-level BPE without a prefix space and without a normalizer."

    @classmethod
    def train(cls, numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
        # Merges first join the two bytes of the common characters and then only whole characters: rows are as short as
        # with merges of any bytes, and no merged token ends inside a coefficient.
        corpus = Corpus.of(numbers, vocab_size, expected)
        characters, size = corpus.characters, corpus.free
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=characters, limit_alphabet=size
        )
        pairs = [(first, second) for first, second in map(_spelled, characters)]
        pairs += [(_spelled(a), _spelled(b)) for a, b in corpus.taught(models.BPE(), trainer)["merges"]]
        tokens = dict.fromkeys([CHARACTERS[byte] for byte in corpus.alphabet] + [a + b for a, b in pairs])
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
        # No splitting by letters and digits: which coefficient is a letter is an accident of min_token.
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = whole  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        return tokenizer.to_str(), corpus.min_token, corpus.max_token

    @classmethod
    def _read(cls, text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        tokenizer, raw = read_tokenizer(text)
        before = raw.get("pre_tokenizer") or {}
        plain = before.get("type") == "ByteLevel" and not before.get("add_prefix_space") and not raw.get("normalizer")
        if raw["model"].get("type") != "BPE" or not plain:
            got = f"{raw['model'].get('type')} after {before.get('type')}"
            checks.fail("tokenizer.json", "a byte-level BPE", got, cls.needs)
        if wrong := [name for name in UNSUPPORTED if raw["model"].get(name)]:
            checks.fail("tokenizer.json", "a byte-level BPE", f"one with {', '.join(wrong)}", cls.needs)
        made = {*BYTES, *(first + second for first, second in raw["model"]["merges"])}
        added = {token["content"] for token in raw.get("added_tokens", [])}
        token_bytes = _token_bytes(tokenizer, added - made)
        if added:  # they are looked for in a text before anything else, where they would stand for coefficients
            tokenizer = Tokenizer.from_str(json.dumps(raw | {"added_tokens": [], "post_processor": None}))
        return tokenizer, token_bytes, written_with({BYTES[token] for token in raw["model"]["vocab"] if token in BYTES})


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
        found = corpus.scored({piece for piece, _ in corpus.taught(models.Unigram(), trainer)["vocab"]})
        always = [(UNKNOWN, 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in corpus.alphabet)]
        pieces = [*always, *sorted(found, key=lambda each: (-each[1], each[0]))]
        text = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True)).to_str()
        return text, corpus.min_token, corpus.max_token


def _spelled(text: str) -> str:
    return "".join(CHARACTERS[byte] for byte in text.encode())


def _token_bytes(tokenizer: Tokenizer, added: set[str]) -> list[bytes]:
    """Return the bytes each id stands for; special tokens stand for none."""
    ids = {index: token for token, index in tokenizer.get_vocab().items()}
    if sorted(ids) != list(range(len(ids))):
        checks.fail("tokenizer.json", "ids from 0 on without a gap", f"{len(ids)} ids up to {max(ids, default=-1)}")
    tokens = ["" if ids[i] in added else ids[i] for i in range(len(ids))]
    # One with any character that stands for no byte is plain text; published vocabularies have some.
    return [bytes(map(BYTES.__getitem__, each)) if BYTES.keys() >= set(each) else each.encode() for each in tokens]


def read_tokenizer(text: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Read the tokenizer of a tokenizer.json, and its content as the library writes it."""
    try:
        given = parse_json(text, "tokenizer.json", nan=True, nul=True)  # NUL is the token of a coefficient
        _check_ids(given)
        # set aside: the library panics at damaged ones
        before = given.get("normalizer") if isinstance(given, dict) else None
        tokenizer = Tokenizer.from_str(json.dumps({**given, "normalizer": None}) if before else text)
        raw = json.loads(tokenizer.to_str())  # merges as pairs: older files write them as one string
        return tokenizer, raw | {"normalizer": before}
    except BaseException as error:  # the bindings raise bare exceptions, and panics are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        got = f"something else ({checks.first_line(error)[:200]})"
        return checks.fail("tokenizer.json", "a tokenizer of the `tokenizers` library", got)


def _check_ids(given: Any) -> None:
    """Refuse ids far beyond any vocabulary: the library takes memory for all below them, and ends the process."""
    model = given.get("model") if isinstance(given, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = given.get("added_tokens") if isinstance(given, dict) else None
    ids = [*vocab.values()] if isinstance(vocab, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if any(not checks.is_int(i) or not 0 <= i < MAX_VOCABULARY for i in ids):
        raise ValueError(f"ids beyond {MAX_VOCABULARY:,}")


def written_with(alphabet: Collection[int]) -> np.ndarray:
    """Tell which characters 0 .. 0xD7FF can be written with these bytes, bool."""
    written = np.frombuffer(ALL_CHARACTERS.encode(), np.uint8)
    begins = np.flatnonzero(written & 0xC0 != 0x80)  # of each character
    return np.logical_and.reduceat(np.isin(np.arange(256), list(alphabet))[written], begins)


def trim(codes: np.ndarray) -> np.ndarray:
    """Cut off the columns on the right of codes [B, L] that are only padding; most rows are far shorter than P."""
    if len(codes) == 1:
        return codes[codes >= 0][None]
    used = np.flatnonzero((codes >= 0).any(0))
    return codes[:, : used[-1] + 1 if len(used) else 0]
