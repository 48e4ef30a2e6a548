"""SANA as LatBot's unified decoder (section 6.2): the transformer of diffusers is the scene stream, ours is the motion.

    scene_i  = block_i(scene_{i-1}, Z_sce as its caption)        SANA's own layers
    motion_i = motion_{i-1} + look(motion_{i-1}, Z_mot)
    scene += up(look(down(scene), motion)),  motion += look(motion, down(scene))      after each layer, from before it

SANA predicts ε - x at noise levels 1 - t times 1000; `up` and what it sees of the first frame start at zero, so that a
pretrained one begins as it is. Needs the extra sana.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from lattok.hub.weights import diffusers_class, open_diffusers
from lattok.image_lam.clips.config import ClipLAMConfig
from lattok.image_lam.clips.decoder import ActionStream, Look
from lattok.nn.blocks import PreNormBlock
from lattok.nn.flow import TICKS
from lattok.utils import checks

PREFIX = "sana:"
KIND, PART = "SanaTransformer2DModel", "transformer"
NEEDED = ("in_channels", "caption_channels", "num_layers", "num_attention_heads", "attention_head_dim")


def open_sana(decoder: str, pretrained: bool = False) -> Any:
    """Open the transformer that "sana:MODEL" names; with random weights unless `pretrained`."""
    return open_diffusers("decoder", KIND, decoder.removeprefix(PREFIX), PART, None, pretrained)


def sizes_of(transformer: Any) -> dict[str, Any]:
    """Return what the transformer is built from, JSON values only."""
    return {name: value for name, value in transformer.config.items() if not name.startswith("_")}


class Exchange(nn.Module):
    """Scene tokens [B, n, D] and motion tokens [B, H, d] look at each other, both as they were before."""

    def __init__(self, scene: int, motion: int, heads: int):
        super().__init__()
        self.down, self.up = nn.Linear(scene, motion), _silent(nn.Linear(motion, scene))
        self.scene_motion, self.motion_scene = Look(motion, heads), Look(motion, heads)

    def forward(self, scene: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        small = self.down(scene)
        return scene + self.up(self.scene_motion(small, motion)), motion + self.motion_scene(motion, small)


class MotionLayer(nn.Module):
    """The motion stream after a layer of SANA's."""

    def __init__(self, scene: int, dim: int, heads: int, exchange: bool):
        super().__init__()
        self.latents, self.block = Look(dim, heads), PreNormBlock(dim, heads)
        self.exchange = Exchange(scene, dim, heads) if exchange else None

    def forward(self, scene: Tensor, motion: Tensor, z_motion: Tensor) -> tuple[Tensor, Tensor]:
        motion = motion + self.latents(motion, z_motion)
        if self.exchange is not None:
            scene, motion = self.exchange(scene, motion)
        return scene, self.block(motion)


class SanaDecoder(ActionStream):
    """What `UnifiedDecoder` does, by the transformer that `decoder.sana` describes; its `width` is of the motion."""

    def __init__(self, config: ClipLAMConfig, patch_dim: int, places: int):
        super().__init__()
        of, sana = config.decoder, dict(config.decoder.sana)
        dim, heads = of.width, of.heads
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
        self.motion_up = nn.Linear(config.latent_dim, dim)
        layers = range(sana["num_layers"])
        self.layers = nn.ModuleList(MotionLayer(inner, dim, heads, of.exchange) for _ in layers)
        self.action_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, config.action_dim))

    def load(self, decoder: str) -> None:
        """Begin with the pretrained weights of "sana:MODEL"."""
        self.transformer.load_state_dict(open_sana(decoder, pretrained=True).state_dict())

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
        """See `UnifiedDecoder`; the frames of several cameras stand one below the other."""
        when = self.when(times)
        y, z_motion = self.embed(actions, when, known), self.motion_up(motion)

        def first(module: nn.Module, args: Any, x: Tensor) -> Tensor:
            return x if self.now is None else x + self.now(now)

        def after(layer: nn.Module) -> Any:
            def hook(module: nn.Module, args: Any, x: Tensor) -> Tensor:
                nonlocal y
                x, y = layer(x, y, z_motion)
                return x

            return hook

        sana, blocks = self.transformer, self.transformer.transformer_blocks
        with ExitStack() as hooks:
            hooks.callback(sana.patch_embed.register_forward_hook(first).remove)
            for block, layer in zip(blocks, self.layers, strict=True):
                hooks.callback(block.register_forward_hook(after(layer)).remove)
            level = TICKS * (1 - times) * sana.config.timestep_scale
            grid = rearrange(frame, "b (y x) d -> b d y x", x=self.side)
            found = sana(grid, self.caption(scene), level, return_dict=False)[0]
        return -rearrange(found, "b d y x -> b (y x) d"), self.action_out(y)


def _silent(layer: nn.Linear) -> nn.Linear:
    """Let a layer start with zeros: it changes nothing until it has learned."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
