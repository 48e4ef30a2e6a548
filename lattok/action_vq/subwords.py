"""Subwords of whole numbers, which DCT coefficients are after rounding (Pertsch et al., 2025, section 4).

coefficient c -> character chr(c - min_token) -> its UTF-8 bytes -> tokens, which are runs of bytes
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from lattok.utils import checks

LAST_CHARACTER = 0xD7FF  # the last character before the surrogates, which no text can hold
MAX_ABS = 960  # |coefficient| that characters of two bytes can hold: 128 .. 2047, 0 in the middle
MAX_CLIPPED_SHARE = 0.1  # share of coefficients beyond it that may be outliers; with more the scale is wrong
PARTIAL = 1 << 40  # counts as so many characters that no row with such a token has the right number
ALL_CHARACTERS = "".join(map(chr, range(LAST_CHARACTER + 1)))


class Coefficients(NamedTuple):
    """Coefficients of a row of ids."""

    coefficients: np.ndarray  # int [n], however many there were
    unknown: int  # ids outside the vocabulary, skipped
    unreadable: int  # bytes that are no character, skipped


class CoefficientSubwords(ABC):
    """Rows of whole numbers to token ids and back, exactly as the tokenizer in `text` (tokenizer.json) does.

    Numbers that the vocabulary cannot write, or above `max_token`, become the nearest ones it can: tokenizers drop
    unknown characters silently.
    """

    needs: ClassVar[str]  # of a tokenizer.json, for those that cannot be used

    def __init__(self, text: str, min_token: int, max_token: int | None = None):
        self.min_token = min_token
        self._tokenizer, self.token_bytes, self.known = self._read(text)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.known[max(0, LAST_CHARACTER if max_token is None else max_token - min_token) + 1 :] = False
        points = np.flatnonzero(self.known)
        if not len(points):
            checks.fail("tokenizer.json", "a vocabulary that can write coefficients", "one that cannot", self.needs)
        first, last = int(points[0]), int(points[-1])
        self.bytes_per_number = len(chr(last).encode())  # the most bytes, and so tokens, that one number can take
        self._nearest = None if len(points) == last - first + 1 else _nearest(points)
        # Arrays, because numpy takes a microsecond to make one of each Python number.
        self._shift = np.array(min_token, dtype=np.int32)
        self._lowest, self._highest = (np.array(float(point + min_token)) for point in (first, last))
        # characters of -1, of each token, and of ids too large
        self._count = np.array([0, *map(_characters, self.token_bytes), PARTIAL])

    @staticmethod
    @abstractmethod
    def _read(text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        """Read a tokenizer.json: the tokenizer, the bytes of each id, and which characters it can write, bool."""

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    def encode(self, numbers: np.ndarray) -> list[list[int]]:
        """Turn whole numbers [B, n] into ids, a list per row."""
        count, n = numbers.shape
        points = self._points(numbers).astype("<u2", copy=False)
        text = points.tobytes().decode("utf-16-le")
        rows = [text[i : i + n] for i in range(0, count * n, n)]
        return [row.ids for row in self._tokenizer.encode_batch_fast(rows, add_special_tokens=False)]

    def clipped(self, numbers: np.ndarray) -> np.ndarray:
        """Tell which whole numbers [B, n] the vocabulary cannot write."""
        return self._points(numbers) != numbers - self.min_token

    def decode(self, codes: np.ndarray, n: int) -> np.ndarray:
        """Turn codes [B, L], each row legal, into whole numbers int32 [B, n]."""
        ids = codes[codes >= 0].tolist()
        return self._numbers(b"".join(map(self.token_bytes.__getitem__, ids)).decode()).reshape(-1, n)

    def read(self, codes: np.ndarray) -> Coefficients:
        """Read what any codes [L] say; negative ones are padding."""
        ids = codes[codes >= 0]
        known = ids[ids < self.vocab_size].tolist()
        data = b"".join(map(self.token_bytes.__getitem__, known))
        text = data.decode(errors="ignore")
        return Coefficients(self._numbers(text), len(ids) - len(known), len(data) - len(text.encode()))

    def plainly_whole(self, codes: np.ndarray, n: int) -> np.ndarray:
        """Tell which rows [B] of codes [B, L] hold n numbers in tokens of whole characters; others need `read`."""
        return self._count.take(np.minimum(codes, self.vocab_size) + 1, mode="clip").sum(1) == n

    def _numbers(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-32-le"), "<i4") + self._shift

    def _points(self, numbers: np.ndarray) -> np.ndarray:
        """Return the character of each number float64, or the nearest one that can be written."""
        points = (numbers.clip(self._lowest, self._highest) - self._shift).astype(np.uint16)
        return points if self._nearest is None else self._nearest[points]


class Corpus(NamedTuple):
    """Rows of whole numbers as rows of characters, from which a vocabulary is learned."""

    texts: list[str]  # rare characters are 0, which separates
    characters: list[str]  # that deserve a token of their own, the most common one first
    alphabet: list[int]  # bytes of all characters that can be written
    free: int  # tokens besides these bytes
    min_token: int
    max_token: int

    @classmethod
    def of(cls, numbers: np.ndarray, vocab_size: int, expected: float) -> Corpus:
        """Write rows of whole numbers [N, n] as characters of two bytes.

        The range is four times what was seen or is `expected`, and at most +-960; what is beyond is clipped, as it is
        in encoding.
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
        free = vocab_size - len(alphabet)
        if free < 8:
            hint = f"{len(alphabet)} bytes must be in the vocabulary."
            checks.fail("vocab_size", f"at least {len(alphabet) + 8}", vocab_size, hint)
        values, counts = np.unique(numbers, return_counts=True)
        # A rare value is written as two bytes: a token of its own would save less than a longer run does.
        common = values[np.argsort(-counts, kind="stable")[: free // 3]].astype(int)
        characters = [chr(value - min_token) for value in common]
        points = np.where(np.isin(numbers, common), numbers - min_token, 0).astype("<u2")
        texts = [row.tobytes().decode("utf-16-le") for row in points]
        return cls(texts, characters, alphabet, free, min_token, reach - 1)


def read_tokenizer(text: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Read the tokenizer of a tokenizer.json, and its content as the library writes it."""
    try:
        given = json.loads(text)
        before = (
            given.get("normalizer") if isinstance(given, dict) else None
        )  # set aside: the library panics at damaged ones
        tokenizer = Tokenizer.from_str(json.dumps({**given, "normalizer": None}) if before else text)
        raw = json.loads(tokenizer.to_str())  # merges as pairs: older files write them as one string
        return tokenizer, raw | {"normalizer": before}
    except BaseException as error:  # the bindings raise bare exceptions, and panics are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        got = f"something else ({checks.first_line(error)[:200]})"
        return checks.fail("tokenizer.json", "a tokenizer of the `tokenizers` library", got)


def written_with(alphabet: Collection[int]) -> np.ndarray:
    """Tell which characters 0 .. 0xD7FF can be written with these bytes, bool."""
    written = np.frombuffer(ALL_CHARACTERS.encode(), np.uint8)
    begins = np.flatnonzero(written & 0xC0 != 0x80)  # of each character
    return np.logical_and.reduceat(np.isin(np.arange(256), list(alphabet))[written], begins)


def trimmed(codes: np.ndarray) -> np.ndarray:
    """Cut off the columns on the right of codes [B, L] that are only padding; most rows are far shorter than P."""
    used = np.flatnonzero((codes >= 0).any(0))
    return codes[:, : used[-1] + 1 if len(used) else 0]


def _characters(token: bytes) -> int:
    """Count the characters of a token; `PARTIAL` where it begins or ends inside one."""
    try:
        return len(token.decode())
    except UnicodeDecodeError:
        return PARTIAL


def _nearest(points: np.ndarray) -> np.ndarray:
    """Find the nearest of sorted `points` for each character 0 .. 0xD7FF, uint16; the lower of two."""
    middles = (points[:-1] + points[1:]) / 2
    return points[np.searchsorted(middles, np.arange(LAST_CHARACTER + 1))].astype(np.uint16)
