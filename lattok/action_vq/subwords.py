"""Subwords of whole numbers, which DCT coefficients are after rounding (Pertsch et al., 2025, section 4).

coefficient c -> character chr(c - min_token) -> its UTF-8 bytes -> tokens, which are runs of bytes

They are those of a `tokenizer.json`: any byte-level byte-pair encoding (FAST), or the likeliest pieces of a unigram
language model (TOAST), where what has no piece is written by its bytes, so that any coefficient in range can be.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lattok.utils import checks
from lattok.utils.untrusted import MAX_VOCABULARY, parse_json

LAST_CHARACTER = 0xD7FF  # the last character before the surrogates, which no text can hold
MAX_ABS = 960  # |coefficient| that characters of two bytes can hold: 128 .. 2047, 0 in the middle
MAX_CLIPPED_SHARE = 0.1  # share of coefficients beyond it that may be outliers; with more the scale is wrong
UNSIGNED = np.dtype("<u2")  # as characters stand in UTF-16
ALL_CHARACTERS = "".join(map(chr, range(LAST_CHARACTER + 1)))


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
        """Return which whole numbers [B, n] the vocabulary cannot write."""
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

    def taught(self, model: models.Model, trainer: trainers.Trainer) -> dict[str, Any]:
        """Return what a model of the library says of itself once `trainer` has shown it the texts."""
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\0")  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.train_from_iterator(self.texts, trainer)
        return json.loads(tokenizer.to_str())["model"]


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


def _check_ids(given: object) -> None:
    """Refuse ids far beyond any vocabulary: the library takes memory for all below them, and ends the process."""
    model = given.get("model") if isinstance(given, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = given.get("added_tokens") if isinstance(given, dict) else None
    ids = [*vocab.values()] if isinstance(vocab, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if any(not checks.is_int(i) or not 0 <= i < MAX_VOCABULARY for i in ids):
        raise ValueError(f"ids beyond {MAX_VOCABULARY:,}")


def written_with(alphabet: Collection[int]) -> np.ndarray:
    """Return which characters 0 .. 0xD7FF can be written with these bytes, bool."""
    written = np.frombuffer(ALL_CHARACTERS.encode(), np.uint8)
    begins = np.flatnonzero(written & 0xC0 != 0x80)  # of each character
    return np.logical_and.reduceat(np.isin(np.arange(256), list(alphabet))[written], begins)


def trim(codes: np.ndarray) -> np.ndarray:
    """Cut off the columns on the right of codes [B, L] that are only padding; most rows are far shorter than P."""
    if len(codes) == 1:
        return codes[codes >= 0][None]
    used = np.flatnonzero((codes >= 0).any(0))
    return codes[:, : used[-1] + 1 if len(used) else 0]
