"""Vector quantizers with one interface, trained by moving averages or by gradient.

    code(x) = argmin_k |x - e_k|^2            vectors = x + sg(e_code - x)    (straight-through)

Codebooks start from the data (k-means on the first latents), unused codes are revived from the current batch. Start,
revival and statistics see the batches of all processes and do not depend on how rows are spread over them. Once a
codebook has started, no step reads a number on the host: a GPU is never waited for.
Moving averages as in VQ-VAE-EMA (van den Oord et al., 2017, appendix A.1), "uniform" start and restarts as in UniVLA.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from lattok.nn.blocks import onto
from lattok.nn.kmeans import assignments, kmeans, nearest
from lattok.types import Quantized
from lattok.utils import checks
from lattok.utils.options import check_choices

RECENT_ROWS = 4096  # code rows kept for the usage report
Start = Literal["kmeans", "uniform", "normal"]
MOST_CODES = 1 << 20  # of a codebook that is nowhere written down


@dataclass(frozen=True)
class QuantizerConfig:
    """How a codebook learns. `levels` > 1 makes a residual quantizer: each level codes what the one before left."""

    dim: int
    size: int
    levels: int = 1
    update: Literal["ema", "gradient"] = "ema"  # "ema": moving averages; "gradient": codebook loss (Eq. 13)
    start: Start = "kmeans"  # from the first latents; or random: "uniform" in ±1/size, "normal" with deviation 1
    continuous_steps: int = 0  # training steps that pass latents through before k-means starts the codebook
    decay: float = 0.99  # per step, of the moving averages
    revive_below: float = 0.03  # a code is dead below this share of the mean use; 0 switches revival off
    restart_every: int = 0  # steps after which codes without a single use become copies of used ones; 0: never
    each_level: bool = False  # commitment adds up what every level leaves; else what the last one leaves

    def __post_init__(self) -> None:
        checks.counts(dim=self.dim, size=self.size, levels=self.levels)
        checks.whole(continuous_steps=self.continuous_steps, restart_every=self.restart_every)
        checks.at_least_zero(revive_below=self.revive_below)
        check_choices(self)
        checks.below_one(decay=self.decay)
        if self.restart_every and self.update != "gradient":
            checks.fail("restart_every", "0 unless update is 'gradient'", self.restart_every)
        if self.levels > 1 and self.update != "ema":
            checks.fail("levels", "1 unless update is 'ema'", self.levels)


class CodeStatistics(NamedTuple):
    """How a set of code rows uses its codebooks."""

    used: list[int]  # codes in use, per position
    perplexity: list[float]  # 2 ** entropy, per position
    joint_entropy: float  # bits of the whole row
    joint_ceiling: float  # bits that this many rows could show at most
    combinations: int  # distinct rows

    @property
    def tokens_repeat(self) -> bool:
        """Whether collapse is hidden: every position is fully used, yet a row says hardly more than its best
        position."""
        single = math.log2(max([1.0, *self.perplexity]))
        return len(self.used) > 1 and self.joint_entropy < 1.5 * single < 0.7 * self.joint_ceiling


def code_statistics(codes: Tensor, size: int) -> CodeStatistics:
    """Measure use per position and joint entropy of code rows [N, P]. Joint entropy reveals tokens that repeat one
    another."""
    checks.rank("codes", codes, "N P")
    codes = codes.cpu()  # read once

    def entropy(counts: Tensor) -> float:
        share = counts[counts > 0].double() / counts.sum()
        return float(-(share * share.log2()).sum())

    columns = [torch.bincount(column, minlength=size) for column in codes.T]
    rows = torch.unique(codes, dim=0, return_counts=True)[1]
    ceiling = min(codes.shape[1] * math.log2(size), math.log2(max(len(codes), 1)))
    used = [int((column > 0).sum()) for column in columns]
    perplexity = [2 ** entropy(column) if column.sum() else 0.0 for column in columns]
    return CodeStatistics(used, perplexity, entropy(rows), ceiling, combinations=len(rows))


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_processes(*tensors: Tensor) -> None:
    if _processes() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def _most_over_processes(number: int, device: torch.device) -> int:
    """Return the greatest number of any process, which waits for all of them."""
    most = torch.full((), number, device=device)
    if _processes() > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _gather_over_processes(rows: Tensor, valid: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Join rows [n, d] of all processes, each padded to `room` rows, and `valid` [n]: which of them count."""
    if _processes() == 1:
        return rows, valid
    padding = room - len(rows)
    mine = F.pad(rows, (0, 0, 0, padding)).contiguous(), F.pad(valid, (0, padding)).to(torch.uint8)
    parts = [[torch.empty_like(part) for _ in range(_processes())] for part in mine]
    for part, gathered in zip(mine, parts, strict=True):
        dist.all_gather(gathered, part)
    return torch.cat(parts[0]), torch.cat(parts[1]).bool()


def _stacked(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Stack tensors along a new axis; one alone is not copied."""
    return torch.stack([*parts], dim) if len(parts) > 1 else parts[0].unsqueeze(dim)


def _order(rows: Tensor, valid: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Order rows [L, n, d] of each level, those that count first, in a way that does not depend on which process had
    which."""
    drawn = _stacked([torch.randn(rows.shape[-1], generator=generator) for generator in generators])
    directions = onto(drawn, rows.device).to(rows.dtype)
    return (rows @ directions[..., None])[..., 0].masked_fill(~valid, torch.inf).argsort()


def _joined(rows: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """Join the rows [n, d] of all processes that count, in an order of their own; this reads how many there are."""
    rows, valid = _gather_over_processes(rows, valid, _most_over_processes(len(rows), rows.device))
    return rows[_order(rows[None], valid, [generator])[0, : int(valid.sum())]]


def _draws(k: int, count: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw k numbers a generator from 0 to below `count`, which is not read; 0 where it is 0."""
    drawn = _stacked([torch.randint(2**62, (k,), generator=generator) for generator in generators])
    return onto(drawn, count.device) % count.clamp_min(1)


def _from_first_process(tensor: Tensor) -> Tensor:
    if _processes() > 1:
        dist.broadcast(tensor, 0)
    return tensor


class Codebook(nn.Module):
    """K vectors and their moving averages."""

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.room = 0  # rows of each process that revival has room for; 0: they agree at their first batch
        vectors = torch.randn(config.size, config.dim)
        if config.start == "uniform":
            vectors = (2 * torch.rand(config.size, config.dim) - 1) / config.size
        if config.update == "gradient":
            self.vectors = nn.Parameter(vectors)
        else:
            self.vectors = nn.Buffer(vectors)
            self.cluster_sum = nn.Buffer(vectors.clone())
        self.cluster_size = nn.Buffer(torch.zeros(config.size))

    @torch.no_grad()
    def start_from(self, samples: Tensor, per_batch: float, generator: torch.Generator) -> None:
        """Start from k-means of `samples` [N, d], with counts scaled to a batch of `per_batch` vectors."""
        centres = _from_first_process(kmeans(samples, self.config.size, generator=generator))
        counts, _ = assignments(nearest(samples, centres), samples, self.config.size)
        self.vectors.copy_(centres)
        self.cluster_size.copy_(counts * (per_batch / len(samples)))
        if self.config.update == "ema":
            self.cluster_sum.copy_(centres * self.cluster_size[:, None])

    @torch.no_grad()
    def restart(self, generator: torch.Generator) -> None:
        """Make codes that were not used since the last restart copies of used ones, drawn at random."""
        used = self.cluster_size > 0
        first = (~used).int().argsort(stable=True)  # the used ones, in their order, then the others
        copies = _from_first_process(self.vectors[first[_draws(self.config.size, used.sum(), [generator])[0]]])
        self.vectors.copy_(torch.where((used | ~used.any())[:, None], self.vectors, copies))
        self.cluster_size.zero_()


@torch.no_grad()
def move_codebooks(
    books: Sequence[Codebook],
    inputs: Tensor,
    codes: Tensor,
    generators: Sequence[torch.Generator],
    valid: Tensor | None = None,
) -> None:
    """Take a moving-average step of L books from inputs [N, L, d] and codes [N, L], then revive dead codes.

    Only rows where `valid` [N] holds count. With `restart_every` cluster sizes count uses since the last restart. All
    books take it at once, as each alone would launch as many operations.
    """
    config, eps = books[0].config, 1e-5
    counts, sums = assignments(codes.T, inputs.transpose(0, 1), config.size, valid)  # l k, l k d
    _sum_over_processes(counts, sums)
    if config.restart_every:
        torch._foreach_add_([book.cluster_size for book in books], [*counts])  # pyright: ignore[reportPrivateImportUsage]
        return
    any_row = counts[0].sum() > 0  # without any, nothing moves
    new = {"cluster_size": _moved(books, "cluster_size", counts, any_row)}
    if config.update == "ema":
        size, sums = new["cluster_size"], _moved(books, "cluster_sum", sums, any_row)
        total = size.sum(-1, keepdim=True)
        smoothed = (size + eps) / (total + config.size * eps) * total
        vectors = torch.where(any_row, sums / smoothed[..., None], _held(books, "vectors"))
        new |= {"cluster_sum": sums, "vectors": vectors}
    if config.revive_below > 0:
        valid = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device) if valid is None else valid
        new |= _revived(books, new, inputs, valid, generators)
    held = [getattr(book, name) for name in new for book in books]
    torch._foreach_copy_(held, [part for value in new.values() for part in value])  # pyright: ignore[reportPrivateImportUsage]


def _held(books: Sequence[Codebook], name: str) -> Tensor:
    return _stacked([getattr(book, name) for book in books])


def _moved(books: Sequence[Codebook], name: str, towards: Tensor, any_row: Tensor) -> Tensor:
    """Return moving averages after a step."""
    old = _held(books, name)
    return old.lerp(torch.where(any_row, towards, old), 1 - books[0].config.decay)


def _revived(
    books: Sequence[Codebook],
    new: Mapping[str, Tensor],
    inputs: Tensor,
    valid: Tensor,
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Give dead codes rows of inputs [N, L, d] where `valid` [N] holds; without any of either nothing changes."""
    first, (levels, dim) = books[0], inputs.shape[1:]
    if _processes() > 1 and not first.room:  # they agree once on the most rows that one may have
        first.room = 2 * _most_over_processes(len(inputs), inputs.device)
    if _processes() > 1 and len(inputs) > first.room:
        checks.fail("latents", f"at most {first.room} rows, twice the most of a first batch", len(inputs))
    rows, valid = _gather_over_processes(inputs.flatten(1), valid, first.room)
    if not len(rows):
        return {}
    rows, size = rows.unflatten(1, (levels, dim)).transpose(0, 1), new["cluster_size"]  # l n d, l k
    mean_use = size.mean(-1, keepdim=True)
    dead = (size < first.config.revive_below * mean_use) & valid.any()
    pick = _order(rows, valid, generators).gather(1, _draws(first.config.size, valid.sum(), generators))
    fresh = _from_first_process(rows.gather(1, pick[..., None].expand(-1, -1, dim)))
    # Half the mean use: long enough to prove itself, short enough to be tried elsewhere soon.
    size = torch.where(dead, mean_use / 2, size)
    vectors = new["vectors"] if "vectors" in new else _held(books, "vectors")
    found = {"cluster_size": size, "vectors": torch.where(dead[..., None], fresh, vectors)}
    if "cluster_sum" in new:
        found["cluster_sum"] = torch.where(dead[..., None], fresh * size[..., None], new["cluster_sum"])
    return found


class CodeUsage(nn.Module):
    """Base of quantizers whose usage the training loop reports: remembers the codes of the latest steps."""

    frozen = False  # whether training only uses the codes that it was given

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.recent = nn.Buffer(torch.zeros(0, dtype=torch.long), persistent=False)

    def remember(self, codes: Tensor, valid: Tensor | None = None) -> None:
        """Keep rows of codes [..., P]; no report counts those with a -1 or with one not `valid`, [...] or [..., P]."""
        if valid is not None:
            codes = codes.masked_fill(~(valid if valid.ndim == codes.ndim else valid[..., None]), -1)
        rows = codes.reshape(-1, codes.shape[-1])
        recent = self.recent.to(rows.device) if self.recent.ndim == 2 else rows[:0]
        self.recent = torch.cat([recent, rows])[-RECENT_ROWS:]

    def pop_usage(self) -> CodeStatistics | None:
        """Return statistics of the codes that training gave since the last call; None where it gave none."""
        recent, self.recent = self.recent.cpu(), self.recent[:0]  # a GPU is waited for once
        recent = recent[(recent >= 0).all(-1)] if len(recent) else recent
        return code_statistics(recent, self.size) if len(recent) else None


class VectorQuantizer(CodeUsage):
    """Nearest-neighbour quantizer with one codebook, or with several in a residual chain (`levels` > 1).

    While `config.continuous_steps` last, training passes latents unquantized and remembers the latest, from which the
    codebooks then start. A training step is `parts` passes. Codes of [..., d] are [...] (one level) or [..., levels].
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config.size)
        self.config = config
        self.codebooks: Any = nn.ModuleList(Codebook(config) for _ in range(config.levels))  # one for each level
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))
        self.reservoir = nn.Buffer(torch.zeros(0, config.dim), persistent=False)
        self.reservoir_step = nn.Buffer(torch.zeros(0, dtype=torch.long), persistent=False)  # of each row
        self.parts, self.part = 1, 0  # passes that make a training step, and how many of the current one are done
        self._count: int | None = None  # what `steps` holds; none: not read since `train` was called
        # one for all processes that build the model from one seed
        self._seed = int(torch.randint(2**31, (), device="cpu"))

    def train(self, mode: bool = True) -> Self:
        self._count = None  # weights may have been loaded
        return super().train(mode)

    @property
    def count(self) -> int:
        """The training steps so far, as `steps` says; a GPU is waited for once after `train` was called."""
        if self._count is None:
            self._count = int(self.steps)
        return self._count

    def _count_on(self) -> None:
        if not self.part:
            self._count = self.count + 1
            self.steps += 1
        self.part = (self.part + 1) % self.parts

    @property
    def started(self) -> bool:
        """Return whether the codebooks have started; until then training passes latents through."""
        return self.config.start != "kmeans" or self.count > self.config.continuous_steps

    @property
    def codebook_vectors(self) -> list[Tensor]:
        """Return the codebook of each level, [K, d]."""
        return [book.vectors for book in self.codebooks]

    def forward(self, latents: Tensor, update: bool = True, valid: Tensor | None = None) -> Quantized:
        """Quantize latents [..., d], always in float32: rounding to bfloat16 changes codes.

        `update=False` leaves codebooks and counters alone also in training; only latents where `valid` [...] holds
        count in statistics. The rows returned are those from before the update.
        """
        checks.size("latents", "channels", latents.shape[-1], self.config.dim)
        with torch.autocast(latents.device.type, enabled=False):
            return self._forward(latents.float(), update, valid)

    def _forward(self, latents: Tensor, update: bool, valid: Tensor | None) -> Quantized:
        learning = self.training and update
        if learning:
            self._start(latents.detach().reshape(-1, latents.shape[-1]), None if valid is None else valid.reshape(-1))
            self._count_on()
        continuous = self.training and not self.started  # after the count: so all passes of a step do the same
        codes, rows, coarser = self._assign(latents, learning and not continuous, valid)
        if continuous:
            losses = {"commitment": latents.new_zeros(())}
            if self.config.update == "gradient":  # every step has the same terms, and a gradient of every parameter
                losses["codebook"] = 0.0 * torch.stack(self.codebook_vectors).sum()
            return Quantized(latents, codes, losses)
        if learning:
            self.remember(codes if codes.ndim > 1 else codes[:, None], valid)
        pulled = F.mse_loss(latents, rows)  # the encoder towards its code
        losses = {"commitment": sum([F.mse_loss(latents, each) for each in coarser], start=pulled)}
        if self.config.update == "gradient":
            losses["codebook"] = F.mse_loss(self.lookup(codes), latents.detach())  # pulls the code to the latents
        return Quantized(latents + (rows - latents).detach(), codes, losses)

    @torch.no_grad()
    def codes_of(self, latents: Tensor) -> Tensor:
        """Return the codes of latents [..., d] alone, as in evaluation mode."""
        return self._assign(latents.float(), False, None)[0]

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors that codes stand for, summed over levels."""
        if self.config.levels == 1:
            return F.embedding(codes, self.codebook_vectors[0])
        return sum(F.embedding(codes[..., i], book) for i, book in enumerate(self.codebook_vectors))  # pyright: ignore

    def _assign(self, latents: Tensor, update: bool, valid: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return codes, their vectors, and with `each_level` those of the levels before the last."""
        codes, coarser, given, left = list[Tensor](), list[Tensor](), list[Tensor](), latents.detach()
        for book in self.codebooks:
            code = nearest(left, book.vectors)
            rows = F.embedding(code, book.vectors)
            if codes and self.config.each_level:
                coarser.append(latents.detach() - left)
            codes.append(code)
            given.append(left)
            left = left - rows.detach()
        found = _stacked(codes, -1)
        if update:
            self._update(_stacked(given, -2), found, valid)
        if self.config.levels == 1:
            return codes[0], rows.detach(), []
        return found, latents.detach() - left, coarser

    def _update(self, given: Tensor, codes: Tensor, valid: Tensor | None) -> None:
        """Move the codebooks towards what each was given, [..., levels, d], where `valid` [...] holds."""
        books, (levels, dim) = [*self.codebooks], given.shape[-2:]
        inputs, counted = given.reshape(-1, levels, dim), None if valid is None else valid.reshape(-1)
        generators = [self._generator(level) for level in range(levels)]
        move_codebooks(books, inputs, codes.reshape(-1, levels), generators, counted)
        if self.config.restart_every and not self.part and self.count % self.config.restart_every == 0:
            for level, book in enumerate(self.codebooks):
                book.restart(self._generator(level))

    def _generator(self, level: int) -> torch.Generator:
        """Seed this step and level: the same in every process, independent of other draws."""
        return torch.Generator().manual_seed(self._seed + 1000 * self.count + level)

    @torch.no_grad()
    def _start(self, rows: Tensor, valid: Tensor | None) -> None:
        """Collect latents [n, d] during the continuous steps; then start each level from what the last one left.

        Rows where `valid` [n] does not hold are kept as of step -1, and left out in the end.
        """
        if self.started:
            return
        valid = torch.ones(len(rows), dtype=torch.bool, device=rows.device) if valid is None else valid
        # Whole batches, at least 16 rows per code.
        keep = len(rows) * math.ceil(16 * self.config.size / max(1, len(rows) * _processes()))
        of_step = torch.where(valid, self.count, -1)
        self.reservoir = torch.cat([self.reservoir.to(rows), rows])[-keep:]
        self.reservoir_step = torch.cat([self.reservoir_step.to(rows.device), of_step])[-keep:]
        if self.count == self.config.continuous_steps and not self.part:
            per_batch = valid.sum()
            _sum_over_processes(per_batch)
            left = _joined(self.reservoir, self.reservoir_step >= 0, self._generator(0))
            for level, book in enumerate(self.codebooks):
                book.start_from(left, float(per_batch), self._generator(level))
                left = left - F.embedding(nearest(left, book.vectors), book.vectors)
            self.reservoir, self.reservoir_step = self.reservoir[:0], self.reservoir_step[:0]


def check_warm_up(name: str, warm: int, steps: int) -> None:
    """Check that a codebook that starts after `warm` steps, the option `name`, starts within the run."""
    if warm and warm >= steps:
        hint = f"Give {name}={steps // 3}, or more steps."
        checks.fail(name, f"less than the {steps} steps, or no codebook is trained", warm, hint)
