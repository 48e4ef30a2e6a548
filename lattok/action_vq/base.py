"""Base of all action tokenizers: configuration, units, checks, padding, total decoding, error reports, fitting.

A family sets `vocab_size` (codes K) and `tokens_per_chunk` (codes per chunk P, the greatest number where `fixed_length`
is false), and gives `_encode`, `_decode` (both in normalised units), `_repair`, and `_learn` or a `fit` of its own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lattok.action_vq.chunks import (
    Arrays,
    ErrorReport,
    FitOptions,
    as_codes,
    check_codes,
    compare,
    full_mask,
    held_from_neighbours,
    join_chunks,
)
from lattok.hub import FAMILIES, HubModel
from lattok.hub.trials import Trial, fixed_numbers
from lattok.nn.blocks import same_precision
from lattok.nn.normalize import (
    MOST_NUMBERS,
    DatasetNormalizers,
    Normalization,
    NormalizedActions,
    Normalizer,
    OfDatasets,
    gripper_dims,
    kinds_of,
)
from lattok.types import ActionBatch, ActionTokenizer, LatentActions, LossTerms
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.devices import float32_by_default
from lattok.utils.options import ADDED, FROM_DATA, REQUIRED, check_choices, check_knows_data, knows_data

REPORT_BLOCK = 4096  # chunks that an error report encodes at a time
MAX_HORIZON = 4096  # steps of a chunk
MORE = "Fit one more normaliser: tokenizer.add_dataset(name, actions)."
TOGETHER = "Fit one to all datasets at once: lattok train KIND A B."
ActionKind = Literal["unspecified", "relative", "absolute"]


@dataclass(frozen=True)
class ChunkConfig(NormalizedActions):
    """What every family of action tokenizers knows about its chunks.

    Until a recipe has opened the dataset, `action_dim` is 0, and checks of it wait: `lattok.utils.options.knows_data`.

    Attributes:
        horizon: steps of a chunk
        normalize: how actions are normalised
        normalize_exceptions: dimensions with another normalisation (name, pattern or index): "gripper=min_max"
        normalize_clip: clips normalised actions to [-1, 1], for kinds of normalisation with such a range
        action_kind: meaning of actions; with "relative", errors add up over a chunk, and a missing step is no motion
        normalizers: datasets that have their own normaliser; empty: one normaliser for all
        spaces: where these have other actions: names of each one's, which are the first of `action_dim` numbers
    """

    action_dim: int = field(default=0, metadata=REQUIRED)
    horizon: int = 8
    normalize: Normalization = "mean_std"
    normalize_exceptions: tuple[str, ...] = ()
    normalize_clip: bool = field(default=False, metadata=ADDED)
    action_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    action_kind: ActionKind = "unspecified"
    normalizers: tuple[str, ...] = field(default=(), metadata=ADDED | FROM_DATA)
    spaces: tuple[tuple[str, ...], ...] = field(default=(), metadata=ADDED | FROM_DATA)

    def __post_init__(self) -> None:
        checks.counts(horizon=self.horizon)
        check_choices(self)
        if not knows_data(self):
            return
        checks.counts(action_dim=self.action_dim)
        if self.horizon > MAX_HORIZON or self.horizon * self.action_dim > MOST_NUMBERS:
            expected = f"at most {MAX_HORIZON:,} steps, and {MOST_NUMBERS:,} numbers in a chunk"
            checks.fail("horizon", expected, f"{self.horizon:,} steps of {self.action_dim:,} dimensions")
        checks.named(self.action_dim, action_names=self.action_names)
        if len(set(self.normalizers)) != len(self.normalizers):
            checks.fail("normalizers", "different names of datasets", ", ".join(self.normalizers))
        if self.spaces:
            checks.size("spaces", "lists of names, one for each dataset", len(self.spaces), len(self.normalizers))
            checks.counts(1, self.action_dim, **{f"names in spaces[{i}]": len(x) for i, x in enumerate(self.spaces)})
            if self.action_names:
                checks.fail("action_names", "none with spaces, which have them", ", ".join(self.action_names))
        self.check_normalization()

    def of_dataset(self, name: str) -> Self:
        """Return the configuration of one of the datasets."""
        place = self.normalizers.index(name)
        return replace(self, normalizers=(name,), spaces=self.spaces[place : place + 1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the action dimensions, of one of several datasets its own; numbers where there are none."""
        if len(self.spaces) == 1:
            return self.spaces[0]
        return self.action_names or tuple(str(i) for i in range(self.action_dim))

    @property
    def action_kinds(self) -> list[str]:
        """The kind of normalisation of each action dimension; of several spaces exceptions are those of each."""
        if len(self.spaces) != 1:
            return super().action_kinds if not self.spaces else [self.normalize] * self.action_dim
        return kinds_of(self.normalize, self.normalize_exceptions, self.names, len(self.names))

    def check_normalization(self) -> None:
        for name in self.normalizers if len(self.spaces) > 1 else ():
            _ = self.of_dataset(name).action_clipped
        if len(self.spaces) < 2:
            super().check_normalization()

    @property
    def relative(self) -> list[int]:
        """Dimensions that are increments; what opens and closes something has positions."""
        grippers = gripper_dims(self.names)
        return [i for i in range(len(self.names)) if self.action_kind == "relative" and i not in grippers]


class Repair(NamedTuple):
    """What any integers stand for, and what of it is not known."""

    found: Any  # legal codes [B, P], or whatever `_decode` takes
    missing: Tensor  # [B, H, 1 or m] bool: nothing is known about these, hold the neighbours
    notes: list[str]  # what was repaired in each row, "" where nothing; empty when all rows are intact


class DecodeInfo(NamedTuple):
    """What decoding had to repair."""

    repaired: Tensor  # [B] bool
    notes: tuple[str, ...]  # one per row, "" where nothing


class ChunkTokenizer(OfDatasets, HubModel, ActionTokenizer, ABC):
    """Base of the action tokenizers: chunks [B, H, m] in physical units to codes [B, P], and back."""

    label_source = "actions"
    learned_fields: ClassVar[tuple[str, ...]] = ()  # of the configuration, which `fit` finds
    tried: int = 8  # chunks whose codes are recorded, as many as are coded in some milliseconds
    config: ChunkConfig
    fit_options: ClassVar[type[FitOptions]] = FitOptions  # options of `fit`, which `lattok train` offers

    def __init__(self, config: ChunkConfig):
        super().__init__()
        check_knows_data(config)
        self.config = config
        self.horizon = config.horizon
        fresh = partial(Normalizer, config.action_dim, None if config.spaces else config.action_clipped)
        self.normalizers = DatasetNormalizers((), fresh, "tokenizer", TOGETHER if config.spaces else MORE)
        for own in map(config.of_dataset, config.normalizers):
            self.normalizers.add(own.normalizers[0], Normalizer(len(own.names), own.action_clipped))
        self.use_normalizers(self.normalizers.in_use())

    @property
    def action_dim(self) -> int:
        """Action dimensions of chunks; its configuration's are those of the widest dataset."""
        return len(self.config.names)

    def usage(self) -> list[str]:
        shape = f"1, {self.horizon}, {self.action_dim}"
        return [
            "",
            "import numpy as np",
            "",
            f"chunks = np.zeros(({shape}))  # yours: [B, H, m], in the units of the dataset it was trained on",
            "codes = model.encode(chunks)",
            "chunks = model.decode(codes)  # with repair=True every code sequence decodes",
        ]

    @classmethod
    def how_made(cls) -> str:
        return f"Fit one to chunks [N, H, m]: {cls.__name__}.fit(chunks). {super().how_made()}"

    def extra_repr(self) -> str:
        most = "" if self.fixed_length else "at most "
        chunk = f"{checks.counted(self.horizon, 'step')} of {', '.join(self.config.names)}, in the units of the data"
        codes = f"{checks.counted(self.tokens_per_chunk, 'code')} of {self.vocab_size}"
        return f"{chunk}, as {most}{codes}\n{super().extra_repr()}"

    @classmethod
    def fit(cls, chunks: Arrays, valid: Values | None = None, **options: Any) -> Self:
        """Make a tokenizer for chunks [N, H, m] in physical units, or a list of such arrays; or for a mapping of these
        by the name of their dataset, each of which gets a normaliser, and may have its own m. `action_names` is then a
        mapping, too, and `shares` says how much each counts: as much as all others by default.

        `options` are fields of its configuration and of `fit_options`: `seed`, and how it is trained, if it is.
        """
        return cls._fit(chunks, valid, options)

    @classmethod
    @float32_by_default()
    def _fit(cls, chunks: Arrays, valid: Values | None, options: dict[str, Any], **kept: Any) -> Self:
        """Fit; `kept` goes on to `_learn`."""
        how = cls.fit_options(**{f.name: options.pop(f.name) for f in fields(cls.fit_options) if f.name in options})
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(how.seed)  # the CPU's only: nothing else is drawn from, or forked
            model, batch = cls._begin(chunks, valid, options, how)
        model._learn(batch, how, **kept)
        if model.datasets:
            model.use_normalizers(model.normalizers.in_use())
        return model.eval()

    def _learn(self, batch: ActionBatch, how: Any) -> None:
        """Find what follows from chunks in physical units; the normaliser has been fitted. `how`: `fit_options`."""

    @abstractmethod
    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        """Turn normalised actions [B, H, m] into codes int64 [B, P]; `valid` [B, H, m]: what is there, else all."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """Turn legal codes [B, P] into normalised actions [B, H, m]."""

    @abstractmethod
    def _repair(self, codes: Tensor) -> Repair:
        """Make codes that `_decode` takes of any integers [B, L]."""

    def trial(self) -> Trial:
        return Trial(self, self._tried().to(self.device), lambda part, actions: part._encode(actions))

    def _tried(self) -> Tensor:
        """Return fixed chunks [n, H, m] in normalised units, each half as large as the one before."""
        sizes = 2 * 0.5 ** torch.arange(self.tried, dtype=torch.float32)
        return fixed_numbers(self.tried, self.horizon, self.config.action_dim) * sizes[:, None, None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move between devices, never between precisions: a rounded codebook gives other codes."""
        return super()._apply(same_precision(fn), recurse)

    def use_normalizers(self, maps: Normalizer) -> None:
        self.normalizer = maps

    def choose(self, name: str) -> None:
        """Keep the dataset's name, so that others can still be added."""
        self.config = self.config.of_dataset(name)
        self.normalizers = self.normalizers.only(name)
        self.use_normalizers(self.normalizers.in_use())

    def add_dataset(self, name: str, actions: Values) -> None:
        """Fit a normaliser for one more dataset to its actions [N, m], in physical units; it is saved with the others.

        The codes stay: how well they suit the dataset is for `lattok evaluate` to say.
        """
        names, actions = self.config.normalizers, as_tensor("actions", actions).float()
        if not names or name in names or not name or not isinstance(name, str):
            checks.fail("name", f"another dataset than those of the mixture ({', '.join(names) or 'none'})", repr(name))
        checks.rank("actions", actions, "N m")
        checks.counts(**{"rows of actions": len(actions)})
        if self.config.spaces:
            checks.fail("tokenizer", "one whose datasets have the same actions", "several spaces", TOGETHER)
        normalizer = self.normalizers.fresh().fit(actions, self.config.action_kinds)
        self.config = replace(self.config, normalizers=(*names, name))
        self.normalizers.add(name, normalizer.to(next(self.buffers()).device))
        self.use_normalizers(self.normalizers.in_use())

    def saved_tensors(self) -> dict[str, Tensor]:
        """Leave out the normaliser in use where datasets have their own: it is one of theirs."""
        tensors, own = super().saved_tensors(), len(self.normalizers) > 0
        return {name: tensor for name, tensor in tensors.items() if not (own and name.startswith("normalizer."))}

    def forward(self, batch: ActionBatch) -> LossTerms:
        """Return the loss terms of a batch, where a family trains by gradients; users call `encode` and `decode`."""
        trains = type(self).forward is not ChunkTokenizer.forward
        expected = "an ActionBatch to train on" if trains else f"no call: {type(self).__name__} has no loss"
        hint = "Call tokenizer.encode(chunks) for codes, tokenizer.decode(codes) for chunks."
        return checks.fail("batch", expected, type(batch).__name__, hint)

    @overload
    def encode(self, chunks: np.ndarray, valid: Values | None = None, *, repair: bool = False) -> np.ndarray: ...
    @overload
    def encode(self, chunks: Tensor | list[Any], valid: Values | None = None, *, repair: bool = False) -> Tensor: ...
    def encode(self, chunks: Any, valid: Values | None = None, *, repair: bool = False) -> Any:
        """Turn chunks [B, H, m] in physical units into codes int64 [B, P]: arrays for arrays, else tensors.

        Steps where `valid` ([B, H], or [B, H, m] with dimensions that a robot does not have) is false repeat the last
        valid action (P2T A.2), and with `repair` so do shorter chunks. Chunks of another length, another m or
        non-finite numbers raise `LattokError`: windows truncate, `encode` does not.
        """
        with self.inference():
            return like(chunks, self._encode(*self._prepare(chunks, valid, repair)))

    def encode_batch(self, batch: ActionBatch) -> Tensor:
        with self.inference():
            return self._encode(*self._of_windows(batch))

    def decode(self, codes: object, return_info: bool = False, *, repair: bool = False) -> Any:
        """Turn codes, integers [B, P] or a list of rows, into chunks [B, H, m] in physical units.

        Codes that are missing, too many or out of range raise `LattokError`. With `repair`, or `return_info`, which
        also gives a `DecodeInfo`, none do: what cannot be read is repaired as the family says; steps about which
        nothing is known repeat the last known action, or the first one, and are no motion in `relative` dimensions.
        """
        chunks, missing, notes = self._decode_any(rows := as_codes(codes))
        if notes and not (repair or return_info):
            check_codes(rows, notes, self.tokens_per_chunk, self.vocab_size, self.prefixes)
        if notes:  # what is missing holds the last known action, the first, or the middle
            missing = missing.to(chunks.device).expand_as(chunks)
            held = held_from_neighbours(chunks, missing)
            held = torch.where(missing.all(1, keepdim=True), self.normalizer.shift, held)
            held[..., self.config.relative] = 0.0
            chunks = torch.where(missing, held, chunks)
        if not return_info:
            return like(codes, chunks)
        notes = notes or [""] * len(rows)
        info = DecodeInfo(torch.tensor([bool(note) for note in notes], dtype=torch.bool), tuple(notes))
        return like(codes, (chunks, info))

    def _decode_any(self, codes: Tensor) -> Repair:
        """Decode any integers [B, L], to chunks [B, H, m] in physical units."""
        legal, missing, notes = self._repair(codes.to(self.normalizer.shift.device))
        with self.inference():
            chunks, own = self._decode(legal), slice(self.action_dim)
            return Repair(self.normalizer.inverse(chunks[..., own]), missing[..., own], notes)

    @torch.no_grad()
    def latent_actions(self, chunks: Values, valid: Values | None = None) -> LatentActions:
        """Encode, with latents before and after quantization, [B, P, d], next to the codes.

        Those of a family without are the normalised chunk and its decoding, [B, 1, H*m].
        """
        actions, inside = self._prepare(chunks, valid)
        with self.inference():
            return like(chunks, self._latent_actions(actions, inside))

    def _latent_actions(self, actions: Tensor, valid: Tensor | None) -> LatentActions:
        codes = self._encode(actions, valid)
        decoded = self._decode(self._repair(codes).found).to(actions).flatten(1)
        return LatentActions(codes, actions.flatten(1)[:, None], decoded[:, None])

    @torch.no_grad()
    def error_report(self, chunks: Values, valid: Values | None = None) -> ErrorReport:
        """Measure the errors of decoding the codes of `chunks` [N, H, m], in their own units, with the worst case."""
        self._check_shape(chunks := as_tensor("chunks", chunks))
        valid = full_mask(chunks, valid)
        decoded, clipped, config = [], 0.0, self.config
        for block, mask in zip(chunks.split(REPORT_BLOCK), valid.split(REPORT_BLOCK), strict=True):
            actions, inside = self._prepare(block, mask, True)
            with self.inference():
                codes = self._encode(actions, inside)
            decoded.append(self.decode(codes, repair=True)[:, : block.shape[1]].cpu())
            share = self.normalizer.clipped(block.to(actions), mask.to(actions.device)) + self._clipped(actions, inside)
            clipped += min(1.0, share) * len(block) / max(1, len(chunks))
        return compare(chunks.cpu(), torch.cat(decoded), valid.cpu(), config.names, config.relative, clipped)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        """Measure which share of normalised actions [B, H, m], or of what codes them, the family cannot express."""
        return 0.0

    @classmethod
    def _begin(
        cls, chunks: Arrays, valid: Values | None, options: dict[str, Any], how: Any
    ) -> tuple[Self, ActionBatch]:
        """Make a tokenizer with its normaliser fitted to the valid entries of `chunks`; also return these, joined."""
        for name in cls.learned_fields:
            if name in options:
                raise checks.LattokError(f"`{name}` cannot be given, it follows from the chunks (got {options[name]}).")
        each = {name: join_chunks(part) for name, part in chunks.items()} if isinstance(chunks, Mapping) else {}
        if valid is not None and each:
            checks.fail("valid", "none with several datasets: put an ActionBatch of each into chunks", "a mask")
        named, shares = options.pop("action_names", None), options.pop("shares", ())
        options |= _of_datasets(each, named) if each else {} if named is None else {"action_names": named}
        batch = join_chunks([*each.values()] if each else chunks, valid)
        if not len(batch.chunks):
            checks.fail("chunks", "at least one chunk", "none")
        steps, dims = batch.chunks.shape[1:]
        checks.size("action_dim", "as the chunks have", options.pop("action_dim", dims), dims)
        if options.get("horizon", steps) != steps:
            hint = "Cut longer chunks into windows; nothing can be learned about steps that no chunk has."
            checks.fail("horizon", f"the {checks.counted(steps, 'step')} of the chunks", options["horizon"], hint)
        known = {f.name for f in fields(cls.config_class)} - ({"normalizers", "spaces"} if not each else set())
        checks.known_keys("options", options, sorted(known))
        model = cls(cls.config_class(**{"horizon": steps, **options}, action_dim=dims))
        if each:
            return model, model._normalised(each, shares)
        rows, mask = (part.flatten(0, 1) for part in batch)
        model.normalizer.fit(rows, model.config.action_kinds, mask)
        return model, batch

    def _normalised(self, each: Mapping[str, ActionBatch], shares: Sequence[float]) -> ActionBatch:
        """Fit the normaliser of each dataset, and return their chunks in normalised units, each dataset as often as its
        share says of as many as there are; the one in use changes nothing meanwhile."""
        weights = torch.tensor([*shares] or [1.0] * len(each), dtype=torch.float64)
        checks.size("shares", "numbers, one for each dataset", len(weights), len(each))
        total, found = sum(len(part.chunks) for part in each.values()), list[ActionBatch]()
        for name, part, share in zip(each, each.values(), (weights / weights.sum()).tolist(), strict=True):
            steps, mask = (each.flatten(0, 1) for each in part)
            normalizer = self.normalizers.of(name).fit(steps, self.config.of_dataset(name).action_kinds, mask)
            rows = torch.arange(count := max(1, round(total * share))) * len(part.chunks) // count
            found.append(ActionBatch(normalizer(part.chunks[rows]), part.valid[rows]))
        self.use_normalizers(self.normalizers.fresh())
        return join_chunks(found)

    def _prepare(self, chunks: Values, valid: Values | None, shorter: bool = False) -> tuple[Tensor, Any]:
        """Check, pad by the last valid action, normalise: actions, 0 where there are none; mask [B, H, m] or None."""
        chunks = as_tensor("chunks", chunks)
        self._check_shape(chunks)
        if chunks.shape[1] < self.horizon and not shorter:
            hint = "Mark what is there by `valid`, or give repair=True: the last action is repeated."
            checks.fail("chunks", checks.counted(self.horizon, "step"), chunks.shape[1], hint)
        normalizer, shift, inside = self.normalizer, self.normalizer.shift, None
        if chunks.dtype != shift.dtype or not (chunks.is_cpu and shift.is_cpu):
            chunks = chunks.to(shift)
        if valid is not None or chunks.shape[1] < self.horizon:
            chunks, inside = self._padded(chunks, full_mask(chunks, valid))
        if chunks.is_cpu:  # of one chunk numpy takes a fraction of torch's time
            values = chunks.numpy(force=chunks.requires_grad)
            if math.isfinite(np.vdot(values, values)):
                return self._widened(normalizer.of_host(values), inside)
        if not bool(chunks.isfinite().all()):
            checks.fail("chunks", "finite actions", "NaN or infinity")
        return self._widened(normalizer(chunks), inside)

    def _of_windows(self, batch: ActionBatch) -> tuple[Tensor, Tensor]:
        """Pad and normalise as `_prepare` does; values were checked where windows were cut, and are not read again."""
        self._check_shape(batch.chunks)
        chunks = batch.chunks.to(self.normalizer.shift)
        mask = batch.valid if batch.valid.ndim == 3 else batch.valid[..., None].expand(chunks.shape)
        chunks, inside = self._padded(chunks, mask.to(chunks.device))
        return self._widened(self.normalizer(chunks), inside)

    def _widened(self, actions: Tensor, inside: Tensor | None) -> tuple[Tensor, Any]:
        """Give normalised actions and their mask [B, H, m] the numbers that only other datasets have."""
        if not (more := self.config.action_dim - actions.shape[2]):
            return actions, inside
        inside = torch.ones_like(actions, dtype=torch.bool) if inside is None else inside
        return F.pad(actions, (0, more)), F.pad(inside, (0, more))

    def _padded(self, chunks: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pad chunks by the last action of their mask, both [B, H, m], to the horizon; also tell what is there."""
        dims, last = mask.any(1)[:, None], mask.any(-1).sum(1)[:, None] - 1  # b 1 m, b 1
        steps = torch.arange(self.horizon, device=chunks.device)
        index = torch.minimum(steps, last).clamp_min(0)  # b h
        chunks = chunks.gather(1, index[..., None].expand(-1, -1, chunks.shape[2]))
        return torch.where(dims, chunks, self.normalizer.shift), (steps <= last)[..., None] & dims

    def _check_shape(self, chunks: Tensor) -> None:
        if chunks.ndim == 3 and chunks.shape[2] == self.action_dim and 1 <= chunks.shape[1] <= self.horizon:
            return
        checks.rank("chunks", chunks, "B H m")
        names = f" ({', '.join(self.config.action_names)})" if self.config.action_names else ""
        axis = f"action dimensions{names}, as the tokenizer was trained on"
        hint = "Select or add columns, or train a tokenizer on this dataset."
        checks.size("chunks", axis, chunks.shape[2], self.action_dim, hint)
        checks.fail(
            "chunks", f"1 to {checks.counted(self.horizon, 'step')}", chunks.shape[1], "Cut longer chunks into windows."
        )


def _of_datasets(each: Mapping[str, ActionBatch], named: Any) -> dict[str, Any]:
    """Return what the configuration says of several datasets: their names, and those of their actions."""
    if not isinstance(named or {}, Mapping):
        checks.fail("action_names", "a mapping by dataset, as chunks are", type(named).__name__)
    widths = {name: part.chunks.shape[2] for name, part in each.items()}
    spaces = [tuple((named or {}).get(name) or map(str, range(width))) for name, width in widths.items()]
    for (name, width), space in zip(widths.items(), spaces, strict=True):
        checks.size("action_names", f"names of actions of {name}", len(space), width)
    if len({*spaces}) > 1:
        return {"normalizers": tuple(each), "spaces": tuple(spaces)}
    return {"normalizers": tuple(each), "action_names": spaces[0] if named else ()}


def families() -> dict[str, type[ChunkTokenizer]]:
    """Return all families of action tokenizers by their `type`, those of other packages too unless one fails."""
    found = {}
    for name in FAMILIES:
        with suppress(checks.LattokError):  # it concerns only who asks for that family
            family = FAMILIES[name]
            if issubclass(family, ChunkTokenizer):
                found[name] = family
    return found
