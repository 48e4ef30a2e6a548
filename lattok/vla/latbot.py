"""Distillation of LatBot (Eq. 2 to 6): a policy predicts from one frame what a latent action model says of the clip.

    Z = f_lam(l, V_{1:T}),   Z^ = f_vlm(l, V_1)
    L = L_a + 0.5 L_r,       L_a = |Z^ - Z|^2 + KL(p(Z^) || p(Z)),   L_r = -log p(w_{i+1} | w_{<=i}, l, V_1)

w is the text of the frame's sub-task, where the data has one; it follows the policy's own prompt in a pass of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.image_lam.clips.config import ClipLAMConfig
from lattok.image_lam.clips.model import ClipLAM
from lattok.labels import LatentSpec
from lattok.nn.losses import of_share, reduce_valid
from lattok.types import LatentTarget, LossTerms, PolicyBatch
from lattok.utils import checks
from lattok.vla import LatentVLA, Strategy, VLAConfig
from lattok.vla.frame_supervision import FRAMES, Frames, FrameSupervision, paired_frames, paired_mask
from lattok.vla.model import share_backbone
from lattok.vla.observations import instructions_of
from lattok.vla.strategies import ACTION, LatentLoss, Span
from lattok.vla.supervision import DistillationLoss

NAME, TITLE = "latbot", "LatBot"  # of the strategy
GO_ON = "lattok train latbot DATASET --out NEW --phase finetune --student FOLDER"


class Distillation(nn.Module):
    """A student and its teacher, which is frozen. Batches have the later frames of the teacher's clips."""

    def __init__(self, student: LatentVLA, teacher: ClipLAM, views: Sequence[int], whole_clips: bool = False):
        """`views`: which of the student's cameras are the teacher's. `whole_clips`: those that reach beyond their
        episode, whose last frame stands for those that are not there, teach nothing."""
        super().__init__()
        self.whole_clips = whole_clips
        self.student, self.teacher, self.views = student, teacher.requires_grad_(False), list(views)
        student.head.requires_grad_(False)  # nothing acts yet

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """Return the student's terms "latent" and, of batches with sub-tasks, "text", and figures for the log."""
        if batch.later is None:
            checks.fail("batch", "one with later frames", "one without")
        device = self.teacher.queries.device
        images = torch.cat([batch.images[:, None], batch.later], 1)
        clips = torch.stack([images[:, :, view] for view in self.views], 2).to(device)
        with torch.no_grad():
            vectors = torch.cat(self.teacher.latents(clips, batch.texts), 1)[:, :, None]  # b s 1 d
        valid, shares = torch.ones(len(vectors), dtype=torch.bool, device=device), batch.shares._replace(labelled=None)
        if self.whole_clips and batch.pairs is not None:
            there = torch.arange(len(vectors), device=device)[:, None] == batch.pairs[:, 0].to(device)
            valid, shares = there.sum(1) == batch.later.shape[1], shares._replace(labelled=shares.whole)
        target = LatentTarget(None, vectors, valid[:, None].expand(vectors.shape[:2]), checked=True)
        terms = self.student(batch._replace(latent=target, shares=shares, later=None, pairs=None))
        terms["action"] = terms["action"].detach()
        if batch.subtasks is not None:  # L_r (Eq. 5), the mean over the tokens of a text, of all texts
            errors, counted = text_errors(self.student, batch)
            terms |= of_share({"text": reduce_valid(errors, counted)}, counted, batch.shares.with_subtask)
        return terms


def text_errors(policy: LatentVLA, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
    """Return -log p of the tokens of a batch's sub-tasks after its prompts [B, T], and which of them count."""
    rows = batch.subtask_tokens or policy.backbone.tokens_of(batch.subtasks or [""] * len(batch.texts))
    return policy.backbone.text_errors(policy.inputs(batch), rows)


class LatBotLoss(FrameSupervision):
    """Distillation inside a policy that is not ours: `Supervised(policy, tap, LatBotLoss(teacher, dim))`.

    A head on the mean of the tapped states predicts all latents of scene and motion (L_a, Eq. 4). Batches have the
    instructions as `task`, the teacher's clips as `pairs.frames` uint8 [B, k, V, H, W, 3] and, for `whole_clips`, which
    later frames lie inside the episode as `pairs.valid` bool [B, k - 1]: `keep_pairs` adds both to LeRobot's batches,
    if `delta_timestamps` has the times of `clip_times`. The teacher is frozen.
    """

    weight = 1.0

    def __init__(self, teacher: ClipLAM, dim: int, *, whole_clips: bool = False):
        if not isinstance(teacher, ClipLAM):
            hint = "lattok.load gives one of the folder of a `lattok train clip-lam` run."
            checks.fail("teacher", "a latent action model of clips", type(teacher).__name__, hint)
        config, count = teacher.config, teacher.config.scene_tokens + teacher.config.motion_tokens
        super().__init__(dim, 1, LatentSpec(vectors=count, latent_dim=config.latent_dim))
        self.teacher = teacher.requires_grad_(False).eval()
        self.match, self.whole_clips = DistillationLoss(dim, config.latent_dim, count), whole_clips

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self

    def clip_times(self, fps: float) -> list[float]:
        """Return the seconds from a frame to each frame of its clip, 0 first: for LeRobot's `delta_timestamps`."""
        return [gap / fps for gap in self.teacher.config.gaps(self.teacher.stride_frames(fps))]

    def target_of(self, batch: Mapping[str, Any], labels: LatentSpec) -> Any:
        frames, texts = paired_frames(batch, self.teacher.config.cameras), instructions_of(batch)
        checks.size(FRAMES, "frames of a clip", frames.shape[1], self.teacher.config.frames)
        checks.size("task", "instructions, one for each clip", len(texts), len(frames))
        whole = paired_mask(batch, frames).all(1, keepdim=True) if self.whole_clips else None
        return Frames(frames, torch.ones(len(frames), 1, dtype=torch.bool) if whole is None else whole, texts)

    def _terms(self, states: Tensor, target: Any, reduction: str) -> LossTerms:
        with torch.no_grad():
            clips = target.frames.to(self.teacher.queries.device)
            vectors = torch.cat(self.teacher.latents(clips, target.texts), 1)[:, None]  # b 1 e d
        wanted = LatentTarget(None, vectors, target.valid.to(vectors.device), checked=True)
        return self.match(states.mean(1, keepdim=True), wanted, reduction)


def taught_by(config: VLAConfig, teacher: ClipLAMConfig | VLAConfig) -> VLAConfig:
    """Return the configuration of a student: a placeholder for each latent of the teacher, before those of actions.
    If it continues from a distilled policy, the placeholders stay, and only actions are predicted."""
    if isinstance(teacher, ClipLAMConfig):
        count = teacher.scene_tokens + teacher.motion_tokens
        labels = LatentSpec("chunk", steps=count, vectors=1, latent_dim=teacher.latent_dim)
        losses = (LatentLoss("distill", weight=1.0),)
        spans = Span("latent", 1, count), ACTION
        plan = Strategy(NAME, spans, losses, "chunk", TITLE, acts=False, next_step=GO_ON)
        return replace(config, strategy=plan, latent=labels)
    name = teacher.strategy.name
    if teacher.strategy.acts or name != NAME or teacher.latent is None:
        got = "one of phase finetune, which acts already" if name == NAME else f"one of {name}"
        checks.fail("student", "a policy of phase distill", got)
    spans = Span("latent", 1, teacher.latent.steps), ACTION
    return replace(share_backbone(config, teacher), strategy=Strategy(NAME, spans, title=TITLE), latent=None)


def follow(before: LatentVLA, policy: LatentVLA) -> LatentVLA:
    """Give a policy the backbone and the latent placeholders of a distilled one; its head stays new."""
    count = policy.segments["latent"].count
    ours, theirs = policy.backbone.saved_tensors(), before.backbone.saved_tensors()
    with torch.no_grad():
        policy.placeholders[:count] = before.placeholders[:count]
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])
    return policy
