"""Unified decoder of LatBot, flow matching of a future frame and of actions, in two streams that exchange.

    x_t = (1 - t) ε + t x,   v = x - ε     of the frame's patches (scene stream) and of the actions (motion stream)
    per layer   scene  += look(scene, Z_sce),     motion += look(motion, Z_mot)
                scene  += look(scene, motion),    motion += look(motion, scene)       the exchange, both from before
                each: attention to itself, feed-forward

Both streams have one time t, so that neither is ahead of the other. A velocity of patches has all of their noise in it,
which a decoder narrower than a patch cannot pass on, so it says x, as in "Back to basics" (Li & He, 2025), or rather by
how much x differs from the first frame (`decoder_output`), and v = (x - x_t) / max(1 - t, 0.05).

SANA as that decoder (section 6.2): the transformer of diffusers is the scene stream, ours is the motion.

    scene_i  = block_i(scene_{i-1}, Z_sce as its caption)        SANA's own layers
    motion_i = motion_{i-1} + look(motion_{i-1}, Z_mot)
    scene += up(look(down(scene), motion)),  motion += look(motion, down(scene))      after each layer, from before it

SANA predicts ε - x at noise levels 1 - t times 1000; `up` and what it sees of the first frame start at zero, so that a
pretrained one begins as it is. Needs the extra sana.
"""

import math
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.hub.weights import diffusers_class, open_diffusers
from lattok.image_lam.clips.config import ClipLAMConfig
from lattok.nn.blocks import CrossAttention, PreNormBlock, sinusoids
from lattok.nn.losses import TICKS
from lattok.utils import checks

MIN_TIME_LEFT = 0.05  # the least 1 - t that is divided by
PREFIX = "sana:"
KIND = "SanaTransformer2DModel"
Pair = tuple[Tensor, Tensor]  # of scene and motion
NEEDED = ("in_channels", "caption_channels", "num_layers", "num_attention_heads", "attention_head_dim")


class NormedCrossAttention(nn.Module):
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
        self.scene_latents, self.motion_latents = NormedCrossAttention(dim, heads), NormedCrossAttention(dim, heads)
        self.scene_motion = NormedCrossAttention(dim, heads) if exchange else None
        self.motion_scene = NormedCrossAttention(dim, heads) if exchange else None
        self.scene, self.motion = PreNormBlock(dim, heads), PreNormBlock(dim, heads)

    def forward(self, scene: Tensor, motion: Tensor, z_scene: Tensor, z_motion: Tensor) -> Pair:
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
        self, frame: Tensor, actions: Tensor, times: Tensor, latents: Pair, now: Tensor, known: Tensor | None = None
    ) -> Pair:
        """Predict where `frame` and `actions` at `times` [B] go; `now` [B, N, D] is the first frame of the clip.

        Of steps that are not `known` [B, H] the actions are not looked at.
        """
        when = self.when(times)
        x = self.patches(frame) + self.places + when
        if self.now is not None:
            x = x + self.now(now)
        y = self.embed(actions, when, known)
        z_scene, z_motion = self.scene_up(latents[0]), self.motion_up(latents[1])
        for layer in self.layers:
            x, y = layer(x, y, z_scene, z_motion)
        found = self.frame_out(x)
        if self.output != "velocity":
            later = now + found if self.output == "change" else found
            found = (later - frame) / (1 - times).clamp_min(MIN_TIME_LEFT)[:, None, None]
        return found, self.action_out(y)


def open_sana(decoder: str, pretrained: bool = False) -> Any:
    """Open the transformer that "sana:MODEL" names; with random weights unless `pretrained`."""
    return open_diffusers("decoder", KIND, decoder.removeprefix(PREFIX), "transformer", None, pretrained)


def sizes_of(transformer: Any) -> dict[str, Any]:
    """Return what the transformer is built from, JSON values only."""
    return {name: value for name, value in transformer.config.items() if not name.startswith("_")}


class Exchange(nn.Module):
    """Scene tokens [B, n, D] and motion tokens [B, H, d] look at each other, both as they were before."""

    def __init__(self, scene: int, motion: int, heads: int):
        super().__init__()
        self.down, self.up = nn.Linear(scene, motion), _silent(nn.Linear(motion, scene))
        self.scene_motion, self.motion_scene = NormedCrossAttention(motion, heads), NormedCrossAttention(motion, heads)

    def forward(self, scene: Tensor, motion: Tensor) -> Pair:
        small = self.down(scene)
        return scene + self.up(self.scene_motion(small, motion)), motion + self.motion_scene(motion, small)


class MotionLayer(nn.Module):
    """The motion stream after a layer of SANA's."""

    def __init__(self, scene: int, dim: int, heads: int, exchange: bool):
        super().__init__()
        self.latents, self.block = NormedCrossAttention(dim, heads), PreNormBlock(dim, heads)
        self.exchange = Exchange(scene, dim, heads) if exchange else None

    def forward(self, scene: Tensor, motion: Tensor, z_motion: Tensor) -> Pair:
        motion = motion + self.latents(motion, z_motion)
        if self.exchange is not None:
            scene, motion = self.exchange(scene, motion)
        return scene, self.block(motion)


class SanaDecoder(ActionStream):
    """What `UnifiedDecoder` does, by the transformer that `decoder.sana` describes; its `width` is of the motion."""

    def __init__(self, config: ClipLAMConfig, patch_dim: int, places: int):
        super().__init__()
        of, sana = config.decoder, dict(config.decoder.sana)
        checks.counts(**{f"decoder_sana: {name}": sana.get(name) or 0 for name in NEEDED})
        checks.size("decoder", "channels of a patch, as the features have", sana["in_channels"], patch_dim)
        if sana.get("patch_size") != 1 or sana.get("interpolation_scale") is not None or sana.get("guidance_embeds"):
            checks.fail("decoder", "SANA with patches of 1 and no guidance", f"{sana!r:.120}")
        try:
            self.transformer: Any = diffusers_class("decoder", KIND)(**sana)
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:  # sizes out of a stranger's file
            checks.fail("decoder_sana", f"sizes of a {KIND}", checks.first_line(error))
        inner = sana["num_attention_heads"] * sana["attention_head_dim"]
        self.side = math.isqrt(places // len(config.cameras))
        self.caption = nn.Linear(config.latent_dim, sana["caption_channels"])
        self.now = _silent(nn.Linear(patch_dim, inner, bias=False)) if of.sees_now else None
        self.add_action_inputs(config)
        self.motion_up = nn.Linear(config.latent_dim, of.width)
        layers = range(sana["num_layers"])
        self.layers = nn.ModuleList(MotionLayer(inner, of.width, of.heads, of.exchange) for _ in layers)
        self.action_out = nn.Sequential(nn.LayerNorm(of.width), nn.Linear(of.width, config.action_dim))

    def load(self, decoder: str) -> None:
        """Begin with the pretrained weights of "sana:MODEL"."""
        self.transformer.load_state_dict(open_sana(decoder, pretrained=True).state_dict())

    def forward(
        self, frame: Tensor, actions: Tensor, times: Tensor, latents: Pair, now: Tensor, known: Tensor | None = None
    ) -> Pair:
        """See `UnifiedDecoder`; the frames of several cameras stand one below the other."""
        y, z_motion = self.embed(actions, self.when(times), known), self.motion_up(latents[1])

        def first(module: nn.Module, args: tuple[Tensor, ...], x: Tensor) -> Tensor:
            return x if self.now is None else x + self.now(now)

        def after(layer: nn.Module, module: nn.Module, args: tuple[Tensor, ...], x: Tensor) -> Tensor:
            nonlocal y
            x, y = layer(x, y, z_motion)
            return x

        sana, blocks = self.transformer, self.transformer.transformer_blocks
        with ExitStack() as hooks:
            hooks.callback(sana.patch_embed.register_forward_hook(first).remove)
            for block, layer in zip(blocks, self.layers, strict=True):
                hooks.callback(block.register_forward_hook(partial(after, layer)).remove)
            level = TICKS * (1 - times) * sana.config.timestep_scale
            grid = rearrange(frame, "b (y x) d -> b d y x", x=self.side)
            found = sana(grid, self.caption(latents[0]), level, return_dict=False)[0]
        return -rearrange(found, "b d y x -> b (y x) d"), self.action_out(y)


def _silent(layer: nn.Linear) -> nn.Linear:
    """Let a layer start with zeros: it changes nothing until it has learned."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
