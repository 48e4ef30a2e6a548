"""Which FAST tokens may follow one another so that a row reads as exactly H*m coefficients."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok import checks

NEVER = 1 << 40


class GrammarState(NamedTuple):
    """Coefficients read so far, and the bytes of a character that is not complete yet."""

    count: int = 0
    pending: bytes = b""


class _Continuations(NamedTuple):
    """What each token does after certain pending bytes."""

    needed: Tensor  # [K] coefficients there must be room for; huge where the token is illegal
    complete: list[int]  # coefficients that become complete
    pending: list[bytes]


class CoefficientGrammar:
    """An automaton over the tokens of a byte-level vocabulary: any path from `start` to an end decodes intact.

    A token is allowed exactly when the row can still be finished with it. The bytes of a byte-level token are tokens
    themselves, so a character can be completed byte by byte if it can be at all, and no state is a dead end.
    """

    def __init__(self, token_bytes: Sequence[bytes], known: np.ndarray, coefficients: int):
        self.coefficients = coefficients
        self._token_bytes = token_bytes
        written = [chr(point).encode() for point in np.flatnonzero(known)]
        self._prefixes = {character[:end] for character in written for end in range(1, len(character))}
        self._continuations: dict[bytes, _Continuations] = {}
        self._masks: dict[tuple[bytes, int], Tensor] = {}
        self._longest = max(map(len, token_bytes)) + 1

    @property
    def vocab_size(self) -> int:
        """Number of tokens K."""
        return len(self._token_bytes)

    def start(self) -> GrammarState:
        """Nothing read yet."""
        return GrammarState()

    def allowed(self, state: GrammarState) -> tuple[Tensor, bool]:
        """Tokens that may follow, bool [K] (shared: do not write into it), and whether the row may end here."""
        left = self.coefficients - state.count
        key = state.pending, min(left, self._longest)
        if key not in self._masks:
            self._masks[key] = self._after(state.pending).needed <= left
        return self._masks[key], left == 0 and not state.pending

    def advance(self, state: GrammarState, code: int) -> GrammarState:
        """The state after token `code`, which must be allowed."""
        if not 0 <= code < self.vocab_size or not bool(self.allowed(state)[0][code]):
            checks.fail("code", f"one that is allowed after {state.count} of {self.coefficients} coefficients", code)
        after = self._after(state.pending)
        return GrammarState(state.count + after.complete[code], after.pending[code])

    def _after(self, pending: bytes) -> _Continuations:
        if pending not in self._continuations:
            steps = [self._read(pending, token) for token in self._token_bytes]
            needed = torch.tensor([NEVER if step is None else step[0] + bool(step[1]) for step in steps])
            complete, rest = zip(*(step or (0, b"") for step in steps), strict=True)
            self._continuations[pending] = _Continuations(needed, list(complete), list(rest))
        return self._continuations[pending]

    def _read(self, pending: bytes, token: bytes) -> tuple[int, bytes] | None:
        """Characters that `token` completes after `pending` bytes, and the bytes left over; None where illegal."""
        if not token or bool(pending) != (0x80 <= token[0] < 0xC0):
            return None
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(pending + token)
        except UnicodeDecodeError:
            return None
        rest = decoder.getstate()[0]
        return (len(text), rest) if not rest or rest in self._prefixes else None
