"""Generation that cannot leave the code sequences a tokenizer understands.

A grammar says which codes may follow; `CodeConstraint` applies it to the logits of a language model, in the way of a
transformers `LogitsProcessor`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lattok import checks


class Grammar(Protocol):
    """Which codes may follow which. States are hashable."""

    @property
    def vocab_size(self) -> int:
        """Number of codes K."""
        ...

    def start(self) -> Any:
        """The state before the first code."""
        ...

    def allowed(self, state: Any) -> tuple[Tensor, bool]:
        """Codes that may come next, bool [K], and whether the row may end here. At least one of them."""
        ...

    def advance(self, state: Any, code: int) -> Any:
        """The state after an allowed `code`."""
        ...


@dataclass(frozen=True)
class SlotGrammar:
    """A fixed number of codes; slot i takes codes below `sizes[i]`. The state is the number of codes so far."""

    sizes: tuple[int, ...]

    @property
    def vocab_size(self) -> int:
        """The largest slot."""
        return max(self.sizes)

    def start(self) -> int:
        """No code yet."""
        return 0

    def allowed(self, state: int) -> tuple[Tensor, bool]:
        """Codes of this slot; the end after the last one."""
        end = state == len(self.sizes)
        return torch.arange(self.vocab_size) < (0 if end else self.sizes[state]), end

    def advance(self, state: int, code: int) -> int:
        """One code more."""
        return state + 1


class CodeConstraint:
    """Sets the logits of all tokens that would make a row undecodable to -inf.

    Code k is token `first_token_id + k` of the language model. Codes begin after `prompt_length` tokens (the width of
    the left-padded prompt; 0 in an encoder-decoder model that starts with the first code) and end with `eos_token_id`.

    >>> constraint = tokenizer.logits_processor(first_token_id=50000, eos_token_id=2, prompt_length=inputs.shape[1])
    >>> model.generate(inputs, logits_processor=[constraint], max_new_tokens=tokenizer.tokens_per_chunk + 1)
    """

    def __init__(self, grammar: Grammar, first_token_id: int, eos_token_id: int, prompt_length: int):
        checks.whole(first_token_id=first_token_id, eos_token_id=eos_token_id, prompt_length=prompt_length)
        codes = range(first_token_id, first_token_id + grammar.vocab_size)
        if eos_token_id in codes:
            checks.fail("eos_token_id", f"a token that is no code ({codes.start}..{codes.stop - 1})", eos_token_id)
        self.grammar, self.first, self.eos, self.prompt_length = grammar, first_token_id, eos_token_id, prompt_length
        self._states: dict[tuple[int, ...], Hashable] = {}  # of the rows of the last call

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Token ids so far [B, L] and logits of the next [B, V] to logits [B, V]."""
        last = self.first + self.grammar.vocab_size - 1
        if scores.shape[-1] <= max(last, self.eos):
            checks.fail("scores", f"logits of at least {max(last, self.eos) + 1} tokens", scores.shape[-1])
        if input_ids.shape[1] < self.prompt_length:
            checks.fail("input_ids", f"at least prompt_length = {self.prompt_length} tokens", input_ids.shape[1])
        rows = [tuple(row) for row in input_ids[:, self.prompt_length :].tolist()]
        states = {row: self._state(row) for row in rows}
        self._states = states
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for mask, row in zip(allowed, rows, strict=True):
            codes, mask[self.eos] = (None, True) if states[row] is None else self.grammar.allowed(states[row])
            if codes is not None:
                mask[self.first : self.first + len(codes)] = codes
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _state(self, row: tuple[int, ...]) -> Hashable:
        """State after a row of tokens; None after its end."""
        known = next((n for n in range(len(row), 0, -1) if row[:n] in self._states), 0)
        state = self._states[row[:known]] if known else self.grammar.start()
        for token in row[known:]:
            state = self._next(state, token)
        return state

    def _next(self, state: Hashable, token: int) -> Hashable:
        """State after one token more."""
        if state is None:
            return None
        codes, end = self.grammar.allowed(state)
        if token == self.eos and end:
            return None
        code = token - self.first
        if not 0 <= code < len(codes) or not bool(codes[code]):
            expected = f"codes after the first {self.prompt_length} tokens"
            checks.fail("input_ids", expected, f"token {token}", "Is `prompt_length` the width of the prompt?")
        return self.grammar.advance(state, code)
