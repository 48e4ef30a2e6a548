"""A latent action model and a policy that learn together (LARA, Liu et al., 2026, arXiv 2606.07100).

    L = L_action + λ (1 - cos(W h, e)) + λ_LAM L_LAM            λ = λ_LAM = 0.01
    e = mean over later frames k of flat(latents(o_t, o_k))      before quantization
    h = state of the last noised action x_t inside the flow head  on="head", as released
    h = state of the backbone's last placeholder                  on="placeholder", lattok's own: h has seen no action

L_LAM is the latent action model's own loss on the same pairs, whose latents are computed once for both. The alignment
teaches the policy, W and the encoder of the latent action model; no codebook and no frozen feature. Frames beyond the
episode make no pair. Where actions are not known, h in the head is that of noise at time 0. A policy that acts needs
none of this.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lattok.image_lam import PairLearner, TrainedPairModel
from lattok.labels import LatentSpec
from lattok.nn.losses import of_share
from lattok.nn.quantize import Codebook
from lattok.types import LossTerms, PairBatch, PolicyBatch
from lattok.utils import checks
from lattok.vla.frame_supervision import Frames, FrameSupervision, paired_frames, paired_mask
from lattok.vla.model import LatentVLA
from lattok.vla.strategies import hidden_index
from lattok.vla.supervision import alignment

Detach = Literal["none", "lam", "policy"]
Place = Literal["head", "placeholder"]  # where h is
HEAD, PLACEHOLDER = get_args(Place)


class Alignment(nn.Module):
    """W, and 1 - cos(W h, e)."""

    def __init__(self, dim: int, latent_dim: int, detach: str = "none"):
        """`detach`: who gets no gradient of it, the latent action model ("lam"), the "policy" or "none"."""
        super().__init__()
        checks.one_of("detach", detach, get_args(Detach))
        self.detach, self.project = detach, nn.Linear(dim, latent_dim)

    def forward(self, states: Tensor, latents: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
        """Compare states h [B, D] with latents e [B, d] where `valid` [B] holds."""
        states = states.detach() if self.detach == "policy" else states
        latents = latents.detach() if self.detach == "lam" else latents
        projected = self.project(states.to(self.project.weight.dtype))
        return alignment(projected[:, None], latents[:, None, None], valid[:, None], reduction)


class LAMOutput(NamedTuple):
    """Loss and latents of a latent action model for a batch."""

    terms: LossTerms  # of its own loss, each under "lam_" and its name
    latents: Tensor  # [B, d] sum over the later frames, a multiple of e: a cosine sees no lengths
    valid: Tensor  # [B] bool: at least one is


class LiveLAM(PairLearner[TrainedPairModel]):
    """A latent action model `lam` that learns from a policy's samples while the policy does. It has no action head: the
    policy learns the actions."""

    def __init__(self, lam: TrainedPairModel, views: Sequence[int] | None = None, frozen: bool = False):
        """`views`: where its cameras are among those of the batches. A `frozen` one only gives latents; it is a copy,
        but for the features."""
        lam.check_reads_video_alone()
        if frozen:
            lam = copy.deepcopy(lam, {id(lam.features): lam.features}).requires_grad_(False)
        super().__init__(lam)
        self.latent_dim = lam.config.positions * lam.config.latent_dim  # numbers of a pair's latents
        self.frozen, self.views = frozen, tuple(range(len(lam.cameras)) if views is None else views)
        if frozen:
            self.flow_head = None
        else:
            self.open_perceptual()

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weights of its terms relative to each other."""
        return {} if self.frozen else {f"lam_{name}": value for name, value in self.lam.config.loss_weights.items()}

    def train(self, mode: bool = True) -> "LiveLAM":
        super().train(mode)
        self.lam.train(mode and not self.frozen)
        return self

    def forward(  # pyright: ignore
        self, images: Tensor, later: Tensor, pairs: Tensor, average: Tensor | None = None
    ) -> LAMOutput:
        """Look at `pairs` [n, 2] (sample, later frame) of frames uint8 [B, V, h, w, 3] and later ones
        [B, F, V, h, w, 3]. Terms are means over these pairs; where processes share a batch, `average` is the mean
        number of pairs of a process, so that losses average over the whole batch."""
        rows, gaps = pairs.unbind(1)
        own = torch.arange(len(images), device=rows.device)[:, None] == rows  # b n; a matmul is deterministic
        if self.frozen:
            features = self.lam.frame_features(self._pairs(images, later, rows, gaps))
            terms, latents = {}, self.lam.encode_features(features).latents.flatten(1)
        else:
            terms, latents = self._learn(images, later, pairs, average)
        with torch.autocast(images.device.type, enabled=False):
            summed = own.to(latents.dtype) @ latents
        return LAMOutput(terms, summed, own.any(1))

    def _learn(self, images: Tensor, later: Tensor, pairs: Tensor, average: Tensor | None) -> tuple[LossTerms, Tensor]:
        """Return terms, and latents [n, d] of the pairs; a share without any makes one that nothing counts."""
        rows, gaps = pairs.unbind(1)
        count, room = len(rows), later.shape[0] * later.shape[1] * self.lam.config.positions
        for book in (module for module in self.lam.modules() if isinstance(module, Codebook)):
            book.room = max(book.room, room)  # how many pairs there are differs from step to step
        least, valid = 2 if self.lam.config.latent_norm == "batch" else 1, None
        if count < least:  # copies of the only pair leave its mean as it is; a process waits for the others' codebooks
            pick = torch.zeros(least, dtype=torch.long, device=rows.device)
            rows, gaps = (part[pick] if count else pick for part in (rows, gaps))
            valid = torch.arange(least, device=rows.device) < count
        frames = self._pairs(images, later, rows, gaps)
        nothing = frames.new_zeros(len(frames), 0, dtype=torch.float32)
        batch = PairBatch(frames, nothing, frames.new_zeros(len(frames), dtype=torch.bool), valid=valid)
        terms, encoded = self.learn(batch)
        share = float(count > 0) if average is None else count / average.clamp(min=1e-6)
        return {f"lam_{name}": share * term for name, term in terms.items()}, encoded.latents[:count].flatten(1)

    def _pairs(self, images: Tensor, later: Tensor, rows: Tensor, gaps: Tensor) -> Tensor:
        """Take pairs [n, 2, V, h, w, 3] of the model's own cameras."""
        places = rows * later.shape[1] + gaps
        now = torch.stack([images[:, view].index_select(0, rows) for view in self.views], 1)
        then = torch.stack([later[:, :, view].flatten(0, 1).index_select(0, places) for view in self.views], 1)
        return torch.stack([now, then], 1)


class JointLARA(nn.Module):
    """A policy and a latent action model, one module that learns by one loss."""

    def __init__(self, policy: LatentVLA, lam: LiveLAM, layer: int | float = 1.0, detach: str = "none", on: str = HEAD):
        """`layer`: the state that is h, an index or a fraction of the flow head's blocks or the backbone's layers."""
        super().__init__()
        check_place(on, policy.config.head.name)
        self.policy, self.lam = policy, lam
        if on == HEAD:
            width, self.at = policy.config.head.dim, {"block": hidden_index(layer, len(policy.head.blocks))}
        else:
            width, self.at = policy.backbone.hidden_size, {"layer": hidden_index(layer, policy.backbone.num_layers)}
        self.align = Alignment(width, lam.latent_dim, detach)

    def loss_weights(self, align: float = 0.01, lam: float = 0.01) -> dict[str, float]:
        """Return the weights of all terms, for these of the alignment and of the latent action model's loss."""
        own = {name: lam * value for name, value in self.lam.loss_weights.items()}
        return {**self.policy.config.loss_weights, "lara": align, **own}

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """Return the terms of the policy, "lara" and those of the latent action model, all unweighted. Samples without
        known actions count in the last two only."""
        if batch.later is None or batch.pairs is None:
            checks.fail("batch", "a batch with later frames and their mask", "one without")
        lam = self.lam(batch.images, batch.later, batch.pairs, batch.shares.pairs)
        terms, states = self.policy.learn(batch, **self.at)
        lara = {"lara": self.align(states, lam.latents, lam.valid, self.policy.config.loss_reduction)}
        return {**terms, **of_share(lara, lam.valid[:, None], batch.shares.paired), **lam.terms}


def check_place(on: str, head: str) -> None:
    """Require that a policy with this head has the state that `on` names."""
    checks.one_of("align_on", on, (HEAD, PLACEHOLDER))
    if on == HEAD and head != "flow":
        hint = f"Only a flow head is given actions: set head=flow, or align_on={PLACEHOLDER}, which has seen none."
        checks.fail("align_on", f"{PLACEHOLDER} with head={head}", on, hint)


class LARALoss(FrameSupervision):
    """LARA inside a policy that is not ours: `Supervised(policy, tap, LARALoss(lam, dim))`.

    The last of the tapped states is h. Batches have `pairs.frames` uint8 [B, 1 + F, V, H, W, 3], the frame of each
    sample and later ones, and `pairs.valid` bool [B, F], which of these lie inside the episode: `keep_pairs` adds both
    to LeRobot's batches. The latent action model, `lam`, learns along and is saved by its `save_pretrained`.
    """

    weight = 0.01

    def __init__(
        self, lam: TrainedPairModel, dim: int, *, lam_weight: float = 1.0, detach: str = "none", frozen: bool = False
    ):
        """`lam_weight`: of the latent action model's own loss, times that of the alignment."""
        checks.at_least_zero(lam_weight=lam_weight)
        live = LiveLAM(lam, frozen=frozen)
        super().__init__(dim, 1, LatentSpec(vectors=1, latent_dim=live.latent_dim))
        self.live, self.lam_weight = live, lam_weight
        self.align = Alignment(dim, live.latent_dim, detach)

    @property
    def lam(self) -> TrainedPairModel:
        return self.live.lam

    def target_of(self, batch: Mapping[str, Any], labels: LatentSpec) -> Any:
        frames = paired_frames(batch, self.lam.cameras)
        return Frames(frames, paired_mask(batch, frames))

    def _terms(self, states: Tensor, target: Any, reduction: str) -> LossTerms:
        frames, pairs = target.frames.to(states.device), target.valid.nonzero().to(states.device)
        lam = self.live(frames[:, 0], frames[:, 1:], pairs)
        loss = self.align(states[:, -1], lam.latents, lam.valid, reduction)
        away = loss.detach().sum() / lam.valid.sum().clamp(min=1) if loss.dim() else loss.detach()
        figures = {"latent_cosine": (1 - away) * lam.valid.any()}  # 0 where nothing is valid
        weights = self.live.loss_weights
        own = [weights[name] * term for name, term in lam.terms.items() if name in weights]
        if own:  # of single samples each with a pair has its share of a loss that all pairs make
            whole = self.lam_weight * torch.stack(own).sum()
            loss = loss + (whole * lam.valid if loss.dim() else whole)
        return {"latent": loss, **figures, **{name: term.detach() for name, term in lam.terms.items()}}
