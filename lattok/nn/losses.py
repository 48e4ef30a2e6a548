"""Losses of actions over what is valid (P2T, Eq. 4; LatBot, 3.3), pure functions.

Each is the mean over the valid elements of a sample, then over the samples that have any, so that λ means the same for
every H, P and share of labels. So shares of several processes add up where as many of their samples have any, which is
all of them for actions. With "sum" a sample counts with the sum of its elements, as printed; "none" gives means [B].

Flow matching (Lipman et al., 2023) compares velocities v, at times that `draw_flow` draws as π0 and GR00T do:

x_t = (1 - t) ε + t a,    v = a - ε           ε ~ N(0, 1),  t = s (1 - Beta(1.5, 1)),  s = 0.999
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.types import FlowDraws, LossTerms
from lattok.utils import checks

REDUCTIONS = ("mean", "sum", "none")
LATEST = 0.999  # s: the greatest time that is learned
SHAPE = 1.5  # a of Beta(a, 1): early times, where most is decided, come more often
TICKS = 1000  # of the time that sines tell apart
MOST_FLOW_STEPS = 1000


def reduce_valid(errors: Tensor, valid: Tensor, reduction: str = "mean", size: int = 1) -> Tensor:
    """Average errors [B, S] where `valid` [B, S] holds. `size`: elements that an error is the mean of, for "sum"."""
    checks.one_of("reduction", reduction, REDUCTIONS)
    errors = errors.masked_fill(~valid, 0.0)  # a NaN in what is not valid stays there
    total, count = errors.sum(1), valid.sum(1)
    per_sample = size * total if reduction == "sum" else total / count.clamp(min=1)
    return per_sample if reduction == "none" else per_sample.sum() / (count > 0).sum().clamp(min=1)


def action_loss(predicted: Tensor, target: Tensor, valid: Tensor, kind: str = "l2", reduction: str = "mean") -> Tensor:
    """Compare action chunks [B, H, m] (Eq. 4, as printed with "sum"); `kind` "l1" is what the published code has.

    `valid` are steps [B, H], or numbers [B, H, m] where robots lack dimensions: a step is the mean of those it has.
    """
    checks.one_of("action_loss", kind, ("l2", "l1"))
    target = target.masked_fill(~numbers(valid), 0.0)
    errors = (predicted.float() - target).square() if kind == "l2" else (predicted.float() - target).abs()
    return _over_dimensions(errors, valid, reduction)


def numbers(valid: Tensor) -> Tensor:
    """Return a mask of steps [B, H] as one of their numbers [B, H, 1], one of numbers [B, H, m] as it is."""
    return valid if valid.dim() == 3 else valid[..., None]


def _over_dimensions(errors: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """Average errors [B, H, m] over the dimensions that are there, then over steps and samples."""
    if valid.dim() == 2:
        return reduce_valid(errors.mean(-1), valid, reduction, errors.shape[-1])
    total, count = errors.masked_fill(~valid, 0.0).sum(-1), valid.sum(-1)
    return reduce_valid(total if reduction == "sum" else total / count.clamp(min=1), count > 0, reduction)


def gripper_action_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, gripper: Sequence[int], reduction: str = "mean"
) -> Tensor:
    """Compare action chunks [B, H, m] by L_ee + L_gripper (LatBot, 3.3): squared error, and cross-entropy of logits.

    `gripper` are the dimensions of the second term; their targets lie between -1 and 1. `valid` as in `action_loss`.
    """

    def columns(x: Tensor, dims: Sequence[int]) -> Tensor:  # of a list as an index a GPU waits for the copy
        return torch.stack([x[..., dim] for dim in dims], -1)

    rest = [dim for dim in range(target.shape[-1]) if dim not in gripper]
    own = columns(valid, gripper) if valid.dim() == 3 else valid
    logits, wanted = columns(predicted, gripper).float(), columns(target, gripper).clamp(-1, 1) / 2 + 0.5
    wanted = wanted.masked_fill(~numbers(own), 0.0)
    loss = _over_dimensions(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), own, reduction)
    if not rest:
        return loss
    others = columns(valid, rest) if valid.dim() == 3 else valid
    return loss + action_loss(columns(predicted, rest), columns(target, rest), others, "l2", reduction)


def coded(valid: Tensor) -> Tensor:
    """Return which samples have a chunk to code, bool [B]: their `valid` steps [B, H] begin with the first, without a
    gap. Where no action is known, or one in the middle is not to teach, there is none."""
    return valid[:, 0] & (valid[:, 1:] <= valid[:, :-1]).all(1)


def of_share(terms: LossTerms, valid: Tensor, average: Tensor | None) -> LossTerms:
    """Weigh terms of a share of a batch, so that their mean over the shares is that over all samples that count.

    A sample counts where any of its steps is `valid` [B, S]; `average` such samples are in a share, None: all of them.
    """
    if average is None:
        return terms
    own = valid.any(1).sum() / average.clamp(min=1e-6)
    return {name: own * value for name, value in terms.items()}


def draw_flow(
    shape: Sequence[int], generator: torch.Generator | None = None, device: torch.device | None = None
) -> FlowDraws:
    """Draw noise of `shape` [B, H, m] and times [B]; a variable of Beta(a, 1) is a uniform one to the power 1 / a."""
    noise = torch.randn(*shape, generator=generator, device=device)
    uniform = torch.rand(shape[0], generator=generator, device=device)
    return FlowDraws(noise, LATEST * (1 - uniform ** (1 / SHAPE)))
