"""BEAST (Zhou et al., 2025): coefficients of B-splines in place of the steps of a chunk, each in a uniform bin.

coefficients = (M'M + ridge I)^-1 M' actions                 M [H, n]: clamped uniform B-splines at the H steps
code         = round((coefficient - low) / (high - low) * (bins - 1))     bounds of its own for each coefficient
actions      = M coefficients

The codes are in order of the bases, and of one basis in order of the dimensions. Dimensions in `stepped`, such as a
gripper, have degree 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer, Repair
from lattok.action_vq.chunks import examine, held_from_neighbours, share_of, value_range
from lattok.hub import checkpoint
from lattok.nn.normalize import MOST_NAMED, named_dims
from lattok.nn.quantize import MOST_CODES
from lattok.types import ActionBatch
from lattok.utils import checks
from lattok.utils.options import knows_data

MOST_DEGREE, MOST_BASES, MOST_ENTRIES = 16, 256, 1 << 22  # the last: of the matrix that encodes
LEAST_RIDGE = 1e-12
LEAST_HALF = 0.02  # half of the narrowest bounds, in normalised units: a coefficient that never moves needs some


@dataclass(frozen=True)
class BEASTConfig(ChunkConfig):
    """Splines that describe a chunk. Defaults: as published for LIBERO, except its horizon of 10.

    Attributes:
        bases: coefficients of each dimension
        degree: degree of the splines; higher degrees are smoother, and 0 gives steps
        bins: bins of each coefficient
        stepped: dimensions of degree 0, by name, pattern (*) or index
        ridge: ridge of the least-squares fit, which keeps poorly determined coefficients small
    """

    bases: int = 5
    degree: int = 4
    bins: int = 256
    stepped: tuple[str, ...] = ("*gripper*",)
    ridge: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(2, MOST_CODES, bins=self.bins)
        checks.counts(0, MOST_DEGREE, degree=self.degree)
        checks.counts(self.degree + 1, MOST_BASES, bases=self.bases)
        checks.positive(ridge=self.ridge)
        if self.ridge < LEAST_RIDGE:
            checks.fail("ridge", f"at least {LEAST_RIDGE:g}, with which every system has a solution", self.ridge)
        checks.counts(0, MOST_NAMED, **{"number of stepped": len(self.stepped)})
        if knows_data(self) and self.horizon * self.bases * self.action_dim**2 > MOST_ENTRIES:
            checks.fail("bases", f"at most {MOST_ENTRIES:,} numbers in a matrix H m × bases m", self.bases)
        self.stepped_dims()

    def stepped_dims(self) -> set[int]:
        """Return the dimensions that are coded as steps. Raises `LattokError` if `stepped` names unknown ones."""
        names, dims, given = self.action_names, self.action_dim, self.stepped if knows_data(self) else ()
        return {i for name in given for i in named_dims("stepped", name, names, dims)}


def spline_basis(steps: int, bases: int, degree: int) -> np.ndarray:
    """Return M [steps, bases]: clamped uniform B-splines at equally spaced times, by the recursion of Cox and de Boor.

    Times and knots are scaled to whole numbers, so that rounding never moves a step to the other side of a knot.
    """
    spans, end = bases - degree, max(1, steps - 1)
    times = np.arange(steps) * spans
    knots = np.pad(np.arange(spans + 1) * end, degree, mode="edge")
    values = np.eye(bases + degree)[degree + np.minimum(times // end, spans - 1)]  # degree 0: which span it is in
    for p in range(1, degree + 1):
        rise = (times[:, None] - knots[:-p]) / np.maximum(1, knots[p:] - knots[:-p])  # empty spans have zeros in values
        values = rise[:, :-1] * values[:, :-1] + (1 - rise[:, 1:]) * values[:, 1:]
    return values


class BEAST(ChunkTokenizer):
    """Chunks [B, H, m] to n*m codes: B-splines of each dimension, their coefficients in uniform bins.

    >>> tokenizer = BEAST.fit(chunks, bases=5)                   # [N, H, m] in physical units
    """

    type = "beast"
    arxiv = "2506.06072"
    config_class = BEASTConfig
    config: BEASTConfig

    def __init__(self, config: BEASTConfig):
        super().__init__(config)
        self.vocab_size, self.tokens_per_chunk = config.bins, config.bases * config.action_dim
        # of the coefficients, basis by basis
        self.low, self.high = (nn.Buffer(torch.full((self.tokens_per_chunk,), end)) for end in (-1.0, 1.0))
        dims, steps, bases, stepped = config.action_dim, config.horizon, config.bases, config.stepped_dims()
        fit, draw = torch.zeros(steps, dims, bases, dims), torch.zeros(bases, dims, steps, dims)
        for i in range(dims):
            basis = spline_basis(steps, bases, 0 if i in stepped else config.degree)
            solved = np.linalg.solve(basis.T @ basis + config.ridge * np.eye(bases), basis.T)
            fit[:, i, :, i], draw[:, i, :, i] = torch.from_numpy(solved.T), torch.from_numpy(basis.T)
        self.to_coefficients = nn.Buffer(fit.flatten(2).flatten(0, 1), persistent=False)  # [H m, n m]
        self.to_actions = nn.Buffer(draw.flatten(2).flatten(0, 1), persistent=False)  # [n m, H m]

    def _learn(self, batch: ActionBatch, how: Any) -> None:
        """Take the extremes of each coefficient as its bounds."""
        actions, mask = self._prepare(*batch)
        there = mask.any(1, keepdim=True).repeat(1, 1, self.config.bases)
        low, high = value_range(self._coefficients(actions)[:, None], there)
        spare = (LEAST_HALF - (high - low) / 2).clamp_min(0)
        self.low.copy_(low - spare)
        self.high.copy_(high + spare)

    def unsound(self) -> list[str]:
        """Return what is wrong with bounds read from a file."""
        ordered = bool((self.low < self.high).all() & (self.high - self.low).isfinite().all())
        return [] if ordered else ["low must be below high, and both finite, as their difference"]

    def _coefficients(self, actions: Tensor) -> Tensor:
        """Fit coefficients [B, n m] to normalised actions [B, H, m]; absurd actions have some, too."""
        return (actions.flatten(1) @ self.to_coefficients).nan_to_num()

    def _bins_of(self, coefficients: Tensor) -> Tensor:
        share = (coefficients - self.low) / (self.high - self.low)
        return (share.clamp(0, 1) * (self.vocab_size - 1)).round().long()

    def _values_of(self, codes: Tensor) -> Tensor:
        return codes / (self.vocab_size - 1) * (self.high - self.low) + self.low

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        return self._bins_of(self._coefficients(actions))

    def _decode(self, codes: Tensor) -> Tensor:
        return (self._values_of(codes) @ self.to_actions).view(-1, self.horizon, self.config.action_dim)

    def _repair(self, codes: Tensor) -> Repair:
        """Let a coefficient whose code is missing or outside the bins repeat its neighbour in time."""
        codes, bad, notes = examine(codes, self.tokens_per_chunk, self.vocab_size)
        if not notes:
            return Repair(codes, bad[:, None, :1], notes)
        codes, bad = codes.clamp(0, self.vocab_size - 1), bad.view(-1, self.config.bases, self.config.action_dim)
        held = self._bins_of(held_from_neighbours(self._values_of(codes).view_as(bad), bad).flatten(1))
        return Repair(torch.where(bad.flatten(1), held, codes), bad.all(1, keepdim=True), notes)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        found, slack = self._coefficients(actions), 1e-5 * (self.high - self.low)
        there = valid.any(1).repeat(1, self.config.bases)
        return share_of((found < self.low - slack) | (found > self.high + slack), there)


NEEDED = ("num_dof", "num_basis", "seq_len", "gripper_zero_order")  # of published settings
UNREAD = ("init_cond_order", "end_cond_order", "use_bpe")


@checkpoint.importer(
    "beast",
    sign=r"(^|\.)w_(min|max)$",
    mind="Actions are raw, as its policy has them. Its ids count down in the language model: code = last id - id.",
)
def beast(path: checkpoint.FilePath, config: checkpoint.Settings, *, ridge: float = 1e-5) -> BEAST:
    """Read a published BEAST tokenizer: its bounds w_min and w_max, alone or within the checkpoint of its policy.

    Example: lattok convert beast last.ckpt my-beast --config tokenizer.yaml

    Args:
        path: The checkpoint.
        config: Arguments of the tokenizer's constructor, in a .yaml or .json file or a dictionary: num_dof, num_basis,
            seq_len, gripper_zero_order (published classes differ in its default), and where they are not the published
            ones vocab_size, degree_p, gripper_dof, gripper_indices, of which the last dimensions are supported.
        ridge: Ridge of the least squares; another public copy of the tokenizer has 1e-4.
    """
    given = checkpoint.published_settings(config)
    faults = [f"no {name}" for name in NEEDED if name not in given]
    if faults := faults + [f"{name} {given[name]}" for name in UNREAD if given.get(name)]:
        checks.fail("config", f"{', '.join(NEEDED)}, and no {', '.join(UNREAD)}", ", ".join(faults))
    dims, bases, horizon = (given[name] for name in NEEDED[:3])
    checks.counts(num_dof=dims)
    grippers = _grippers(given, dims)
    rest = {"bins": given.get("vocab_size", 256), "degree": given.get("degree_p", 4), "ridge": ridge}
    stepped = tuple(str(i) for i in range(dims - grippers, dims))
    settings = BEASTConfig(dims, horizon, bases=bases, stepped=stepped, normalize="identity", **rest)
    foreign = checkpoint.read_system(path, "beast", parts=("state_dict",))  # Lightning's, with a whole policy
    bounds = [name for name in foreign if name.rpartition(".")[2] in ("w_min", "w_max")]
    if len(groups := sorted({name.rpartition(".")[0] for name in bounds})) > 1:
        checks.fail(str(path), "the bounds of one tokenizer", f"those of {checks.listed(groups)}")
    found = {name.rpartition(".")[2]: foreign[name] for name in bounds}
    by_basis = partial(checkpoint.Join, make=lambda w: w.view(dims, bases).T.flatten())  # theirs: by dimension
    names = {"low": by_basis(("w_min",)), "high": by_basis(("w_max",))}
    return checkpoint.converted(lambda: BEAST(settings), found, names, str(path), kept=("shift", "scale"))


def _grippers(settings: Mapping[str, Any], dims: int) -> int:
    """Return how many of the last dimensions are coded as steps; one published class counts, another lists them."""
    if not checkpoint.setting(settings, "gripper_zero_order", bool):  # "false" is no bool, and true
        return 0
    given = settings.get("gripper_indices") is not None
    listed = list(checkpoint.setting(settings, "gripper_indices", tuple[int, ...])) if given else None
    count = checkpoint.setting(settings, "gripper_dof", int, 1 if listed is None else len(listed))
    checks.counts(0, dims, gripper_dof=count)
    if listed is not None and listed != [*range(dims - count, dims)]:
        checks.fail("gripper_indices", f"the last {count} of {dims}, {[*range(dims - count, dims)]}", listed)
    return count
