"""Latent actions as supervision of any policy's hidden states: a head and a loss, no backbone (Eq. 5 to 7 and 10).

    loss = CodeCrossEntropy(dim=512, codebook_size=16, codes=4)
    terms = loss(states, target)      # states [B, S, 512] -> {"latent": loss, "latent_accuracy": ...}

A policy has `states_per_step` states for each of the S steps that are labelled: one, or one for each code, step-major.
A new loss is a subclass with a `kind` in a module of this folder: strategies find it by that name. The functions at the
top are pure, over valid elements; how they are averaged: `lattok.nn.losses`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from typing_extensions import Self

from lattok.labels import PARTS, LatentSpec, target_from_batch
from lattok.labels.reader import ANNOTATE
from lattok.nn.blocks import onto
from lattok.nn.losses import reduce_valid
from lattok.types import LatentTarget, LossTerms
from lattok.utils import checks
from lattok.utils.registry import Registry

LOSSES: "Registry[type[LatentSupervision]]" = Registry("lattok.losses", "lattok.vla")


def alignment(projected: Tensor, embedding: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return 1 - cosine of projected states [B, S, d] and latent actions [B, S, P, d] pooled over P (Eq. 5 plus 1)."""
    target = reduce(embedding.masked_fill(~valid[..., None, None], 0.0), "b s p d -> b s d", "mean")
    return reduce_valid(1 - F.cosine_similarity(projected.float(), target, dim=-1), valid, reduction)


def code_cross_entropy(logits: Tensor, codes: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return -log softmax(logits)[code] (Eq. 6, 7, 10), logits [B, S, P, K], codes [B, S, P]: one code a state."""
    safe = codes.masked_fill(~valid[..., None], 0)  # labels that are not there are -1
    losses = F.cross_entropy(rearrange(logits.float(), "b s p k -> b k s p"), safe, reduction="none")  # b s p
    return reduce_valid(losses.mean(-1), valid, reduction, losses.shape[-1])


def regression(predicted: Tensor, embedding: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error of predicted latent actions [B, S, P, d] (section 5.4, continuous variants)."""
    errors = (predicted.float() - embedding.masked_fill(~valid[..., None, None], 0.0)).square()
    return reduce_valid(errors.mean((-1, -2)), valid, reduction, errors.shape[-1] * errors.shape[-2])


def distillation(predicted: Tensor, embedding: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error plus KL(p(predicted) || p(embedding)) of latent actions [B, S, P, d] (LatBot, Eq. 4). p
    is the softmax over the d numbers of a latent action."""
    target = embedding.masked_fill(~valid[..., None, None], 0.0)
    own, teacher = predicted.float().log_softmax(-1), target.log_softmax(-1)
    divergence = (own.exp() * (own - teacher)).sum(-1)  # b s p
    divergence = reduce_valid(divergence.mean(-1), valid, reduction, divergence.shape[-1])
    return regression(predicted, embedding, valid, reduction) + divergence


@torch.no_grad()
def code_accuracy(logits: Tensor, codes: Tensor, valid: Tensor) -> Tensor:
    """Return the share of valid codes [B, S, P] with the largest logit, averaged as the losses are; 0 where none is."""
    return reduce_valid((logits.argmax(-1) == codes).float().mean(-1), valid)


@torch.no_grad()
def _cosine(predicted: Tensor, embedding: Tensor, valid: Tensor) -> Tensor:
    """Average the cosine of vectors [B, S, E, d] as `code_accuracy` does."""
    return reduce_valid(F.cosine_similarity(predicted.float(), embedding, dim=-1).mean(2), valid)


class LatentSupervision(nn.Module, ABC):
    """A head over hidden states of width `dim`, and the loss of its predictions. Subclasses set the attributes
    below."""

    kind: ClassVar[str] = ""  # what strategies call it
    weight: ClassVar[float] = 0.1  # lambda of the paper (Table 7)
    parts: ClassVar[tuple[str, ...]] = PARTS  # of a target, which it needs and looks at
    sizes: ClassVar[tuple[str, ...]] = ()  # of a `LatentSpec`, at least 1, which its constructor takes by name
    options: ClassVar[tuple[str, ...]] = ()  # keywords of its constructor that a strategy may set

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.kind:
            LOSSES.add(cls.kind, cls)

    def __init__(self, dim: int, states_per_step: int = 1, labels: LatentSpec | None = None):
        """Take the sizes of the `labels` that it is made for."""
        super().__init__()
        checks.counts(dim=dim, states_per_step=states_per_step)
        self.dim, self.states_per_step, self.labels = dim, states_per_step, labels or LatentSpec()
        checks.counts(**{size: getattr(self.labels, size) for size in self.sizes})

    @classmethod
    def build(cls, dim: int, labels: LatentSpec, states_per_step: int = 1, **options: Any) -> Self:
        """Return the loss for labels that have its `parts`."""
        sizes = {size: getattr(labels, size) for size in cls.sizes}
        return cls(dim, states_per_step=states_per_step, **sizes, **options)

    def target_of(self, batch: Mapping[str, Any], labels: LatentSpec) -> Any:
        """Read the targets of the loss from a batch of another library's policy."""
        return target_from_batch(batch, labels, parts=self.parts)

    def forward(self, states: Tensor, target: LatentTarget, reduction: str = "mean") -> LossTerms:
        """Return the loss of states [B, S * states_per_step, dim] of any dtype, and figures for the log.

        "latent" is the loss, not weighted, [B] with `reduction="none"`; the figures carry no gradient. Raises
        `LattokError` where the target does not fit; of a `checked` target, such as those of `lattok.samples`, only
        shapes are checked, so that no GPU has to be waited for.
        """
        self._check(states, target)
        target = target._replace(**{part: _part_of(target, part, self.labels) for part in self.parts})
        if not target.checked and not torch.compiler.is_compiling():
            self._check_values(target)
        target = onto(target, states.device)
        states = states.to(next(self.parameters()).dtype)
        return self._terms(rearrange(states, "b (s k) d -> b s k d", k=self.states_per_step), target, reduction)

    @abstractmethod
    def _terms(self, states: Tensor, target: LatentTarget, reduction: str) -> LossTerms:
        """Return the terms of states [B, S, states_per_step, dim]; of `target` the `parts` have been checked."""

    def _check_values(self, target: LatentTarget) -> None:
        """Raise `LattokError` where valid labels hold what the loss cannot take."""

    def _check_states(self, states: Tensor, samples: int) -> None:
        checks.tensor("states", states)
        checks.rank("states", states, "B n D")
        hint = f"Build the loss with dim={states.shape[2]}, the width of what it is given."
        checks.size("states", "numbers in each state", states.shape[2], self.dim, hint)
        checks.size("states", "samples, as the target has", len(states), samples)

    def _check(self, states: Tensor, target: LatentTarget) -> None:
        checks.rank("valid", target.valid, "B S")
        self._check_states(states, len(target.valid))
        if target.valid.dtype != torch.bool:
            checks.fail("valid", "bool", str(target.valid.dtype).removeprefix("torch."))
        steps = target.valid.shape[1]
        if states.shape[1] != steps * self.states_per_step:
            expected = f"{steps} steps of {self.states_per_step} states, as the target has steps"
            hint = "Ask the data for as many latent actions as the policy has steps (`delta_timestamps`), or say "
            hint += '`resample="nearest"`; `states_per_step` is for policies with a state for each code.'
            checks.fail("states", expected, f"{states.shape[1]} states", hint)


class AlignLoss(LatentSupervision):
    """LA-Align (Eq. 5): 1 - cosine of a projected state and the latent action of its step, the mean of its vectors."""

    kind = "align"
    weight, parts, sizes, options = 1.0, ("embedding",), ("latent_dim",), ("projection",)

    def __init__(self, dim: int, latent_dim: int, *, projection: str = "linear", states_per_step: int = 1):
        super().__init__(dim, states_per_step, LatentSpec(latent_dim=latent_dim))
        checks.one_of("projection", projection, ("linear", "mlp"))
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, latent_dim) if projection == "linear" else _two_layers(dim, latent_dim)

    def _terms(self, states: Tensor, target: LatentTarget, reduction: str) -> LossTerms:
        embedding = cast(Tensor, target.embedding)
        projected = self.project(self.norm(states.mean(2)))  # b s d
        loss = alignment(projected, embedding, target.valid, reduction)
        pooled = reduce(embedding, "b s e d -> b s 1 d", "mean")
        return {"latent": loss, "latent_cosine": _cosine(projected[:, :, None], pooled, target.valid)}


class CodeCrossEntropy(LatentSupervision):
    """LA-Direct, LA-Cond, LA-Tok (Eq. 6, 7, 10): a linear head with a logit for each of the K codes alone.

    One state per code: all go through one head of K logits. One per step: the head has K logits for each of its codes.
    """

    kind = "codes"
    parts, sizes = ("codes",), ("codebook_size", "codes")

    def __init__(self, dim: int, codebook_size: int, codes: int = 1, *, states_per_step: int = 1):
        super().__init__(dim, states_per_step, LatentSpec(codes=codes, codebook_size=codebook_size))
        if states_per_step not in (1, codes):
            checks.fail("states_per_step", f"1 or {codes}, a state for each code", states_per_step)
        self.codebook_size = codebook_size
        self.head = nn.Linear(dim, codebook_size * (codes // states_per_step))

    def _terms(self, states: Tensor, target: LatentTarget, reduction: str) -> LossTerms:
        codes = cast(Tensor, target.codes)
        logits = rearrange(self.head(states), "b s k (p c) -> b s (k p) c", c=self.codebook_size)
        loss = code_cross_entropy(logits, codes, target.valid, reduction)
        return {"latent": loss, "latent_accuracy": code_accuracy(logits, codes, target.valid)}

    def _check_values(self, target: LatentTarget) -> None:
        codes = cast(Tensor, target.codes)
        wrong = ((codes < 0) | (codes >= self.codebook_size)) & target.valid[..., None]
        if wrong.any():
            worst = codes[wrong]
            got = f"{int(worst.min())} to {int(worst.max())} among valid codes"
            hint = "Build the loss with the labels' `codebook_size`; rows without a label are -1 and not valid."
            checks.fail("codes", f"0 to {self.codebook_size - 1}", got, hint)


class RegressionLoss(LatentSupervision):
    """LA-Direct(C), LA-Tok(C) (section 5.4): a two-layer MLP predicts the latent actions, squared error.

    As many states as vectors in a step: each state predicts its own. Otherwise (a residual quantizer has several codes
    for one vector) the mean of a step's states predicts all of its vectors.
    """

    kind = "regress"
    parts, sizes = ("embedding",), ("latent_dim", "vectors")
    compare = staticmethod(regression)

    def __init__(self, dim: int, latent_dim: int, vectors: int = 1, *, states_per_step: int = 1):
        super().__init__(dim, states_per_step, LatentSpec(vectors=vectors, latent_dim=latent_dim))
        self.latent_dim = latent_dim
        self._own = states_per_step == vectors
        self.head = _two_layers(dim, latent_dim * (1 if self._own else vectors))

    def _terms(self, states: Tensor, target: LatentTarget, reduction: str) -> LossTerms:
        embedding = cast(Tensor, target.embedding)
        states = states if self._own else reduce(states, "b s k d -> b s 1 d", "mean")
        predicted = rearrange(self.head(states), "b s k (e d) -> b s (k e) d", d=self.latent_dim)
        loss = self.compare(predicted, embedding, target.valid, reduction)
        return {"latent": loss, "latent_cosine": _cosine(predicted, embedding, target.valid)}


class DistillationLoss(RegressionLoss):
    """LatBot (Eq. 4): the same head, squared error and Kullback-Leibler divergence."""

    kind = "distill"
    compare = staticmethod(distillation)


def _two_layers(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))


def _part_of(target: LatentTarget, part: str, labels: LatentSpec) -> Tensor:
    """Return codes int64 [B, S, P] or vectors float32 [B, S, E, d] of a target; these must be those of the labels."""
    found, codes = getattr(target, part), part == "codes"
    what, axes, count = ("codes", "B S P", labels.codes) if codes else ("vectors", "B S E d", labels.vectors)
    if found is None:
        other = "Labels of a model without codes are for AlignLoss or RegressionLoss."
        hint = f"{ANNOTATE} {other if codes else 'With embedding=False it leaves the vectors out.'}"
        checks.fail(part, f"{what}, for a loss of {what}", "a target without", hint)
    checks.rank(part, found, axes)
    if found.shape[:2] != target.valid.shape:
        checks.fail(part, f"{list(target.valid.shape)} samples and steps, as `valid` has", list(found.shape[:2]))
    if found.dtype.is_floating_point == codes or found.dtype.is_complex or found.dtype == torch.bool:
        checks.fail(part, "int64" if codes else "float32", str(found.dtype).removeprefix("torch."))
    hint = f"Build the loss with as many `{what}` as a step of the labels has."
    checks.size(part, f"{what} in each step", found.shape[2], count or found.shape[2], hint)
    if codes:
        return found.long()
    width = found.shape[3]
    hint = f"Build the loss with latent_dim={width}, the width of the labels' vectors (`meta/lattok.json` has it)."
    checks.size(part, "numbers in each vector", width, labels.latent_dim or width, hint)
    return found.float()
