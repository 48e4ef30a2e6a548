"""Configuration of the image latent action model; saved as config.json. Defaults: P2T appendix A.1 (UniVLA)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lattok.image_lam.base.config import TrainedPairConfig
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.options import FROM_DATA, GROUP, check_choices


@dataclass(frozen=True)
class PairEncoderConfig:
    """What reads a pair of frames.

    Attributes:
        name: "spacetime" (paper), or "fused": one frame of [now, later, difference]
        depth: blocks of the encoder
        query_start: of the query tokens: "uniform" in ±1 (UniVLA), or "normal" with deviation 0.02
    """

    name: Literal["spacetime", "fused"] = "spacetime"
    depth: int = 12
    query_start: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        check_choices(self, "encoder")
        checks.counts(encoder_depth=self.depth)


@dataclass(frozen=True)
class PairDecoderConfig:
    """What predicts the features of the later frame from those of the first.

    Attributes:
        depth: blocks of the decoder
        conditioning: latents next to the patches (paper), or also "add"ed to each
        predict_change: decoder adds to the current features, from a zero start
    """

    depth: int = 12
    conditioning: Literal["tokens", "add"] = "tokens"
    predict_change: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "decoder")
        checks.counts(decoder_depth=self.depth)


@dataclass(frozen=True)
class ImageLAMConfig(TrainedPairConfig):
    """Architecture, preprocessing and losses of `ImageLAM`.

    Attributes:
        language: stage 1: "t5:MODEL" or "precomputed"; its vectors join the tokens of every frame
        latent_heads: one head for all tokens (paper), or "per_token"
    """

    language: str | None = None
    language_dim: int = field(default=768, metadata=FROM_DATA)
    latent_heads: Literal["shared", "per_token"] = "shared"
    encoder: PairEncoderConfig = field(default_factory=PairEncoderConfig, metadata=GROUP)
    decoder: PairDecoderConfig = field(default_factory=PairDecoderConfig, metadata=GROUP)

    def check(self) -> None:
        super().check()
        checks.counts(language_dim=self.language_dim)
        if self.language is not None and self.streams != "control":
            raise LattokError(f"`language` needs streams=control, got {self.streams}: only stage 1 reads instructions.")
        if self.language is not None and not (self.language == "precomputed" or self.language.startswith("t5:")):
            checks.fail("language", '"t5:MODEL" or "precomputed"', repr(self.language))
