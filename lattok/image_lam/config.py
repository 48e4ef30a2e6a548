"""Configuration of the image latent action model; saved as config.json. Defaults: P2T appendix A.1 (UniVLA)."""

from __future__ import annotations

from dataclasses import dataclass

from lattok import checks


@dataclass(frozen=True)
class ImageLAMConfig:
    """Architecture, preprocessing and losses of `ImageLAM`."""

    cameras: tuple[str, ...]  # in the order of the V axis
    stride: str = "32"  # gap of a pair, in frames ("32") or seconds ("0.2s")
    features: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m"  # or "pixels"
    features_revision: str | None = None
    image_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"

    streams: str = (
        "control"  # "control"; "control+env": frozen stage-1 environment codebook; "joint": both from scratch
    )
    tokens: int = 4  # P
    codebook_size: int = 16  # K
    env_codebook_size: int = 16  # K of the environment stream
    latent_dim: int = 128  # d
    width: int = 768
    heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    dropout: float = 0.0

    encoder: str = "spacetime"  # "spacetime" (paper) or "fused": one frame of [now, later, difference]
    latent_heads: str = "shared"  # one head for all tokens (paper) or "per_token"
    latent_norm: str = "none"  # "none" (paper) or "batch"
    quantizer: str = "vq"  # "vq" (paper) or "residual": P levels of one latent
    codebook_update: str = "gradient"  # "gradient" (paper) or "ema"
    codebook_start: str = "normal"  # "normal" (paper) or "kmeans"
    continuous_steps: int = 0
    revive_below: float = 0.0
    conditioning: str = "tokens"  # latents beside the patches (paper), or also "add"ed to each
    predict_change: bool = False  # decoder adds to the current features, from a zero start

    commitment_weight: float = 0.25
    action_weight: float = 1.0
    decorrelation_weight: float = 0.0

    def __post_init__(self) -> None:
        checks.counts(image_size=self.image_size, tokens=self.tokens, codebook_size=self.codebook_size)
        checks.counts(latent_dim=self.latent_dim, width=self.width, heads=self.heads)
        checks.counts(encoder_depth=self.encoder_depth, decoder_depth=self.decoder_depth)
        for name in ("codebook_size", "env_codebook_size"):
            if getattr(self, name) < 2:
                checks.fail(name, "at least 2", getattr(self, name))
        for name in ("mean", "std"):
            checks.size(name, "numbers, one per colour", len(getattr(self, name)), 3)
        checks.one_of("interpolation", self.interpolation, ("bilinear", "bicubic"))
        checks.at_least_zero(action_weight=self.action_weight, decorrelation_weight=self.decorrelation_weight)
        checks.at_least_zero(commitment_weight=self.commitment_weight)
        checks.one_of("streams", self.streams, ("control", "control+env", "joint"))
        checks.one_of("encoder", self.encoder, ("spacetime", "fused"))
        checks.one_of("latent_heads", self.latent_heads, ("shared", "per_token"))
        checks.one_of("latent_norm", self.latent_norm, ("none", "batch"))
        checks.one_of("conditioning", self.conditioning, ("tokens", "add"))
        checks.one_of("quantizer", self.quantizer, ("vq", "residual"))
        if not self.cameras:
            checks.fail("cameras", "at least one camera", "none")

    @property
    def positions(self) -> int:
        """Latent vectors per stream: P, or 1 when the codes are levels of a residual quantizer."""
        return 1 if self.quantizer == "residual" else self.tokens

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss term (Eq. 11 and 15)."""
        return {
            "prediction": 1.0,
            "codebook": 1.0,
            "commitment": self.commitment_weight,
            "codebook_env": 1.0,
            "commitment_env": self.commitment_weight,
            "action": self.action_weight,
            "decorrelation": self.decorrelation_weight,
        }
