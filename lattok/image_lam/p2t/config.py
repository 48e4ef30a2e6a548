"""Configuration of the image latent action model; saved as config.json. Defaults: P2T appendix A.1 (UniVLA)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lattok.data.pixels import MOST_CAMERAS, MOST_PIXELS, check_scaling
from lattok.hub import ADDED
from lattok.nn.quantize import STARTS
from lattok.samples.windows import check_action_target
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.options import FROM_DATA, REQUIRED, knows_data

CONDITIONINGS = {"features": ("tokens", "add"), "pixels": ("tokens", "pool")}  # of the decoder, by what it predicts
# fields of a decoder of patches, which the one of features next to pixels may have otherwise: feature_decoder_depth ...
OF_DECODER = ("decoder_depth", "decoder_heads", "decoder_hidden", "mask_tokens", "conditioning")
MOST_FUTURES = 64  # of a pair that are trained along
CHOICES = {
    "interpolation": ("bilinear", "bicubic"),
    "streams": ("control", "control+env", "joint"),
    "encoder": ("spacetime", "fused", "sequence"),
    "target": tuple(CONDITIONINGS),
    "query_start": ("normal", "uniform"),
    "latent_heads": ("shared", "per_token", "mlp"),
    "latent_norm": ("none", "batch"),
    "quantizer": ("vq", "residual", "fsq", "none"),
    "codebook_update": ("gradient", "ema"),
    "codebook_start": STARTS,
    "conditioning": ("tokens", "add", "pool"),
    "action_head": ("latents", "codes"),
}


@dataclass(frozen=True)
class ImageLAMConfig:
    """Architecture, preprocessing and losses of `ImageLAM`.

    Attributes:
        cameras: in the order of the V axis
        stride: gap of a pair, in frames ("32") or seconds ("0.2s")
        extra_strides: further futures trained along; labels are always those of `stride`
        features: or "pixels", "hf:MODEL", or "held:..." (see FrozenFeatures)
        features_revision: of features from the Hub
        class_token: features begin with the network's class token
        image_size: side of the frames in pixels
        interpolation: of frames that are resized, or "bilinear"
        language: stage 1: "t5:MODEL" or "precomputed"; its vectors join the tokens of every frame
        streams: "control"; "control+env": frozen stage-1 environment codebook; "joint": both from scratch
        tokens: P, codes of a pair
        codebook_size: K, codes to choose from
        env_codebook_size: K of the environment stream
        latent_dim: d, width of a latent
        width: of encoder and decoder
        heads: their attention heads
        encoder_depth: blocks of the encoder
        decoder_depth: blocks of the decoder
        dropout: while it learns
        encoder: "spacetime" (paper), "fused": one frame of [now, later, difference], or "sequence": both frames in one
            (Moto)
        frame_types: of "sequence": 1 vector for both frames (published), or 2
        hidden: width inside the MLPs of "sequence"; 0: 4 times `width`
        query_start: of the query tokens: in ±1 (UniVLA), or "normal" with deviation 0.02
        latent_heads: one head for all tokens (paper), "per_token", or one "mlp" for all (Moto)
        latent_norm: "none" (paper) or "batch"
        quantizer: "vq" (paper), "residual": P levels of one latent, "fsq", or "none": continuous, no codes
        codebook_update: "gradient" (paper) or "ema"
        codebook_start: in ±1/K (UniVLA); "kmeans", from the first latents; "normal", deviation 1
        continuous_steps: training steps that pass latents through before the codebook starts
        revive_below: a code is dead below this share of the mean use; 0 switches revival off
        restart_every: steps after which unused codes become copies of used ones (UniVLA: every epoch); 0: never
        target: what the decoder predicts of the later frame from the first: its "features" (paper) or "pixels" (Moto)
        pixel_patch: side of the patches that pixels are seen in
        decoder_width: of the decoder of pixels; 0: `width`
        decoder_heads: 0: `heads`
        decoder_hidden: 0: 4 times the decoder's width
        mask_tokens: pixels are predicted in the place of learned tokens
        conditioning: latents next to the patches (paper), also "add"ed to each, or, of pixels, one map of all added
            instead ("pool")
        feature_decoder_depth: of the decoder of features next to pixels: its blocks; left out: as of the decoder of
            pixels
        feature_decoder_heads: its attention heads
        feature_decoder_hidden: width inside its MLPs
        feature_mask_tokens: its mask_tokens
        feature_conditioning: its conditioning
        predict_change: decoder adds to the current features, from a zero start
        action_head: reads latents before quantization (paper) or the mean of the "codes" (its code)
        action_target: what it predicts: the "mean" action of the gap, the "first" (Eq. 14) or a "chunk"
        action_steps: actions of a chunk
        prediction_weight: 0: the encoder learns from labels alone
        feature_weight: of pixels: a second decoder predicts the features
        perceptual_weight: of pixels: LPIPS, needs the extra `lpips`
        codebook_weight: with codebook_update "gradient"
        commitment_weight: of the loss that keeps latents near their codes
        action_weight: of the loss of labelled pairs
        decorrelation_weight: of the loss that makes the tokens of a pair say different things
        additivity_weight: needs extra_strides
        flow_weight: the codes alone also say how the pixels move; of two streams, those of `env`
        kl_weight: needs quantizer "none": a variational bottleneck
    """

    cameras: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    stride: str = "32"
    extra_strides: tuple[str, ...] = ()
    features: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
    features_revision: str | None = None
    class_token: bool = field(default=False, metadata=ADDED)
    image_size: int = 224
    mean: tuple[float, ...] = field(default=(0.485, 0.456, 0.406), metadata=FROM_DATA)
    std: tuple[float, ...] = field(default=(0.229, 0.224, 0.225), metadata=FROM_DATA)
    interpolation: str = "bicubic"
    language: str | None = None
    language_dim: int = field(default=768, metadata=FROM_DATA)

    streams: str = "control"
    tokens: int = 4
    codebook_size: int = 16
    env_codebook_size: int = 16
    latent_dim: int = 128
    width: int = 768
    heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    dropout: float = 0.0

    encoder: str = "spacetime"
    frame_types: int = field(default=1, metadata=ADDED)
    hidden: int = field(default=0, metadata=ADDED)
    query_start: str = "uniform"
    latent_heads: str = "shared"
    latent_norm: str = "none"
    quantizer: str = "vq"
    codebook_update: str = "gradient"
    codebook_start: str = "uniform"
    continuous_steps: int = 0
    revive_below: float = 0.0
    restart_every: int = 0
    target: str = field(default="features", metadata=ADDED)
    pixel_patch: int = field(default=16, metadata=ADDED)
    decoder_width: int = field(default=0, metadata=ADDED)
    decoder_heads: int = field(default=0, metadata=ADDED)
    decoder_hidden: int = field(default=0, metadata=ADDED)
    mask_tokens: bool = field(default=False, metadata=ADDED)
    conditioning: str = "tokens"
    feature_decoder_depth: int | None = field(default=None, metadata=ADDED)
    feature_decoder_heads: int | None = field(default=None, metadata=ADDED)
    feature_decoder_hidden: int | None = field(default=None, metadata=ADDED)
    feature_mask_tokens: bool | None = field(default=None, metadata=ADDED)
    feature_conditioning: str | None = field(default=None, metadata=ADDED)
    predict_change: bool = False
    action_head: str = "latents"
    action_target: str = "mean"
    action_steps: int = 1

    prediction_weight: float = 1.0
    feature_weight: float = field(default=0.0, metadata=ADDED)
    perceptual_weight: float = field(default=0.0, metadata=ADDED)
    codebook_weight: float = field(default=1.0, metadata=ADDED)
    commitment_weight: float = 0.25
    action_weight: float = 1.0
    decorrelation_weight: float = 0.0
    additivity_weight: float = 0.0
    flow_weight: float = 0.0
    kl_weight: float = 0.0

    def __post_init__(self) -> None:
        if not knows_data(self):
            return
        checks.counts(1, MOST_PIXELS, image_size=self.image_size)
        checks.counts(tokens=self.tokens, latent_dim=self.latent_dim, width=self.width, heads=self.heads)
        depths = {"encoder_depth": self.encoder_depth, "decoder_depth": self.decoder_depth}
        checks.counts(language_dim=self.language_dim, **depths)
        checks.counts(1, MOST_PIXELS, pixel_patch=self.pixel_patch)
        checks.counts(1, 2, frame_types=self.frame_types)
        checks.whole(hidden=self.hidden, decoder_width=self.decoder_width)
        checks.whole(decoder_heads=self.decoder_heads, decoder_hidden=self.decoder_hidden)
        checks.counts(2, codebook_size=self.codebook_size, env_codebook_size=self.env_codebook_size)
        checks.whole(continuous_steps=self.continuous_steps, restart_every=self.restart_every)
        checks.below_one(dropout=self.dropout)
        checks.at_least_zero(**{name: value for name, value in vars(self).items() if name.endswith("_weight")})
        for name, options in CHOICES.items():
            checks.one_of(name, getattr(self, name), options)
        self._check_target()
        check_action_target(self.action_target, self.action_steps)
        check_scaling(self.mean, self.std)
        checks.strides(stride=self.stride, extra_strides=self.extra_strides)
        if not self.cameras:
            checks.fail("cameras", "at least one camera", "none")
        checks.counts(0, MOST_CAMERAS, cameras=len(self.cameras))
        checks.counts(0, MOST_FUTURES, extra_strides=len(self.extra_strides))
        if self.additivity_weight > 0 and not self.extra_strides:
            checks.fail("additivity_weight", "0 without extra_strides", self.additivity_weight)
        if self.kl_weight > 0 and self.quantizer != "none":
            checks.fail("kl_weight", 'a positive one only with quantizer="none"', self.kl_weight)
        if self.quantizer == "residual" and self.tokens > 1 and self.codebook_update != "ema":
            checks.fail("codebook_update", '"ema" with quantizer="residual"', repr(self.codebook_update))
        if self.restart_every and (self.codebook_update != "gradient" or self.revive_below > 0):
            expected = "0 unless codebook_update=gradient and revive_below=0"
            checks.fail("restart_every", expected, self.restart_every)
        if self.streams == "control+env" and self.quantizer not in ("vq", "residual"):
            checks.fail("quantizer", "vq or residual with streams=control+env", repr(self.quantizer))
        if self.language is not None and self.streams != "control":
            raise LattokError(f"`language` needs streams=control, got {self.streams}: only stage 1 reads instructions.")
        if self.language is not None and not (self.language == "precomputed" or self.language.startswith("t5:")):
            checks.fail("language", '"t5:MODEL" or "precomputed"', repr(self.language))

    def _check_target(self) -> None:
        """Check that options of the decoder fit what it predicts."""
        if self.conditioning not in CONDITIONINGS[self.target]:
            expected = f"{' or '.join(CONDITIONINGS[self.target])} with target={self.target}"
            checks.fail("conditioning", expected, repr(self.conditioning))
        for name in ("feature_weight", "perceptual_weight", "mask_tokens"):
            if getattr(self, name) and self.target != "pixels":
                checks.fail(name, "0 unless target=pixels", getattr(self, name))
        if self.target == "pixels" and self.image_size % self.pixel_patch:
            checks.fail("image_size", f"a multiple of pixel_patch {self.pixel_patch}", self.image_size)
        for name, value in self._own().items():
            if not self.feature_weight:
                checks.fail(f"feature_{name}", "none without feature_weight", value)
            if name.startswith("decoder_"):
                checks.counts(**{f"feature_{name}": value})
        if self.feature_conditioning is not None:
            checks.one_of("feature_conditioning", self.feature_conditioning, CONDITIONINGS["pixels"])

    def _own(self) -> dict[str, Any]:
        own = {name: getattr(self, f"feature_{name}") for name in OF_DECODER}
        return {name: value for name, value in own.items() if value is not None}

    @property
    def of_features(self) -> ImageLAMConfig:
        """Return the configuration by which the decoder of features next to pixels is built."""
        return replace(self, **self._own())

    @property
    def positions(self) -> int:
        """Count the latent vectors of a stream: P, or 1 when the codes are levels of a residual quantizer."""
        return 1 if self.quantizer == "residual" else self.tokens

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss term (Eq. 11 and 15)."""
        return {
            "prediction": self.prediction_weight,
            "features": self.feature_weight,
            "perceptual": self.perceptual_weight,
            "codebook": self.codebook_weight,
            "commitment": self.commitment_weight,
            "kl": self.kl_weight,
            "codebook_env": self.codebook_weight,
            "commitment_env": self.commitment_weight,
            "kl_env": self.kl_weight,
            "action": self.action_weight,
            "decorrelation": self.decorrelation_weight,
            "additivity": self.additivity_weight,
            "flow": self.flow_weight,
        }
