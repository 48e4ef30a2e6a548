"""Configuration of the latent action model of Moto and LARA; saved as config.json. Defaults: the published sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from lattok.data.pixels import MOST_PIXELS
from lattok.image_lam.base.bottlenecks import CodebookConfig
from lattok.image_lam.base.config import LossConfig, TrainedPairConfig
from lattok.utils import checks
from lattok.utils.options import GROUP, check_choices

HELD = "held"  # features by an image encoder that the artefact itself holds


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of the image encoder of features "held", a ViT-MAE.

    Attributes:
        width: width of the tokens of a held image encoder
        depth: blocks of a held image encoder
        heads: attention heads of a held image encoder
        hidden: width inside the MLPs of a held image encoder
        patch: side of the patches of a held image encoder
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    patch: int = 16

    def __post_init__(self) -> None:
        checks.counts(**{f"image_encoder_{name}": size for name, size in vars(self).items()})


@dataclass(frozen=True)
class SequenceConfig:
    """What reads a pair of frames, in one sequence.

    Attributes:
        depth: blocks of the encoder
        hidden: width inside the encoder's MLPs; 0: 4 times `width`
        frame_types: learned vectors that mark frames: 1 for both (published), or 2, one for each
    """

    depth: int = 4
    hidden: int = 0
    frame_types: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        check_choices(self, "encoder")
        checks.counts(encoder_depth=self.depth)
        checks.whole(encoder_hidden=self.hidden)


@dataclass(frozen=True)
class PatchDecoderConfig:
    """What predicts the pixels of the later frame from those of the first.

    Attributes:
        depth: blocks of the decoder
        width: width of the decoder; 0: `width`
        heads: attention heads of the decoder; 0: `heads`
        hidden: width inside the decoder's MLPs; 0: 4 times its width
        patch: side of the patches in which pixels are predicted
        conditioning: how the decoder sees latents: one map of all added to each patch ("pool"), or before the patches
            ("tokens")
        mask_tokens: the decoder starts from learned tokens, one for each patch that it predicts
        predict_change: the decoder predicts the change from the current pixels; before training, no change
    """

    depth: int = 12
    width: int = 0
    heads: int = 0
    hidden: int = 0
    patch: int = 16
    conditioning: Literal["pool", "tokens"] = "pool"
    mask_tokens: bool = False
    predict_change: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "decoder")
        checks.counts(decoder_depth=self.depth)
        checks.counts(1, MOST_PIXELS, decoder_patch=self.patch)
        checks.whole(decoder_width=self.width, decoder_heads=self.heads, decoder_hidden=self.hidden)


@dataclass(frozen=True)
class FeatureDecoderConfig:
    """A second decoder, of features, which loss_features asks for; what is left out is as in that of pixels.

    Attributes:
        depth: blocks of the second decoder, that of features (default of this and its other options: the first
            decoder's)
        heads: attention heads of the second decoder
        hidden: width inside the MLPs of the second decoder
        conditioning: how the second decoder sees latents
        mask_tokens: whether the second decoder starts from learned tokens
    """

    depth: int | None = None
    heads: int | None = None
    hidden: int | None = None
    conditioning: Literal["pool", "tokens"] | None = None
    mask_tokens: bool | None = None

    def __post_init__(self) -> None:
        check_choices(self, "feature_decoder")
        sizes = {name: self.own[name] for name in ("depth", "heads", "hidden") if name in self.own}
        checks.counts(**{f"feature_decoder_{name}": size for name, size in sizes.items()})

    @property
    def own(self) -> dict[str, Any]:
        """Return the sizes that are set, by name; the others are those of the first decoder."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PixelLossConfig(LossConfig):
    """Weights of the terms of the loss; the published quantizer weights the codebook's term, not the encoder's.

    Attributes:
        features: weight of a second decoder, which predicts the features
        perceptual: weight of LPIPS of the predicted pixels; needs the extra `lpips`
    """

    codebook: float = 0.25
    commitment: float = 1.0
    features: float = 0.0
    perceptual: float = 0.0


@dataclass(frozen=True)
class MotoLAMConfig(TrainedPairConfig):
    """Architecture, preprocessing and losses of `MotoLAM`.

    Attributes:
        features: what the model sees of a frame: any of FrozenFeatures, or "held" (see image_encoder_width)
        class_token: features begin with the network's class token
        streams: streams of latents: "control" alone, or "joint" with one for the environment
    """

    target: ClassVar[str] = "pixels"

    stride: str = "15"
    features: str = "hf:facebook/vit-mae-large"
    class_token: bool = True
    streams: Literal["control", "joint"] = "control"
    tokens: int = 8
    latent_dim: int = 32
    codebook: CodebookConfig = field(default_factory=partial(CodebookConfig, size=128), metadata=GROUP)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig, metadata=GROUP)
    encoder: SequenceConfig = field(default_factory=SequenceConfig, metadata=GROUP)
    decoder: PatchDecoderConfig = field(default_factory=PatchDecoderConfig, metadata=GROUP)
    feature_decoder: FeatureDecoderConfig = field(default_factory=FeatureDecoderConfig, metadata=GROUP)
    loss: PixelLossConfig = field(default_factory=PixelLossConfig, metadata=GROUP)

    def check(self) -> None:
        super().check()
        if self.image_size % self.decoder.patch:
            checks.fail("image_size", f"a multiple of decoder_patch {self.decoder.patch}", self.image_size)
        if self.feature_decoder.own and not self.loss.features:
            name, value = next(iter(self.feature_decoder.own.items()))
            checks.fail(f"feature_decoder_{name}", "none without loss_features", value)

    @property
    def of_features(self) -> PatchDecoderConfig:
        """Return the configuration by which the decoder of features is built."""
        return replace(self.decoder, **self.feature_decoder.own)
