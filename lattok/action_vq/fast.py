"""FAST (Pertsch et al., 2025): frequencies of the chunk, rounded, in byte-pair codes.

coefficients = round(scale * DCT-II(chunk))     orthonormal, over time, for each dimension
codes        = BPE(coefficients [H, m] row by row: the lowest frequencies of all dimensions come first)

Reads and writes the published format too: `tokenizer.json` and `processor_config.json`. Under transformers 5 the
published class puts the former into the folder `bpe_tokenizer/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lattok import checks, files
from lattok.action_vq.base import ChunkTokenizer, Repaired
from lattok.action_vq.bpe import CoefficientBPE, Coefficients, train, trimmed
from lattok.action_vq.config import ChunkConfig
from lattok.action_vq.inputs import Arrays
from lattok.arrays import Values, as_tensor, like
from lattok.checks import LattokError
from lattok.hub import client
from lattok.hub.client import HubOptions
from lattok.hub.weights import Size, Sizes
from lattok.normalize import read_statistics

INSIDE = "bpe_tokenizer"
TOKENIZER, PROCESSOR = "tokenizer.json", "processor_config.json"
FARTHEST = np.array(1e30)  # normalised values beyond are cut, so that their coefficients are finite


@dataclass(frozen=True)
class FASTConfig(ChunkConfig):
    """`fit` finds `min_token`, `max_token` and how many tokens there are in the end."""

    from_data = ChunkConfig.from_data | {"min_token", "max_token"}

    normalize: str = "quantile"
    vocab_size: int = 1024
    scale: float = 10.0  # rounding steps per unit of a coefficient
    min_token: int = 0  # the coefficient that is character 0
    max_token: int | None = None  # the largest coefficient; None: the largest that the vocabulary can write

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(vocab_size=self.vocab_size)
        for name, value in {"min_token": self.min_token, "max_token": self.max_token or 0}.items():
            if isinstance(value, bool) or not isinstance(value, int):
                checks.fail(name, "a whole number", repr(value))
        checks.positive(scale=self.scale)
        if self.max_token is not None and self.max_token < self.min_token:
            checks.fail("max_token", f"None or at least min_token, {self.min_token}", self.max_token)


class FAST(ChunkTokenizer):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    >>> tokenizer = FAST.fit(chunks, vocab_size=1024)            # [N, H, m] in physical units
    >>> tokenizer = FAST.from_published("physical-intelligence/fast", action_dim=7, horizon=8)
    >>> tokenizer.decode(tokenizer(chunks), time_horizon=8, action_dim=7)   # as the published processor is called
    """

    type = "fast"
    config_class = FASTConfig
    config: FASTConfig
    fixed_length = False

    def __init__(self, config: FASTConfig):
        super().__init__(config)
        self.register_buffer("tokenizer_json", torch.zeros(0, dtype=torch.uint8))  # travels with the weights
        self.tokenizer_json: Tensor
        self._bpe: CoefficientBPE | None = None

    @cached_property
    def _forward_dct(self) -> np.ndarray:
        """Turn chunks into coefficients; float64, since float32 rounds a few in a million the other way."""
        return dct_matrix(self.horizon) * self.config.scale

    @cached_property
    def _inverse_dct(self) -> np.ndarray:
        return (dct_matrix(self.horizon).T / self.config.scale).astype(np.float32)

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens."""
        return self.config.vocab_size

    @property
    def tokens_per_chunk(self) -> int:
        """Return the most tokens a chunk can take: one per byte of its coefficients."""
        return self.horizon * self.action_dim * self.bpe.bytes_per_number

    @property
    def bpe(self) -> CoefficientBPE:
        """Return the byte-pair encoding of coefficients."""
        if self._bpe is None:
            checks.fail("tokenizer", "a vocabulary", "none", "Use FAST.fit, from_published or from_pretrained.")
        return self._bpe

    @classmethod
    def fit(cls, chunks: Arrays, valid: Values | None = None, *, seed: int = 0, **options: Any) -> Self:
        """Learn a vocabulary from chunks [N, H, m] in physical units, or a list of such arrays.

        Coefficients up to four times as large as those seen can be written, +-960 at most; `error_report` says how many
        are clipped. Nothing is random; `seed` is there so that all families are called alike. Fewer tokens than
        `vocab_size` result where there is nothing more to merge.
        """
        for name in {"min_token", "max_token"} & set(options):
            raise LattokError(f"`{name}` cannot be given, it follows from the chunks (got {options[name]}).")
        model, batch = cls._from_chunks(chunks, valid, options)
        scale, horizon = model.config.scale, model.horizon
        numbers = model._coefficients(model._prepare(batch.chunks, batch.valid)[0])
        text, low, high = train(numbers, model.config.vocab_size, expected=scale * horizon**0.5)
        bpe = CoefficientBPE(text, low, high)
        model.config = replace(model.config, vocab_size=bpe.vocab_size, min_token=low, max_token=high)
        return model._adopt(text).eval()

    def shaped(self, horizon: int, action_dim: int) -> Self:
        """Return this tokenizer for chunks of another shape [horizon, action_dim]: same vocabulary, same normaliser.

        A normaliser knows its dimensions: for another number of them there must be none.
        """
        config, same = self.config, action_dim == self.action_dim
        if same and horizon == self.horizon:
            return self
        if not same and set(config.action_kinds) != {"identity"}:
            hint = "Load the tokenizer without statistics, and normalise actions yourself."
            checks.fail("action_dim", f"{self.action_dim}, whose normaliser it has", action_dim, hint)
        unnamed: dict[str, Any] = {} if same else {"action_names": (), "normalize_exceptions": (), "normalizers": ()}
        other = type(self)(replace(config, horizon=horizon, action_dim=action_dim, **unnamed))
        if same:
            other.normalizer, other.normalizers = self.normalizer, self.normalizers
        other._bpe, other.tokenizer_json = self._bpe, self.tokenizer_json
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
        self, codes: Any, return_info: bool = False, *, time_horizon: int | None = None, action_dim: int | None = None
    ) -> Any:
        """Turn codes, any integers [B, L] or a list of rows, into chunks [B, H, m] in physical units; refuse none.

        With `time_horizon` or `action_dim` chunks have that shape and are arrays, as the published processor has them.
        See `ChunkTokenizer.decode`.
        """
        if time_horizon is None and action_dim is None:
            return super().decode(codes, return_info)
        shape = {"time_horizon": time_horizon or self.horizon, "action_dim": action_dim or self.action_dim}
        checks.counts(**shape)
        return like(np.empty(0), super(FAST, self.shaped(*shape.values())).decode(codes, return_info))

    @classmethod
    def from_published(
        cls,
        source: str | os.PathLike[str],
        *,
        action_dim: int | None = None,
        horizon: int | None = None,
        statistics: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        normalize: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Load the published format from a folder or a Hub id, such as "physical-intelligence/fast".

        `action_dim` and `horizon` are needed where the file leaves them open. Published tokenizers take normalised
        actions: `statistics` of the actions, a mapping or a JSON file such as LeRobot's stats.json, make the normaliser
        (q01 and q99 where they are there, unless `normalize` says otherwise); without them it is the identity.
        `options` are further fields of `FASTConfig`, of which `max_token` limits coefficients and shortens rows, and
        the keywords of huggingface_hub.
        """
        asked = {name: options.pop(name) for name in HubOptions.__annotations__ if name in options}
        folder, tokenizer, commit = _published(source, revision, asked)
        raw = files.read_json(folder / PROCESSOR)
        facts: dict[str, Any] = {name: raw.get(name) for name in ("scale", "min_token", "vocab_size")}
        facts |= {"action_dim": action_dim or raw.get("action_dim"), "horizon": horizon or raw.get("time_horizon")}
        facts |= options
        missing = [name for name, value in facts.items() if value is None and name != "max_token"]
        if missing:
            checks.fail(str(folder / PROCESSOR), "the facts of a tokenizer", f"no {', '.join(missing)}", "Pass them.")
        if options.get("normalize_exceptions"):
            raise LattokError("`normalize_exceptions` cannot be given: a processor has one pair of statistics.")
        known, kind = read_statistics(statistics, normalize, prefer="quantile")
        model = cls(FASTConfig(**facts, normalize=kind))
        if known is not None:
            model.normalizer.set(known)
        model._adopt(_text(tokenizer))
        model.source, model.revision = str(source) if commit else folder.resolve().name, commit
        return model.eval()

    def _save(self, folder: Path, name: str | None) -> None:
        """Refuse to save without a vocabulary: it could not be loaded."""
        _ = self.bpe
        super()._save(folder, name)

    def save_published(self, folder: str | os.PathLike[str]) -> Path:
        """Write the published format, which others read. It has no place for the normaliser: it takes its outputs."""
        _, folder = self.bpe, Path(folder)
        files.write_text(folder / TOKENIZER, self.tokenizer_json.cpu().numpy().tobytes().decode())
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        files.write_json(folder / "tokenizer_config.json", plain)
        facts = {name: getattr(self.config, name) for name in ("scale", "vocab_size", "min_token", "action_dim")}
        files.write_json(folder / PROCESSOR, {**facts, "time_horizon": self.horizon})
        return folder

    def check_fits(self, file: Sizes, where: str) -> None:
        """Let the tokenizer have any length; everything else is strict."""
        length = file.get("tokenizer_json", Size((0,), torch.uint8)).shape[:1] or (1,)
        self.tokenizer_json = self.tokenizer_json.new_empty(length if length[0] <= files.JSON_BYTES else 0)
        super().check_fits(file, where)

    def load_tensors(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Read the vocabulary from its tensor, too."""
        super().load_tensors(tensors, where)
        self._adopt(self.tokenizer_json.cpu().numpy().tobytes().decode(errors="replace"))

    def _adopt(self, text: str) -> Self:
        """Use the tokenizer of a tokenizer.json."""
        bpe = CoefficientBPE(text, self.config.min_token, self.config.max_token)
        if bpe.vocab_size != self.config.vocab_size:
            hint = "Pass vocab_size if its training stopped early; otherwise these files do not belong together."
            checks.fail("vocab_size", f"{bpe.vocab_size}, as {TOKENIZER} has", self.config.vocab_size, hint)
        self._bpe = bpe
        self.tokenizer_json = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        return self

    def _coefficients(self, actions: Tensor) -> np.ndarray:
        """Turn normalised actions [B, H, m] into whole numbers [B, H*m], float64; half-way cases go to the even one."""
        values = actions.numpy(force=True).astype(np.float64)
        return np.rint(self._forward_dct @ values.clip(-FARTHEST, FARTHEST)).reshape(-1, self.horizon * self.action_dim)

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        rows = self.bpe.encode(self._coefficients(actions))
        return _padded(rows, self.tokens_per_chunk).to(actions.device)

    def _decode(self, codes: Tensor) -> Tensor:
        numbers = self.bpe.decode(codes.cpu().numpy(), self.horizon * self.action_dim).astype(np.float32)
        numbers = numbers.reshape(-1, self.horizon, self.action_dim)
        return torch.from_numpy(self._inverse_dct @ numbers).to(codes.device)

    def _repair(self, codes: Tensor) -> Repaired:
        """Skip ids outside the vocabulary and bytes that are no character; negative ids are padding anywhere.

        The readable coefficients are kept from the first on; missing ones, which are the high frequencies, are 0, and
        those beyond the last are dropped. A dimension without any coefficient is not known at all.
        """
        size = self.horizon * self.action_dim
        rows = trimmed(codes.cpu().numpy())
        doubtful = np.flatnonzero(~self.bpe.plainly_whole(rows, size)).tolist()
        readings = {i: self.bpe.read(rows[i]) for i in doubtful}
        broken = {i: note for i, reading in readings.items() if (note := _note(reading, size, self.vocab_size))}
        missing = np.zeros((len(rows), 1, self.action_dim), dtype=bool)
        if not broken:
            return Repaired(codes, torch.from_numpy(missing), [])
        numbers = np.zeros((len(broken), size))
        for row, i in zip(numbers, broken, strict=True):
            kept = readings[i].coefficients[:size]
            row[: len(kept)] = kept
            missing[i, :, len(kept) :] = True
        width = max(codes.shape[1], self.tokens_per_chunk)
        legal = torch.nn.functional.pad(codes, (0, width - codes.shape[1]), value=-1)
        legal[list(broken)] = _padded(self.bpe.encode(numbers), width).to(codes.device)
        notes = [broken.get(i, "") for i in range(len(rows))]
        return Repaired(legal, torch.from_numpy(missing).to(codes.device), notes)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        """Count coefficients; a dimension that a chunk does not have has none."""
        clipped = self.bpe.clipped(self._coefficients(actions)).reshape(-1, self.horizon, self.action_dim)
        there = valid.any(1).numpy(force=True)  # b m
        return float((clipped.mean(1) * there).sum() / max(1, there.sum()))


def dct_matrix(n: int) -> np.ndarray:
    """Return the orthonormal DCT-II as a matrix, float64 [frequencies n, steps n]."""
    frequency, step = np.arange(n)[:, None], np.arange(n)
    matrix = np.sqrt(2 / n) * np.cos(np.pi * frequency * (2 * step + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def _padded(rows: list[list[int]], length: int) -> Tensor:
    """Pad rows of ids with -1, int64 [B, length]."""
    codes = np.full((len(rows), length), -1)
    for code, row in zip(codes, rows, strict=True):
        code[: len(row)] = row
    return torch.from_numpy(codes)


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


def _published(
    source: str | os.PathLike[str], revision: str | None, options: Mapping[str, Any]
) -> tuple[Path, Path, str | None]:
    """Find folder and tokenizer.json of a published tokenizer, and its commit where `source` is a Hub id."""
    client.check_options(options, HubOptions.__annotations__)
    folder, commit = Path(source).expanduser(), None
    if not folder.is_dir():
        wanted = [PROCESSOR, TOKENIZER, f"{INSIDE}/{TOKENIZER}"]
        folder = client.download("source", str(source), revision, wanted, options)
        commit = folder.name
    folder = client.inside(folder, options.get("subfolder"))
    found = [place for place in (folder / TOKENIZER, folder / INSIDE / TOKENIZER) if place.is_file()]
    missing = [] if found else [f"{TOKENIZER}, here or in {INSIDE}/"]
    missing += [] if (folder / PROCESSOR).is_file() else [PROCESSOR]
    if missing:
        checks.fail("source", f"a folder with {TOKENIZER} and {PROCESSOR}", f"{folder} without {', '.join(missing)}")
    if len(found) == 2 and found[0].read_bytes() != found[1].read_bytes():
        hint = "Delete the one that is older."
        checks.fail("source", f"one {TOKENIZER}", f"{folder} with two that differ, one of them in {INSIDE}/", hint)
    return folder, found[0], commit


def _text(path: Path) -> str:
    try:
        if path.stat().st_size <= files.JSON_BYTES:
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        checks.fail(str(path), "a text that can be read", files.first_line(error))
    return checks.fail(str(path), f"at most {files.JSON_BYTES >> 20} MB", "more", "Is this the right file?")
