"""Image latent action model of "From Pixels to Tokens" (Lin et al., 2026), appendix A.1, after UniVLA.

What it predicts are features of the later frame (Eq. 12). Streams: `control`, and an environment stream next to it
(`control+env` with a frozen codebook, `joint` from scratch). Stage 1 learns that codebook: one stream, with the
instruction's words next to the tokens (`language`).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.trained import TrainedPairModel
from lattok.image_lam.p2t.parts import Decoder, FusedEncoder, ImageLAMConfig, SpaceTimeEncoder, Words
from lattok.types import LatentActions
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor
from lattok.utils.checks import LattokError

ENCODERS = {"spacetime": SpaceTimeEncoder, "fused": FusedEncoder}


class ImageLAM(TrainedPairModel):
    """Latent actions of frame pairs: P codes that say what changed, as far as the current frame does not show it.

    >>> lam = ImageLAM.from_pretrained("org/name")          # or a folder
    >>> lam.encode(frames).codes                             # uint8 [B, 2, V, H, W, 3] -> int64 [B, P]
    """

    type = "image-lam"
    config_class = ImageLAMConfig

    def __init__(self, config: ImageLAMConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        self.language = config.language
        self.language_up = None if config.language is None else nn.Linear(config.language_dim, config.width)

    def summary(self) -> str:
        stage = "" if self.language is None else "stage 1, "
        if self.env is not None:
            stage = f"stage 2, {self.config.env_codebook_size} codes of the environment, "
        return f"{stage}{super().summary()}"

    def next_step(self, name: str) -> str:
        if self.language is None:
            return super().next_step(name)
        command = f"lattok train image-lam DATASET --out DIR --stage 2 --env-codebook {shlex.quote(name)}"
        return f"Learn stage 2 with its codebook: {command}"  # which needs instructions, and videos hold none

    def new_encoder(self, queries: int, places: int) -> nn.Module:
        return ENCODERS[self.config.encoder.name](self.config, queries, self.features.dim, places)

    def new_heads(self) -> list[nn.Module]:
        config = self.config
        count = config.tokens if config.latent_heads == "per_token" else 1
        return [nn.Linear(config.width, config.latent_dim) for _ in range(count)]

    def new_decoder(self) -> Decoder:
        return Decoder(self.config, self.streams, self.features.dim, len(self.cameras) * self.features.count)

    def take_environment(self, stage1: ImageLAM) -> None:
        """Take codebook and queries of a stage-1 model for the environment stream of `control+env`."""
        for name in ("features", "quantizer"):
            ours, theirs = getattr(self.config, name), getattr(stage1.config, name)
            if ours != theirs:
                checks.fail("env_codebook", f"{name} {ours!r}", repr(theirs))
        self.set_env_codebook(stage1.control.codebook())
        queries, count = stage1.encoder.queries, self.config.tokens
        if queries.shape == self.encoder.queries[count:].shape:  # as UniVLA starts its stage 2
            with torch.no_grad():
                self.encoder.queries[count:] = queries

    @torch.no_grad()
    def set_env_codebook(self, levels: Sequence[Tensor]) -> None:
        """Copy the stage-1 codebook, [K, d] for each level, that `control+env` keeps frozen."""
        if self.config.streams != "control+env" or self.env is None:
            raise LattokError(f"`env_codebook` needs streams=control+env, got {self.config.streams}.")
        wanted = self.env.codebook()
        shapes, given = [list(w.shape) for w in wanted], [list(level.shape) for level in levels]
        if shapes != given:
            checks.fail("env_codebook", f"levels of shape {shapes}", f"{given}")
        for target, level in zip(wanted, levels, strict=True):
            target.copy_(level)

    def check_reads_video_alone(self) -> None:
        """Refuse a stage-1 model: it also reads instructions, which a video does not hold."""
        if self.config.language is not None:
            hint = "Label with a stage-2 model trained with its codebook."
            checks.fail("model", "one that labels video", "a stage-1 model, which also reads instructions", hint)

    @torch.no_grad()
    def encode_features(
        self, features: Values, text: Values | None = None, text_mask: Values | None = None
    ) -> LatentActions:
        """Turn precomputed features [B, 2, V*N, D] into `LatentActions`.

        A stage-1 model also needs `text` [B, S, language_dim], vectors of the instruction's words, and may get
        `text_mask` [B, S] bool, which says where there is one.
        """
        text = None if text is None else as_tensor("text", text)
        text_mask = None if text_mask is None else as_tensor("text_mask", text_mask)
        return self._encoded(features, text, text_mask)

    def predict(
        self,
        features: Tensor,
        latents: LatentActions,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict features of the later frame [B, N, D] from current ones [B, N, D] and quantized latent actions."""
        return self._predicted(features, latents, text, text_mask)

    def _conditions(self, samples: int, text: Tensor | None, mask: Tensor | None) -> dict[str, Any]:
        """Turn vectors of the instruction's words [samples, S, language_dim] into tokens, which stage 1 needs."""
        if self.language_up is None:
            return super()._conditions(samples, text, mask)
        if text is None:
            checks.fail("text", f"vectors [B, S, {self.config.language_dim}]: this is a stage-1 model", "none")
        checks.rank("text", text, "B S D")
        checks.size("text", "samples, as there are of frames", len(text), samples)
        checks.size("text", "channels", text.shape[2], self.config.language_dim)
        text = text.to(self.features.mean)
        mask = torch.ones_like(text[..., 0]) if mask is None else mask.to(text.device)
        if mask.shape != text.shape[:2]:
            checks.fail("text_mask", f"shape {list(text.shape[:2])}", f"{list(mask.shape)}")
        return {"words": Words(self.language_up(text), mask.bool())}
