"""Distillation of LatBot (Eq. 2 to 4): a policy predicts from one frame what a latent action model says of the clip.

Z = f_lam(l, V_{1:T}),   Z^ = f_vlm(l, V_1),   L_a = |Z^ - Z|^2 + KL(p(Z^) || p(Z))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from typing_extensions import Self

from lattok import checks
from lattok.clip_lam.config import ClipLAMConfig
from lattok.clip_lam.model import ClipLAM
from lattok.labels import LatentSpec
from lattok.types import LatentTarget, LossTerms, PolicyBatch
from lattok.vla import LatentVLA, Strategy, VLAConfig
from lattok.vla.strategies import ACTION, LatentLoss, Span

NAME = "latbot"
SAME = ("backbone", "image_size", "cameras", "train_backbone", "lora_rank", "width", "depth", "heads", "patch_size")


class Distillation(nn.Module):
    """A student and its teacher, which stays as it is. Batches have the later frames of the teacher's clips."""

    def __init__(self, student: LatentVLA, teacher: ClipLAM, views: Sequence[int]):
        """`views`: which of the student's cameras are the teacher's."""
        super().__init__()
        self.student, self.teacher, self.views = student, teacher.requires_grad_(False), list(views)
        student.head.requires_grad_(False)  # nothing acts yet

    def train(self, mode: bool = True) -> Self:
        """Leave the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """Return the student's term "latent" and figures for the log."""
        if batch.later is None:
            checks.fail("batch", "one with later frames", "one without")
        device = self.teacher.queries.device
        clips = torch.cat([batch.images[:, None], batch.later], 1)[:, :, self.views].to(device)
        with torch.no_grad():
            vectors = torch.cat(self.teacher.latents(clips, batch.texts), 1)[:, :, None]  # b s 1 d
        target = LatentTarget(None, vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=device))
        terms = self.student(batch._replace(latent=target, later=None, pairs=None))
        return terms | {"action": terms["action"].detach()}


def taught_by(config: VLAConfig, teacher: ClipLAMConfig | VLAConfig) -> VLAConfig:
    """Return the configuration of a student: a placeholder for each latent of the teacher, before those of actions.

    After a distilled policy, whose placeholders stay, nothing more is predicted but actions.
    """
    if isinstance(teacher, ClipLAMConfig):
        count = teacher.scene_tokens + teacher.motion_tokens
        labels = LatentSpec("chunk", steps=count, vectors=1, latent_dim=teacher.latent_dim)
        losses = (LatentLoss("distill", weight=1.0),)
        return replace(config, strategy=Strategy(NAME, _spans(count), losses, "chunk", "LatBot"), latent=labels)
    if teacher.strategy.name != NAME or teacher.latent is None:
        checks.fail("student", "a policy of phase distill", f"one of {teacher.strategy.name}")
    for name in SAME:
        ours, theirs = getattr(config, name), getattr(teacher, name)
        if ours != theirs:
            checks.fail(name, f"{theirs!r}, as the distilled policy has", repr(ours))
    return replace(config, strategy=Strategy(NAME, _spans(teacher.latent.steps), title="LatBot"), latent=None)


def follow(before: LatentVLA, policy: LatentVLA) -> LatentVLA:
    """Give a policy the backbone and the latent placeholders of a distilled one; its head stays new."""
    count = policy.segments["latent"].count
    ours, theirs = policy.backbone.saved_tensors(), before.backbone.saved_tensors()
    with torch.no_grad():
        policy.placeholders[:count] = before.placeholders[:count]
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])
    return policy


def _spans(count: int) -> tuple[Span, ...]:
    return Span("latent", 1, count), ACTION
