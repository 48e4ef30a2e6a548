"""`P2TActionVQ` with its step decoder as a table: every action that it can emit, in physical units [K, m]."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lattok.action_vq import P2TActionVQ
from lattok.utils import checks
from lattok.utils.arrays import Values


class FastActionVQ:
    """What `lattok.for_inference` makes of a `P2TActionVQ`: a copy of its weights, on the CPU, in float32.

    `decode` checks and repairs as the tokenizer does and looks legal codes up; `table[codes]` decodes without a check.
    """

    def __init__(self, tokenizer: P2TActionVQ):
        if tokenizer.config.decoder != "step":
            hint = "The context decoder sees a whole chunk, so it has no table: use the tokenizer itself."
            checks.fail("model", "a tokenizer with the step decoder", f"decoder {tokenizer.config.decoder!r}", hint)
        self._plain = plain = copy.deepcopy(tokenizer).cpu().eval()
        with torch.no_grad(), plain._inference():
            rows = plain.normalizer.inverse(plain.decoder(plain.quantizer.codebook_vectors[0]))
        self.table = np.ascontiguousarray(rows.numpy(), dtype=np.float32)
        self._steps, self._size = (plain.horizon,), len(self.table)
        self.horizon, self.action_dim = plain.horizon, plain.action_dim
        self.vocab_size, self.tokens_per_chunk = plain.vocab_size, plain.tokens_per_chunk

    def encode(self, chunks: Any, valid: Values | None = None) -> Any:
        """Encode as `P2TActionVQ` does."""
        return self._plain.encode(chunks, valid)

    def decode(self, codes: Any, return_info: bool = False) -> Any:
        """Decode as `P2TActionVQ` does, legal codes by the table."""
        if not return_info:
            readable = isinstance(codes, Tensor) and codes.is_cpu and codes.layout is torch.strided
            readable = readable and not (codes.is_floating_point() or codes.is_quantized)
            legal = self._legal(codes.numpy() if readable else codes)
            if legal is not None:
                chunks = self.table.take(legal, 0)
                return torch.from_numpy(chunks) if isinstance(codes, Tensor) else chunks
        return self._plain.decode(codes, return_info=return_info)

    def _legal(self, codes: Any) -> NDArray[np.int64] | None:
        """Return codes int64 [B, H] if all are 0..K-1, else None; seen as unsigned, a negative number is a huge one."""
        if not isinstance(codes, np.ndarray) or codes.shape[1:] != self._steps or not codes.size:
            return None
        if codes.dtype != _INT64:
            if codes.dtype.kind not in "iu":
                return None
            codes = codes.astype(np.int64)
        return codes if _largest(codes.view(np.uint64), None) < self._size else None


_largest, _INT64 = np.maximum.reduce, np.dtype(np.int64)  # at one chunk every look-up of a name counts
