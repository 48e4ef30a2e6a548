"""Action tokenizers: reconstruction, code usage and rate on held-out windows, and controls at equal bits per step.

k-means       K centres of single actions: the practical bound of a decoder that sees one code per step
uniform bins  levels per dimension as equal as possible, product at most K
FAST          a transform code with variable length: what a codec reaches at the same bits or fewer
mean action   no bits at all
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.action_vq import FAST, UniformBins
from lattok.data.alike import called, check_actions
from lattok.evaluation.evidence import Case, Evidence, register_evidence
from lattok.evaluation.evidence.unlearned import ResidualKMeans
from lattok.nn.normalize import Normalizer, gripper_dims
from lattok.nn.quantize import CodeStatistics, code_statistics
from lattok.samples import ActionWindows
from lattok.samples.reach import reach_of
from lattok.types import ActionBatch, ActionTokenizer, TokenizesActions
from lattok.utils import checks
from lattok.utils.arrays import as_tensor
from lattok.utils.commands import DATASET, MODEL, advise, command

BATCH = 1024
MAX_CENTRES = 4096  # k-means beyond this takes too long to be a control
FAST_WINDOWS, FAST_VOCABULARY, FAST_SCALES = 4096, 1024, (32.0, 16.0, 10.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0)


@dataclass(frozen=True)
class Errors:
    """How far a reconstruction is from the actions, over valid steps; per dimension [m] unless said otherwise."""

    mse: Tensor  # physical units squared
    normalised: Tensor  # MSE in units of the training split's standard deviation, squared
    error: float  # mean of `normalised` over dimensions that move
    normalised_l1: float  # mean over these dimensions
    gripper: float | None  # share of steps on the right side of the gripper's midpoint


class Usage(NamedTuple):
    """How codes of a `size` are used on both splits."""

    held_out: CodeStatistics
    train: CodeStatistics
    size: int

    @classmethod
    def measure(cls, held_out: Tensor, train: Tensor, size: int, shared: bool = True) -> "Usage":
        """Count codes [N, P] and [n, P], of which -1 pads; positions with codebooks of their own are not `shared`."""
        if shared:
            held_out, train = (codes[codes >= 0][:, None] for codes in (held_out, train))
        return cls(code_statistics(held_out, size), code_statistics(train, size), size)


@dataclass(frozen=True)
class Method:
    """The tokenizer or a control on the held-out split."""

    key: str
    errors: Errors | None  # None: could not be run
    usage: Usage | None = None
    not_run: str = ""


@dataclass(frozen=True)
class Scale:
    """Units of the training split: shared by all methods, so that tokenizers compare."""

    normalizer: Normalizer
    gripper: list[int]  # dimensions
    low: Tensor  # [m] 1st percentile
    high: Tensor  # [m] 99th percentile
    moving: Tensor  # dimensions that are not always the same, int64: others would water errors down; all, if none moves

    @classmethod
    def fit(cls, actions: Tensor, names: tuple[str, ...]) -> "Scale":
        """Measure actions [F, m]."""
        low, high = torch.quantile(actions.double(), torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
        normalizer = Normalizer(actions.shape[1]).fit(actions)
        assert normalizer.still is not None
        moving = (~normalizer.still | normalizer.still.all()).nonzero()[:, 0]
        return cls(normalizer, gripper_dims(names), low, high, moving)

    def gaps(self, predicted: Tensor, actual: Tensor) -> Tensor:
        """Compare values [..., m] in units of the deviation, of the dimensions that move."""
        return ((predicted - actual) / self.normalizer.scale)[..., self.moving]

    def binned(self, steps: Tensor, size: int) -> Tensor:
        """Move steps [S, m] to the middle of equal bins between the percentiles, of which there are at most `size`."""
        levels, room = torch.ones(steps.shape[1], dtype=torch.int64), self.high - self.low
        levels[self.moving] = torch.tensor(level_allocation(len(self.moving), size))
        share = (steps.double() - self.low) / room.clamp_min(1e-12)
        bins = torch.minimum((share * levels).floor().long().clamp_min(0), levels - 1)
        return (self.low + (bins + 0.5) * room / levels).float()

    def errors(self, predicted: Tensor, actual: Tensor) -> Errors:
        """Compare steps [S, m]."""
        gap = (predicted - actual).double()
        scaled = gap / self.normalizer.scale.double()
        normalised = scaled.square().mean(0)
        sides = [(x > (self.low + self.high) / 2)[:, self.gripper] for x in (predicted, actual)]
        return Errors(
            mse=gap.square().mean(0),
            normalised=normalised,
            error=float(normalised[self.moving].mean()),
            normalised_l1=float(scaled[:, self.moving].abs().mean()),
            gripper=float((sides[0] == sides[1]).double().mean()) if self.gripper else None,
        )


@dataclass(frozen=True)
class Rate:
    """Tokens and bits that the codes cost."""

    fps: float
    tokens_per_chunk: float  # measured on the held-out split: variable-length families pad
    tokens_per_second: float
    bits_per_second: float
    bits_per_step: float

    @classmethod
    def measure(cls, codes: Tensor, tokenizer: ActionTokenizer, fps: float) -> "Rate":
        """Count the tokens of held-out codes [N, P], padded with -1."""
        tokens = float((codes >= 0).sum()) / len(codes)
        per_step, bits = tokens / tokenizer.horizon, math.log2(tokenizer.vocab_size)
        return cls(fps, tokens, per_step * fps, per_step * fps * bits, per_step * bits)

    @property
    def cells(self) -> int:
        """What a step can tell apart."""
        return max(1, math.floor(2**self.bits_per_step + 1e-6))


@register_evidence("chunks", of=(TokenizesActions,), place=30)
@dataclass(frozen=True)
class TokenizerEvidence(Evidence):
    """Everything that was computed about a tokenizer; `questions.reconstruction` arranges it."""

    case: Case
    windows: ActionWindows  # held-out
    training: ActionWindows
    scale: Scale
    codes: Tensor  # [N, P] of the held-out windows
    known: Tensor  # [n, p] of the training windows
    methods: list[Method]  # the tokenizer first, then its controls
    rate: Rate
    decoded: Tensor  # [N, H, m] the tokenizer's version of every window
    kmeans: Tensor | None  # [F, m] the k-means control's version of every held-out action

    kind = "action-vq"
    asks = "Is this tokenizer good enough to use?"
    use = advise(
        "Write its codes beside the actions", command("annotate", DATASET, "--model", MODEL, "--out", "labelled")
    )
    reads = ("horizon", "action_dim", "tokens_per_chunk")

    @classmethod
    def gather(cls, case: Case) -> "TokenizerEvidence":
        """Reconstruct every held-out window (each frame starts one) with the tokenizer and with the controls."""
        tokenizer, dataset, key = case.model, case.dataset, case.options.action_key
        if key is None:
            checks.fail("action_key", "a column of actions", "None")
        check_actions(tokenizer, dataset, key)
        case.options.note("held-out windows", 0, 1)
        windows = ActionWindows(dataset, tokenizer.horizon, key, case.split.held_out)
        training = ActionWindows(dataset, tokenizer.horizon, key, case.split.train)
        names, size = windows.action_names, tokenizer.vocab_size
        hint = "Evaluate on a dataset with the actions the tokenizer was trained on."
        checks.size(key, "numbers, as the tokenizer's actions have", len(names), tokenizer.action_dim, hint)
        scale = Scale.fit(training.actions, names)
        codes, decoded = reconstruct(tokenizer, windows)
        batch = windows.all()
        if told := reach_of(tokenizer, batch, names, decoded).text(called(tokenizer), f"`{key}` of {dataset.name}"):
            checks.note(told)
        steps = batch.chunks[batch.valid]  # s m
        rate = Rate.measure(codes, tokenizer, dataset.fps)
        known = encode_all(tokenizer, training)
        usage = Usage.measure(codes, known, size, tokenizer.shared_vocabulary)
        own = Method("model", scale.errors(decoded[batch.valid], steps), usage)
        kmeans, control = _kmeans_control(rate, scale, training.actions, steps, case.options.seed)
        bins, fast = (Method(key, None, not_run="not run: the tokenizer itself") for key in ("uniform_bins", "fast"))
        if tokenizer.type != UniformBins.type:
            bins = Method("uniform_bins", scale.errors(scale.binned(steps, rate.cells), steps))
        if tokenizer.type != FAST.type:
            fast = _fast_control(rate, scale, training, windows, batch)
        middle = training.actions.double().mean(0).float()  # of equal actions exactly that action
        mean = Method("mean", scale.errors(middle.expand_as(steps), steps))
        shown = None
        if kmeans is not None:
            shown = scale.normalizer.inverse(kmeans.decode(kmeans.encode(scale.normalizer(windows.actions))))
        case.options.note("held-out windows", 1, 1)
        methods = [own, control, bins, fast, mean]
        return cls(case, windows, training, scale, codes, known, methods, rate, decoded, shown)

    @property
    def provenance(self) -> dict[str, Any]:
        facts = {name: getattr(self.case.model, name) for name in ("tokens_per_chunk", "horizon", "vocab_size")}
        return {**facts, "held_out_windows": len(self.windows)}


def level_allocation(dims: int, size: int) -> tuple[int, ...]:
    """Share out levels over the dimensions, as equal as possible, first ones first; their product is at most `size`.

    >>> level_allocation(4, 256), level_allocation(7, 256)
    ((4, 4, 4, 4), (3, 2, 2, 2, 2, 2, 2))
    """
    least = max(1, int(size ** (1 / dims) * (1 - 1e-13)))  # below the root, however that is rounded
    levels, turn = [least] * dims, 0
    while math.prod(levels) // levels[turn] * (levels[turn] + 1) <= size:
        levels[turn] += 1
        turn = (turn + 1) % dims
    return tuple(levels)


@torch.no_grad()
def encode_all(tokenizer: ActionTokenizer, windows: ActionWindows) -> Tensor:
    """Encode all windows to codes [N, P]; shorter rows of variable-length families are padded with -1."""
    parts = [_encoded(tokenizer, windows.batch(rows)) for rows in torch.arange(len(windows)).split(BATCH)]
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=-1) for part in parts])


def _encoded(tokenizer: ActionTokenizer, batch: ActionBatch) -> Tensor:
    """Encode a batch to codes [B, P], and check that they are some."""
    what = f"codes of {called(tokenizer)}"
    codes = as_tensor(what, tokenizer.encode(*batch)).cpu()
    checks.rank(what, codes, "B P")
    checks.size(what, "rows, one for each chunk", len(codes), len(batch.chunks))
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if codes.is_floating_point() or not -1 <= low <= high < tokenizer.vocab_size:
        checks.fail(what, f"whole numbers below {tokenizer.vocab_size}, or −1", f"{low} to {high} ({codes.dtype})")
    return codes


def _decoded(tokenizer: ActionTokenizer, codes: Tensor) -> Tensor:
    """Decode codes [B, P] to chunks [B, H, m], and check that they are some."""
    what, shape = f"chunks of {called(tokenizer)}", [len(codes), tokenizer.horizon, tokenizer.action_dim]
    chunks = as_tensor(what, tokenizer.decode(codes)).float().cpu()
    if [*chunks.shape] != shape:
        checks.fail(what, f"shape {shape}, as many as rows of codes", f"shape {[*chunks.shape]}")
    checks.finite(what, chunks)
    return chunks


@torch.no_grad()
def reconstruct(tokenizer: ActionTokenizer, windows: ActionWindows) -> tuple[Tensor, Tensor]:
    """Encode all windows to codes [N, P] and decode these to chunks [N, H, m]."""
    codes = encode_all(tokenizer, windows)
    return codes, torch.cat([_decoded(tokenizer, block) for block in codes.split(BATCH)])


def _kmeans_control(
    rate: Rate, scale: Scale, actions: Tensor, steps: Tensor, seed: int
) -> tuple[ResidualKMeans | None, Method]:
    if rate.bits_per_step > math.log2(MAX_CENTRES):
        reason = f"not run: equal bits would need 2^{rate.bits_per_step:.0f} centres"
        return None, Method("kmeans", None, not_run=reason)
    kmeans = ResidualKMeans.fit(scale.normalizer(actions), rate.cells, seed=seed)
    codes, train = (kmeans.encode(scale.normalizer(each)) for each in (steps, actions))
    errors = scale.errors(scale.normalizer.inverse(kmeans.decode(codes)), steps)
    return kmeans, Method("kmeans", errors, Usage.measure(codes, train, rate.cells))


def _fast_control(
    rate: Rate, scale: Scale, training: ActionWindows, windows: ActionWindows, held_out: ActionBatch
) -> Method:
    """Fit FAST with the finest scale whose mean bits per step, on the training split, are at most the tokenizer's."""
    rows = torch.linspace(0, len(training) - 1, min(FAST_WINDOWS, len(training))).long()
    batch, reason = training.batch(rows), ""
    for fineness in FAST_SCALES:
        try:
            fast = FAST.fit(*batch, vocab_size=FAST_VOCABULARY, scale=fineness)
        except checks.LattokError as error:  # actions too wild for the vocabulary at this scale
            reason = f"not run: {error}"
            continue
        if Rate.measure(fast.encode(*batch), fast, 1.0).bits_per_step <= rate.bits_per_step:
            decoded = reconstruct(fast, windows)[1]
            return Method("fast", scale.errors(decoded[held_out.valid], held_out.chunks[held_out.valid]))
        reason = "not run: even its coarsest scale takes more bits"
    return Method("fast", None, not_run=reason)
