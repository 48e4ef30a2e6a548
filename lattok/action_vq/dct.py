"""Codecs of frequencies: the chunk's cosine transform, rounded, as subwords. FAST and TOAST differ in the subwords.

coefficients = round(scale * DCT-II(chunk))     orthonormal, over time, for each dimension
codes        = subwords of the coefficients in one row
"""

import math
from abc import ABC
from array import array
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer, Repair
from lattok.action_vq.subwords import Coefficients, CoefficientSubwords, trim
from lattok.hub.weights import Size, Sizes, Tensors
from lattok.nn.blocks import dct_matrix
from lattok.nn.normalize import Normalization
from lattok.types import ActionBatch
from lattok.utils import checks
from lattok.utils.arrays import as_tensor, like
from lattok.utils.options import FROM_DATA
from lattok.utils.untrusted import JSON_BYTES, MAX_VOCABULARY

TOKENIZER = "tokenizer.json"
MAX_TOKEN = 1 << 24  # |min_token|: coefficients are far smaller
TRIED_NUMBERS = 1024  # of chunks on which a saved tokenizer is tried
MAX_VALUE = np.array(1e30)  # normalised values beyond are cut, so that their coefficients are finite


@dataclass(frozen=True)
class DCTConfig(ChunkConfig):
    """`fit` finds `min_token`, `max_token` and how many tokens there are in the end.

    Attributes:
        vocab_size: tokens to choose from, at most
        scale: rounding steps per unit of a coefficient
        min_token: the coefficient that is character 0
        max_token: the largest coefficient; None: the largest that the vocabulary can write
    """

    normalize: Normalization = "quantile"
    vocab_size: int = 1024
    scale: float = 10.0
    min_token: int = field(default=0, metadata=FROM_DATA)
    max_token: int | None = field(default=None, metadata=FROM_DATA)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(1, MAX_VOCABULARY, vocab_size=self.vocab_size)
        checks.counts(-MAX_TOKEN, MAX_TOKEN, min_token=self.min_token)
        checks.counts(-MAX_TOKEN, MAX_TOKEN, max_token=0 if self.max_token is None else self.max_token)
        if not checks.is_number(self.scale) or not 1e-6 <= self.scale <= 1e6:  # so that what is decoded is finite
            checks.fail("scale", "a number from 1e-06 to 1e+06", repr(self.scale))
        if self.max_token is not None and self.max_token < self.min_token:
            checks.fail("max_token", f"None or at least min_token, {self.min_token}", self.max_token)


class DCTTokenizer(ChunkTokenizer, ABC):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    A family names its subwords, and in which order coefficients stand in a row. Coefficients up to four times as large
    as those that `fit` saw can be written, +-960 at most; `error_report` says how many are clipped. Fewer tokens than
    `vocab_size` result where there is nothing more to merge.
    """

    config: DCTConfig
    learned_fields = ("min_token", "max_token")
    subwords_class: ClassVar[type[CoefficientSubwords]]
    # all frequencies of a dimension, then the next one; else all dimensions of a frequency
    by_dimension: ClassVar[bool]
    made_by: ClassVar[str] = ".fit or from_pretrained"
    fixed_length = False
    packages = ("numpy", "tokenizers")

    def __init__(self, config: DCTConfig):
        super().__init__(config)
        self.tokenizer_json = nn.Buffer(torch.zeros(0, dtype=torch.uint8))  # travels with the weights
        self._subwords: CoefficientSubwords | None = None

    @cached_property
    def _forward_dct(self) -> np.ndarray:
        """Turn chunks into coefficients; float64, since float32 rounds a few in a million the other way."""
        return dct_matrix(self.horizon) * self.config.scale

    @cached_property
    def _inverse_dct(self) -> np.ndarray:
        return (dct_matrix(self.horizon).T / self.config.scale).astype(np.float32)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def tokens_per_chunk(self) -> int:
        """The most tokens a chunk can take: one per byte of its coefficients."""
        return self.horizon * self.config.action_dim * self.subwords.bytes_per_number

    @property
    def subwords(self) -> CoefficientSubwords:
        return self.check_learned()

    def check_learned(self) -> CoefficientSubwords:
        """Return the vocabulary. Raises `LattokError` where there is none yet."""
        if self._subwords is None:
            checks.fail("tokenizer", "a vocabulary", "none", f"Use {type(self).__name__}{self.made_by}.")
        return self._subwords

    def extra_repr(self) -> str:
        return "no vocabulary yet" if self._subwords is None else super().extra_repr()

    def inference(self) -> AbstractContextManager[None]:
        """Do nothing: neither training mode nor an autocast changes what numpy computes."""
        return nullcontext()

    def _learn(self, batch: ActionBatch, how: Any) -> None:
        numbers, expected = self._coefficients(self._prepare(*batch)[0]), self.config.scale * self.horizon**0.5
        text, low, high = self.subwords_class.train(numbers, self.config.vocab_size, expected)
        size = self.subwords_class(text, low, high).vocab_size
        self.config = replace(self.config, vocab_size=size, min_token=low, max_token=high)
        self._adopt(text)

    def shaped(self, horizon: int, action_dim: int) -> Self:
        """Return this tokenizer for chunks of another shape [horizon, action_dim]: same vocabulary, same normaliser."""
        config, same = self.config, action_dim == self.action_dim
        if same and horizon == self.horizon:
            return self
        if not same and set(config.action_kinds) != {"identity"}:
            hint = "Load the tokenizer without statistics, and normalise actions yourself."
            checks.fail("action_dim", f"{self.action_dim}, whose normaliser it has", action_dim, hint)
        unnamed: dict[str, Any] = {} if same else {"action_names": (), "normalize_exceptions": (), "normalizers": ()}
        unnamed |= {} if same else {"spaces": ()}
        other = type(self)(replace(config, horizon=horizon, action_dim=action_dim, **unnamed))
        if same:
            other.normalizer, other.normalizers = self.normalizer, self.normalizers
        other._subwords, other.tokenizer_json = self._subwords, self.tokenizer_json
        return other.to(self.normalizer.shift.device).eval()

    def forward(self, batch: Any) -> list[list[int]]:
        """Turn chunks [B, H, m], or one [H, m], into rows of ids without padding, as the published processor does.

        Their shape may be another than the tokenizer's: see `shaped`. `encode` gives one array.
        """
        chunks = as_tensor("chunks", batch)
        chunks = chunks[None] if chunks.ndim == 2 else chunks
        checks.rank("chunks", chunks, "B H m")
        return [row[row >= 0].tolist() for row in self.shaped(*chunks.shape[1:]).encode(chunks)]

    def decode(
        self,
        codes: object,
        return_info: bool = False,
        *,
        repair: bool = False,
        time_horizon: int | None = None,
        action_dim: int | None = None,
    ) -> Any:
        """Turn codes, integers [B, L] or a list of rows, into chunks [B, H, m] in physical units.

        With `time_horizon` or `action_dim` chunks have that shape, are arrays and refuse no codes, as those of the
        published processor. See `ChunkTokenizer.decode`.
        """
        if time_horizon is None and action_dim is None:
            return super().decode(codes, return_info, repair=repair)
        asked, own = (time_horizon, action_dim), (self.horizon, self.action_dim)
        shape = [mine if each is None else each for each, mine in zip(asked, own, strict=True)]
        checks.counts(time_horizon=shape[0], action_dim=shape[1])
        other = self.shaped(*shape)
        return like(np.empty(0), super(DCTTokenizer, other).decode(codes, return_info, repair=True))

    def _save(self, folder: Path, name: str | None) -> None:
        self.check_learned()  # without a vocabulary it could not be loaded
        super()._save(folder, name)

    def check_fits(self, file: Sizes, where: str) -> None:
        """Let the tokenizer have any length; everything else is strict."""
        length = file.get("tokenizer_json", Size((0,), torch.uint8)).shape[:1] or (1,)
        self.tokenizer_json = self.tokenizer_json.new_empty(length if length[0] <= JSON_BYTES else 0)
        super().check_fits(file, where)

    def load_tensors(self, tensors: Tensors, where: str) -> None:
        super().load_tensors(tensors, where)
        self._adopt(self.tokenizer_json.cpu().numpy().tobytes().decode(errors="replace"))

    def _adopt(self, text: str) -> None:
        found = self.subwords_class(text, self.config.min_token, self.config.max_token)
        if found.vocab_size != self.config.vocab_size:
            hint = "Pass vocab_size if its training stopped early; otherwise these files do not belong together."
            checks.fail("vocab_size", f"{found.vocab_size}, as {TOKENIZER} has", self.config.vocab_size, hint)
        self._subwords = found
        self.tokenizer_json = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def _coefficients(self, actions: Tensor) -> np.ndarray:
        """Turn normalised actions [B, H, m] into whole numbers [B, H*m], float64; half-way cases go to the even one."""
        values = actions.cpu().numpy().astype(np.float64)
        if not math.isfinite(np.vdot(values, values)):  # beyond float32 once they were normalised
            values = values.clip(-MAX_VALUE, MAX_VALUE)
        numbers = np.rint(self._forward_dct @ values)  # b h m
        return (numbers.swapaxes(1, 2) if self.by_dimension else numbers).reshape(
            -1, self.horizon * self.config.action_dim
        )

    def _per_dimension(self, numbers: np.ndarray) -> np.ndarray:
        """Turn rows [B, H*m] of coefficients, or of what is said of them, into [B, H, m]."""
        if self.by_dimension:
            return numbers.reshape(-1, self.config.action_dim, self.horizon).swapaxes(1, 2)
        return numbers.reshape(-1, self.horizon, self.config.action_dim)

    def _tried(self) -> Tensor:
        """Return also chunks whose coefficients are whole numbers, far from where rounding decides."""
        chunks = super()._tried()[: max(1, TRIED_NUMBERS // (self.horizon * self.config.action_dim))]
        return torch.cat([chunks, self._decode(self._coefficients(chunks))])

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        codes = padded(self.subwords.encode(self._coefficients(actions)), self.tokens_per_chunk)
        return codes if actions.is_cpu else codes.to(actions.device)

    def _decode(self, codes: np.ndarray) -> Tensor:
        """Turn coefficients [B, H*m] into normalised actions, on the CPU."""
        return torch.from_numpy(self._inverse_dct @ self._per_dimension(codes))

    def _decode_any(self, codes: Tensor) -> Repair:
        numbers, missing, notes = self._repair(codes)
        own = slice(self.action_dim)
        chunks = self.normalizer.inverse_of_host(self._decode(numbers)[..., own].numpy())
        return Repair(chunks, missing[..., own], notes)

    def _repair(self, codes: Tensor) -> Repair:
        """Skip ids outside the vocabulary and bytes that are no character; negative ids are padding anywhere.

        The readable coefficients are kept from the first on; missing ones are 0, and those beyond the last are dropped.
        A dimension without any coefficient is not known at all.
        """
        size, rows = self.horizon * self.config.action_dim, codes.cpu().numpy()
        numbers, doubtful = self.subwords.decode(trim(rows), size)
        broken = {i: note for i, reading in doubtful.items() if (note := _note(reading, size, self.vocab_size))}
        if not broken:
            return Repair(numbers, codes, [])
        known = np.array([len(doubtful[i].coefficients) if i in broken else size for i in range(len(rows))])
        missing = ~self._per_dimension(np.arange(size) < known[:, None]).any(1, keepdims=True)
        return Repair(numbers, torch.from_numpy(missing), [broken.get(i, "") for i in range(len(rows))])

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        """Count coefficients; a dimension that a chunk does not have has none."""
        clipped = self._per_dimension(self.subwords.clipped(self._coefficients(actions)))
        there = valid.any(1).numpy(force=True)  # b m
        return float((clipped.mean(1) * there).sum() / max(1, there.sum()))


def padded(rows: list[list[int]], length: int) -> Tensor:
    """Pad rows of ids with -1, int64 [B, length]."""
    data = bytearray().join([array("q", row).tobytes().ljust(8 * length, b"\xff") for row in rows])  # -1: all bits set
    return torch.from_numpy(np.frombuffer(data, np.int64).reshape(len(rows), length))


def _note(reading: Coefficients, size: int, vocab_size: int) -> str:
    """Say what has to be repaired in a row, "" where it is exactly `size` coefficients."""
    gap = size - len(reading.coefficients)
    parts = {
        f"{reading.unknown} outside 0..{vocab_size - 1}": reading.unknown,
        f"{reading.unreadable} unreadable bytes": reading.unreadable,
        f"{gap} of {size} coefficients missing": gap > 0,
        f"{-gap} coefficients too many": gap < 0,
    }
    return "; ".join(text for text, holds in parts.items() if holds)
