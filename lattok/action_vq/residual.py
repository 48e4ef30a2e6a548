"""Residual vector quantisation of whole chunks: codes from coarse to fine.

chunk ~ sum_p C_p[code_p]        C_p: codebooks [K, H*m], so that decoding is a sum of table rows

The codes are found jointly by a beam search, not one after another. Levels start as k-means of what the levels before
leave; then codes and rows are refitted in turn (additive quantisation, Babenko and Lempitsky, 2014).

Entries that a mask leaves out count neither in the search nor in refits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.action_vq.base import ChunkConfig
from lattok.action_vq.chunks import FitOptions
from lattok.action_vq.coarse_to_fine import CoarseToFine, with_synthetic
from lattok.action_vq.learned import near_codes
from lattok.nn.kmeans import residual_kmeans
from lattok.nn.quantize import MOST_CODES
from lattok.types import ActionBatch
from lattok.utils import checks
from lattok.utils.options import ADDED
from lattok.utils.progress import ProgressBar

ITERATIONS = 8  # of k-means
FIT_BEAMS = 8
MAX_BEAMS = 4096
INERTIA = 20.0  # rows are refitted as if this many chunks more had each of them and were coded perfectly
SWEEPS = 5  # passes over the levels for each refit
BLOCK, MOST_SUMS = 1024, 1 << 25  # chunks searched at a time, and numbers for them


@dataclass(frozen=True)
class ResidualVQConfig(ChunkConfig):
    """`tokens` levels of `codebook_size` rows; `beams` partial codes are kept at encoding, 1 is greedy.

    Attributes:
        tokens: codes of a chunk, one for each level
        codebook_size: codes to choose from in each level
        beams: partial codes that are kept while a chunk is encoded; 1: greedy
        perturb: share of the codes that are replaced by near ones in a second set of chunks to refit to; 0: none
    """

    tokens: int = 8
    codebook_size: int = 256
    beams: int = 16
    perturb: float = field(default=0.0, metadata=ADDED)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(tokens=self.tokens)
        checks.counts(2, codebook_size=self.codebook_size)
        checks.counts(1, MAX_BEAMS, beams=self.beams)
        if self.tokens * self.codebook_size > MOST_CODES:
            got = f"{self.tokens:,} times {self.codebook_size:,}"
            checks.fail("codebook_size", f"at most {MOST_CODES:,} rows in the codebooks of all tokens", got)
        checks.below_one(perturb=self.perturb)


@dataclass(frozen=True)
class ResidualFit(FitOptions):
    """How codebooks are refitted. Without synthetic chunks, those of small datasets overfit to their tasks.

    Attributes:
        steps: how often codes and rows are refitted; 0: plain residual k-means
        synthetic: number of synthetic chunks, made from the given ones and added to them
    """

    steps: int = 12
    synthetic: int = 24_000

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(0, 10**9, steps=self.steps, synthetic=self.synthetic)


class ResidualVQ(CoarseToFine):
    """Chunks [B, H, m] to `tokens` codes each, coarse to fine: the first p codes of a row decode on their own.

    >>> tokenizer = ResidualVQ.fit(chunks)                       # [N, H, m] in physical units
    >>> rough = tokenizer.decode(tokenizer.encode(chunks)[:, :3])
    """

    type = "residual-vq"
    config_class = ResidualVQConfig
    config: ResidualVQConfig
    fit_options = ResidualFit
    tried = 4

    def __init__(self, config: ResidualVQConfig):
        super().__init__(config)
        rows = config.tokens * config.codebook_size
        # The last row is zero: what a missing code adds.
        self.table = nn.Buffer(torch.zeros(rows + 1, config.horizon * config.action_dim))

    def unsound(self) -> list[str]:
        """Return what is wrong with a table read from a file."""
        sound = bool(self.table.isfinite().all()) and not bool(self.table[-1].any())
        return [] if sound else ["table must be finite, and 0 in its last row"]

    @property
    def codebooks(self) -> Tensor:
        """Return the codebooks [P, K, H*m], in normalised units."""
        return self.table[:-1].view(self.config.tokens, self.config.codebook_size, -1)

    @torch.no_grad()
    def _learn(self, batch: ActionBatch, how: Any) -> None:
        """Fit codebooks to the given chunks and synthetic ones, then refit them."""
        generator, config = torch.Generator().manual_seed(how.seed), self.config
        actions, mask = self._prepare(*batch)

        def samples() -> tuple[Tensor, Tensor]:
            made, made_mask = with_synthetic(actions, mask, how.synthetic, generator)
            return made.flatten(1), made_mask.flatten(1)

        with ProgressBar(self.type) as progress:
            # The start counts padding, which repeats actions and so does little harm; refits do not.
            books = residual_kmeans(samples()[0], config.codebook_size, config.tokens, ITERATIONS, generator)
            for step in range(how.steps):
                progress(step + 1, 1 + how.steps)
                books = refit(*samples(), books, config.perturb, generator)
            progress(1 + how.steps, 1 + how.steps)
        self.table[:-1] = books.flatten(0, 1)

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        codes = torch.empty(len(actions), self.config.tokens, dtype=torch.long, device=actions.device)
        valid = torch.ones_like(actions, dtype=torch.bool) if valid is None else valid
        for rows, mask in by_mask(valid.flatten(1), self.config.beams * max(self.codebooks.shape[1:])):
            chunks = actions[rows]
            found, sums = search(chunks.flatten(1) * mask, self.codebooks * mask, self.config.beams)
            decoded = self.limits(sums.unflatten(-1, chunks.shape[1:]))  # b beams h m
            best = ((decoded - chunks[:, None]).square().flatten(2) * mask).sum(-1).argmin(1)  # once it is clipped
            codes[rows] = found[torch.arange(len(found), device=found.device), best]
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        first = torch.arange(self.config.tokens, device=codes.device) * self.config.codebook_size
        rows = torch.where(codes < 0, len(self.table) - 1, codes + first)
        return self.limits(F.embedding(rows, self.table).sum(1).view(-1, self.horizon, self.config.action_dim))


def by_mask(valid: Tensor, size: int) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Yield rows of `valid` [B, d] bool that have the same mask, with this mask [d]; at most BLOCK at a time, fewer
    where each takes a search of `size` numbers.

    What lies under a mask does not count once chunks and codebooks are multiplied by it.
    """
    most = max(1, min(BLOCK, MOST_SUMS // size))
    if bool(valid.all()):
        yield from ((slice(start, start + most), valid[0]) for start in range(0, len(valid), most))
        return
    masks, which = torch.unique(valid, dim=0, return_inverse=True)  # few: ends of episodes, kinds of robots
    for i, mask in enumerate(masks):
        for rows in (which == i).nonzero()[:, 0].split(most):
            yield rows, mask


def search(targets: Tensor, books: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """Find codes [B, n, P] for targets [B, d] with codebooks [P, K, d], nearest first, and their sums [B, n, d].

    After each level the `beams` sums nearest to the target go on; one beam is greedy, K^(P-1) beams try everything.
    """
    size = books.shape[1]
    left, distance = targets[:, None], targets.square().sum(-1)[:, None]  # b n d, b n
    codes = torch.zeros(*distance.shape, 0, dtype=torch.long, device=targets.device)
    for book in books:
        dots = left.reshape(-1, book.shape[1]) @ book.T
        grown = (distance[..., None] + book.square().sum(-1) - 2 * dots.view(*distance.shape, size)).flatten(1)
        distance, best = grown.topk(min(beams, grown.shape[1]), largest=False)
        parent, code = best // size, best % size
        codes = torch.cat([_pick(codes, parent), code[..., None]], -1)
        left = _pick(left, parent) - book[code]
    return codes, targets[:, None] - left


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Pick rows of values [B, n, d] by index [B, k]: [B, k, d]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def refit(
    samples: Tensor, valid: Tensor, books: Tensor, perturb: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Search codes of samples [N, d], then return rows [P, K, d] whose sums come nearer where `valid` [N, d].

    With `perturb` also those of codes of which that share is replaced by near ones: see `learned`.
    """
    codes = torch.empty(len(samples), len(books), dtype=torch.long, device=samples.device)
    for rows, mask in by_mask(valid, FIT_BEAMS * max(books.shape[1:])):
        codes[rows] = search(samples[rows] * mask, books * mask, FIT_BEAMS)[0][:, 0]
    if perturb:
        hit = torch.rand(codes.shape, generator=generator) < perturb
        near = torch.stack([near_codes(*pair, generator) for pair in zip(codes.T, books, strict=True)], 1)
        codes = torch.cat([codes, torch.where(hit, near, codes)])
        samples, valid = samples.repeat(2, 1), valid.repeat(2, 1)
    return least_squares(samples, valid, codes, books, INERTIA)


def least_squares(samples: Tensor, valid: Tensor, codes: Tensor, books: Tensor, inertia: float) -> Tensor:
    """Fit rows [P, K, d], near `books`, whose sums for `codes` [N, P] are near samples [N, d] where `valid` [N, d], by
    coordinate descent, level by level."""
    books, weight = books.clone(), valid.to(samples.dtype)
    left = (samples - sum(book[code] for book, code in zip(books, codes.T, strict=True))) * weight
    totals = [torch.full_like(books[0], inertia).index_add_(0, code, weight) for code in codes.T]  # chunks per entry
    for _ in range(SWEEPS):
        for book, code, total in zip(books, codes.T, totals, strict=True):
            change = torch.zeros_like(book).index_add_(0, code, left) / total
            book += change
            left = left - change[code] * weight
    return books
