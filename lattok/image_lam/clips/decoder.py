"""Unified decoder of LatBot, compact: flow matching of a future frame and of actions, in two streams that exchange.

    x_t = (1 - t) ε + t x,   v = x - ε     of the frame's patches (scene stream) and of the actions (motion stream)
    per layer   scene  += look(scene, Z_sce),     motion += look(motion, Z_mot)
                scene  += look(scene, motion),    motion += look(motion, scene)       the exchange, both from before
                each: attention to itself, feed-forward

Both streams have one time t, so that neither is ahead of the other. A velocity of patches has all of their noise in it,
which a decoder narrower than a patch cannot pass on, so it says x, as in "Back to basics" (Li & He, 2025), or rather by
how much x differs from the first frame (`decoder_output`), and v = (x - x_t) / max(1 - t, 0.05).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lattok.image_lam.clips.config import ClipLAMConfig
from lattok.nn.blocks import CrossAttention, PreNormBlock, sinusoids
from lattok.nn.flow import TICKS

MIN_TIME_LEFT = 0.05  # the least 1 - t that is divided by


class Look(nn.Module):
    """What tokens [B, n, d] find in others [B, m, d], all of which are normed first."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, heads)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        return self.attention(self.norm(x), self.norm_keys(others))


class UnifiedLayer(nn.Module):
    """A layer of both streams; see the top of this file."""

    def __init__(self, dim: int, heads: int, exchange: bool):
        super().__init__()
        self.scene_latents, self.motion_latents = Look(dim, heads), Look(dim, heads)
        self.scene_motion = Look(dim, heads) if exchange else None
        self.motion_scene = Look(dim, heads) if exchange else None
        self.scene, self.motion = PreNormBlock(dim, heads), PreNormBlock(dim, heads)

    def forward(self, scene: Tensor, motion: Tensor, z_scene: Tensor, z_motion: Tensor) -> tuple[Tensor, Tensor]:
        scene = scene + self.scene_latents(scene, z_scene)
        motion = motion + self.motion_latents(motion, z_motion)
        if self.scene_motion is not None and self.motion_scene is not None:
            scene, motion = scene + self.scene_motion(scene, motion), motion + self.motion_scene(motion, scene)
        return self.scene(scene), self.motion(motion)


class ActionStream(nn.Module):
    """A decoder that begins with noisy actions as this one does."""

    def add_action_inputs(self, config: ClipLAMConfig) -> None:
        """Make what `when` and `embed` need, `config.decoder.width` wide."""
        dim = config.decoder.width
        self.actions = nn.Linear(config.action_dim, dim)
        self.unknown = nn.Parameter(0.02 * torch.randn(dim))  # stands for actions that are not known
        self.steps = nn.Parameter(0.02 * torch.randn(config.horizon, dim))
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def when(self, times: Tensor) -> Tensor:
        """Turn times [B] into vectors [B, 1, D]."""
        return self.time(sinusoids(TICKS * times, self.steps.shape[1]).to(self.steps.dtype))[:, None]

    def embed(self, actions: Tensor, when: Tensor, known: Tensor | None) -> Tensor:
        """Turn actions [B, H, m] into tokens [B, H, D] at times `when` [B, 1, D]; not those that are not `known`."""
        given = self.actions(actions)
        if known is not None:
            given = torch.where(known[..., None], given, self.unknown.to(given.dtype))
        return given + self.steps + when


class UnifiedDecoder(ActionStream):
    """Noisy patches [B, N, D] and actions [B, H, m] with latents [B, p, d] of scene and motion to their velocities."""

    def __init__(self, config: ClipLAMConfig, patch_dim: int, places: int):
        super().__init__()
        of = config.decoder
        dim, heads = of.width, of.heads
        self.patches = nn.Linear(patch_dim, dim)
        self.now = nn.Linear(patch_dim, dim, bias=False) if of.sees_now else None
        self.places = nn.Parameter(0.02 * torch.randn(places, dim))
        self.add_action_inputs(config)
        self.scene_up, self.motion_up = (nn.Linear(config.latent_dim, dim) for _ in range(2))
        self.layers = nn.ModuleList(UnifiedLayer(dim, heads, of.exchange) for _ in range(of.depth))
        self.output = of.output
        self.frame_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, patch_dim))
        self.action_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, config.action_dim))

    def forward(
        self,
        frame: Tensor,
        actions: Tensor,
        times: Tensor,
        scene: Tensor,
        motion: Tensor,
        now: Tensor,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict where `frame` and `actions` at `times` [B] go; `now` [B, N, D] is the first frame of the clip.

        Of steps that are not `known` [B, H] the actions are not looked at.
        """
        when = self.when(times)
        x = self.patches(frame) + self.places + when
        if self.now is not None:
            x = x + self.now(now)
        y = self.embed(actions, when, known)
        z_scene, z_motion = self.scene_up(scene), self.motion_up(motion)
        for layer in self.layers:
            x, y = layer(x, y, z_scene, z_motion)
        found = self.frame_out(x)
        if self.output != "velocity":
            later = now + found if self.output == "change" else found
            found = (later - frame) / (1 - times).clamp_min(MIN_TIME_LEFT)[:, None, None]
        return found, self.action_out(y)
