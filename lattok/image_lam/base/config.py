"""What configurations of trained models of frame pairs share: frames, latents and their bottleneck, losses."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from typing_extensions import Self

from lattok.data.pixels import MOST_CAMERAS, MOST_PIXELS, check_scaling
from lattok.image_lam.base.bottlenecks import BOTTLENECKS, CodebookConfig
from lattok.samples.frame_pairs import check_action_target
from lattok.utils import checks
from lattok.utils.options import FROM_DATA, GROUP, REQUIRED, SavedConfig, built, check_choices, knows_data, options_of

MOST_FUTURES = 64  # of a pair that are trained along
ENV_TERMS = ("codebook", "commitment", "kl")  # losses of each stream


@dataclass(frozen=True)
class ActionConfig:
    """The head of labelled pairs, which only training has.

    Attributes:
        head: what the action head reads: "latents" before quantization (paper), or the mean of the vectors of the
            "codes" (its code)
        target: what the action head predicts: the "mean" action of the gap, the "first" (Eq. 14) or a "chunk"
        steps: actions of a chunk that the action head predicts
    """

    head: Literal["latents", "codes"] = "latents"
    target: Literal["mean", "first", "chunk"] = "mean"
    steps: int = 1

    def __post_init__(self) -> None:
        check_choices(self, "action")
        check_action_target(self.target, self.steps)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the loss (Eq. 11 and 15).

    Attributes:
        prediction: weight of the decoder's error; 0: the encoder learns from labels alone
        codebook: weight of the loss that moves codes to latents, with codebook_update "gradient"
        commitment: weight of the loss that keeps latents near their codes
        action: weight of the loss of labelled pairs
        decorrelation: weight of the loss that makes the tokens of a pair say different things
        additivity: weight of the loss that makes latents of consecutive strides add up; needs extra_strides
        flow: weight of a loss that predicts from codes alone how pixels move; with two streams, the codes of `env`
        kl: weight of a variational bottleneck, for quantizer "none"
    """

    prediction: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.25
    action: float = 1.0
    decorrelation: float = 0.0
    additivity: float = 0.0
    flow: float = 0.0
    kl: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least_zero(**{f"loss_{name}": value for name, value in vars(self).items()})


@dataclass(frozen=True)
class TrainedPairConfig(SavedConfig):
    """Architecture, preprocessing and losses; a family adds its encoder and its decoder.

    Attributes:
        cameras: in the order of the V axis
        stride: time between the frames of a pair, in frames ("32") or seconds ("0.2s")
        extra_strides: further strides to train on; labels are always those of `stride`
        features: what the model sees of a frame: "timm:MODEL", "hf:MODEL" or "pixels"
        features_revision: commit of features from the Hub
        image_size: side of the frames in pixels
        interpolation: how frames are resized
        streams: streams of latents: "control" alone; "control+env", next to a frozen stage-1 environment codebook;
            "joint", both from scratch
        tokens: codes of a pair (P)
        env_codebook_size: codes to choose from in the environment stream
        latent_dim: width of a latent (d)
        latent_norm: how latents are normalised: "none" (paper), or "batch"
        width: width of encoder and decoder
        heads: attention heads
        dropout: dropout, in training
        quantizer: how latents become codes: "vq" (paper); "residual", P levels of one latent; "fsq"; or "none"
    """

    target: ClassVar[str] = "features"  # what the decoder predicts of the later frame from the first

    cameras: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    stride: str = "32"
    extra_strides: tuple[str, ...] = ()
    features: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
    features_revision: str | None = None
    image_size: int = 224
    mean: tuple[float, ...] = field(default=(0.485, 0.456, 0.406), metadata=FROM_DATA)
    std: tuple[float, ...] = field(default=(0.229, 0.224, 0.225), metadata=FROM_DATA)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    streams: Literal["control", "control+env", "joint"] = "control"
    tokens: int = 4
    env_codebook_size: int = 16
    latent_dim: int = 128
    latent_norm: Literal["none", "batch"] = "none"
    width: int = 768
    heads: int = 12
    dropout: float = 0.0

    quantizer: str = "vq"
    codebook: CodebookConfig = field(default_factory=CodebookConfig, metadata=GROUP)
    action: ActionConfig = field(default_factory=ActionConfig, metadata=GROUP)
    loss: LossConfig = field(default_factory=LossConfig, metadata=GROUP)

    @classmethod
    def of(cls, cameras: tuple[str, ...], **options: Any) -> Self:
        """Return a configuration from options by their flat names, as recipes take them: `encoder_depth=2`."""
        checks.known_keys("options", options, sorted(option.name for option in options_of(cls)))
        return built(cls, {"cameras": cameras, **options})

    def __post_init__(self) -> None:
        check_choices(self)
        if knows_data(self):
            self.check()

    def check(self) -> None:
        """Check that options fit each other, once the dataset is known."""
        checks.one_of("quantizer", self.quantizer, BOTTLENECKS)
        checks.counts(1, MOST_PIXELS, image_size=self.image_size)
        checks.counts(tokens=self.tokens, latent_dim=self.latent_dim, width=self.width, heads=self.heads)
        checks.counts(2, env_codebook_size=self.env_codebook_size)
        checks.below_one(dropout=self.dropout)
        check_scaling(self.mean, self.std)
        checks.strides(stride=self.stride, extra_strides=self.extra_strides)
        checks.counts(1, MOST_CAMERAS, cameras=len(self.cameras))
        checks.counts(0, MOST_FUTURES, extra_strides=len(self.extra_strides))
        if self.loss.additivity > 0 and not self.extra_strides:
            checks.fail("loss_additivity", "0 without extra_strides", self.loss.additivity)
        kind, codebook = BOTTLENECKS[self.quantizer], self.codebook
        if self.loss.kl > 0 and not kind.variational:
            checks.fail("loss_kl", 'a positive one only with quantizer="none"', self.loss.kl)
        if self.quantizer == "residual" and self.tokens > 1 and codebook.update != "ema":
            checks.fail("codebook_update", '"ema" with quantizer="residual"', repr(codebook.update))
        if self.streams == "control+env" and not kind.vectors:
            known = " or ".join(name for name in BOTTLENECKS if BOTTLENECKS[name].vectors)
            checks.fail("quantizer", f"{known} with streams=control+env", repr(self.quantizer))

    @property
    def codebook_size(self) -> int:
        return self.codebook.size

    @property
    def positions(self) -> int:
        """Count the latent vectors of a stream: P, or 1 when the codes are levels of a residual quantizer."""
        return 1 if BOTTLENECKS[self.quantizer].levels else self.tokens

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss term, those of the environment stream included."""
        weights: dict[str, Any] = vars(self.loss)
        return weights | {f"{name}_env": weights[name] for name in ENV_TERMS}
