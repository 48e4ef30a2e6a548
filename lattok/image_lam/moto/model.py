"""Latent action model of Moto (Chen et al., 2025) and LARA (Liu et al., 2026), which predicts the later frame's pixels;
with its configuration (defaults: the published sizes).

    tokens  = Encoder([queries, f(o_t), separator, f(o_{t+stride})])      the first P of them
    patches = Decoder(patches(o_t), latents)                              o_{t+stride}, in patches

f are frozen features. A second decoder may predict these next to pixels, and LPIPS compare the pixels. Places are
learned. Everything starts as ViT does: matrices and places with deviation 0.02, biases from zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.data.pixels import MOST_PIXELS
from lattok.image_lam.base import losses
from lattok.image_lam.base.bottlenecks import CodebookConfig
from lattok.image_lam.base.config import LossConfig, TrainedPairConfig
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import FlatPairEncoder
from lattok.image_lam.base.trained import TrainedPairModel, of_pairs
from lattok.nn.blocks import PreNormBlock
from lattok.types import LossTerms, PairBatch
from lattok.utils import checks
from lattok.utils.options import GROUP, check_choices

HELD = "held"  # features by an image encoder that the artefact itself holds
DEVIATION = 0.02
EPSILON = 1e-12  # of every norm, as published


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
        depth: blocks of the second decoder, which predicts features (default of this and its other options: as in the
            first decoder)
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
        features: what the model sees of a frame: "timm:MODEL", "hf:MODEL", "pixels" or "held" (see image_encoder_width)
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


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=DEVIATION))


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=DEVIATION)
        nn.init.zeros_(module.bias)


def _blocks(width: int, heads: int, hidden: int, depth: int, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(*(PreNormBlock(width, heads, dropout, hidden, bias=True, eps=EPSILON) for _ in range(depth)))


class HeldViT(nn.Module):
    """ViT-MAE's encoder with weights of its own, random until a checkpoint fills them; all patches, in their order."""

    num_prefix_tokens = 1

    def __init__(self, config: ImageEncoderConfig, image_size: int):
        super().__init__()
        width, patch, hidden = config.width, config.patch, config.hidden
        self.patch_size, self.num_features = patch, width
        self.patch_up = nn.Linear(3 * patch**2, width)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(1 + (image_size // patch) ** 2, width) * 0.02)
        self.blocks = _blocks(width, config.heads, hidden, config.depth)
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] into class token and patches [n, 1 + N, D]."""
        size = {"p": self.patch_size, "q": self.patch_size}
        patches = self.patch_up(rearrange(pixels, "n c (y p) (x q) -> n (y x) (c p q)", **size))
        x = torch.cat([self.first.expand(len(pixels), 1, -1), patches], 1) + self.places
        return self.norm(self.blocks(x))


class SequenceEncoder(nn.Module):
    """Queries, the first frame, a separator and the later frame, which all look at each other."""

    any_grid = False  # the places of patches are learned

    def __init__(self, config: MotoLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.project = nn.Linear(feature_dim, width)
        self.queries = nn.Parameter(torch.randn(queries, width) * DEVIATION)
        self.separator = _learned(width)
        self.places = _learned(queries + 2 * places + 1, width)
        self.types = _learned(config.encoder.frame_types, width)  # the last one is that of the later frame
        self.blocks = _blocks(width, config.heads, config.encoder.hidden, config.encoder.depth, config.dropout)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.apply(_start)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features [B, 2, N, D] into query tokens [B, queries, width]."""
        x = self.blocks(self.of_pair(*self.of_frame(features, self.project).unbind(1)))
        return self.norm(x[:, : len(self.queries)])

    def for_videos(self, dtype: torch.dtype = torch.float32) -> FlatPairEncoder:
        return FlatPairEncoder(self, dtype)

    def of_frame(self, features: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what pairs need of frames: their projected features."""
        return project(features)

    def of_pair(self, now: Tensor, later: Tensor, project: Any = None) -> Tensor:
        """Put projected frames [B, N, width] between and after the learned tokens: [B, queries + 2 N + 1, width]."""
        learned = [part.expand(len(now), -1, -1) for part in (self.queries, self.separator[None])]
        x = torch.cat([learned[0], now, learned[1], later], 1) + self.places
        first = x.shape[1] - later.shape[1]
        return torch.cat([x[:, :first] + self.types[0], x[:, first:] + self.types[-1]], 1)


class PatchDecoder(nn.Module):
    """Patches of the first frame [B, N, D] and one stream's vectors [B, p, d] after the other to the later frame's.

    With `conditioning` "pool" one map of all latents is added to every patch; with "tokens" they stand before them.
    With `mask_tokens` the patches are predicted in the place of so many learned tokens after those of the first frame.
    """

    def __init__(self, config: MotoLAMConfig, decoder: PatchDecoderConfig, streams: int, patch_dim: int, places: int):
        super().__init__()
        width, heads, d = decoder.width or config.width, decoder.heads or config.heads, config.latent_dim
        latents, self.predict_change = streams * config.positions, decoder.predict_change
        self.patch_up = nn.Linear(patch_dim, width)
        self.pool = nn.Linear(latents * width, width) if decoder.conditioning == "pool" else None
        self.mask = nn.Parameter(torch.zeros(width)) if decoder.mask_tokens else None
        before = 0 if self.pool is not None else latents
        self.places = _learned(before + places * (1 if self.mask is None else 2), width)
        self.blocks = _blocks(width, heads, decoder.hidden, decoder.depth, config.dropout)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.out = nn.Linear(width, patch_dim)
        self.apply(_start)
        ups = [nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, width)) for _ in range(streams)]
        self.latent_up = nn.ModuleList(ups)
        if decoder.predict_change:  # start as "nothing changes", the best constant guess
            nn.init.zeros_(self.out.weight)

    def forward(self, patches: Tensor, *vectors: Tensor) -> Tensor:
        latents = torch.cat([up(stream) for up, stream in zip(self.latent_up, vectors, strict=True)], 1)
        x = self.patch_up(patches)
        if self.mask is not None:
            x = torch.cat([x, self.mask.expand_as(x)], 1)
        x = torch.cat([latents, x], 1) if self.pool is None else x + self.pool(latents.flatten(1))[:, None]
        x = self.blocks(x + self.places)
        predicted = self.out(self.norm(x[:, -patches.shape[1] :]))
        return patches + predicted if self.predict_change else predicted


class MotoLAM(TrainedPairModel):
    """Latent actions of frame pairs: P codes with which pixels of the later frame are predicted from the first.

    >>> lam = lattok.convert.moto_lam("latent_motion_tokenizer")
    >>> lam.encode(frames).codes                             # uint8 [B, 2, V, H, W, 3] -> int64 [B, P]
    """

    type = "moto-lam"
    arxiv = "2412.04445"
    config_class = MotoLAMConfig
    config: MotoLAMConfig

    def __init__(self, config: MotoLAMConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        self.feature_decoder: PatchDecoder | None = None
        if config.loss.features > 0:
            self.feature_decoder = self._decoder(replace(config.decoder, **config.feature_decoder.own), self.features)

    def summary(self) -> str:
        return f"{super().summary()}, a decoder of width {self.config.decoder.width or self.config.width}"

    def new_encoder(self, queries: int, places: int) -> nn.Module:
        return SequenceEncoder(self.config, queries, self.features.dim, places)

    def new_heads(self) -> list[nn.Module]:
        config, hidden = self.config, self.config.decoder.width or self.config.width
        return [nn.Sequential(nn.Linear(config.width, hidden), nn.Tanh(), nn.Linear(hidden, config.latent_dim))]

    def new_decoder(self) -> PatchDecoder:
        return self._decoder(self.config.decoder, self.pixels)

    def _decoder(self, decoder: PatchDecoderConfig, seen: FrozenFeatures) -> PatchDecoder:
        return PatchDecoder(self.config, decoder, self.streams, seen.dim, len(self.cameras) * seen.count)

    @property
    def decodes(self) -> bool:
        return super().decodes or self.config.loss.perceptual > 0

    @classmethod
    def frozen_features(cls, config: MotoLAMConfig) -> FrozenFeatures:
        network = HeldViT(config.image_encoder, config.image_size) if cls.holds_features(config) else None
        options = {"revision": config.features_revision, "class_token": config.class_token, "network": network}
        return FrozenFeatures(config.features, *cls.sight(config), **options)

    @staticmethod
    def holds_features(config: MotoLAMConfig) -> bool:
        return config.features == HELD

    def predictions(
        self, batch: PairBatch, features: Tensor, vectors: Sequence[Tensor], conditions: dict[str, Any], perceptual: Any
    ) -> LossTerms:
        """Return the terms of pixels, and of features where a second decoder predicts these."""
        terms: LossTerms = {}
        seen = of_pairs(self.frame_targets(batch.frames), self.pairs_of(batch.frames.shape[1]))
        if self.config.loss.prediction > 0 or perceptual is not None:
            predicted = self.decoder(seen[:, 0], *vectors)
            terms["prediction"] = losses.prediction(predicted, seen[:, 1])
            if perceptual is not None:
                terms["perceptual"] = perceptual(*(self._shown(patches) for patches in (predicted, seen[:, 1])))
        if self.feature_decoder is not None:
            terms["features"] = losses.prediction(self.feature_decoder(features[:, 0], *vectors), features[:, 1])
        return terms

    def _shown(self, patches: Tensor) -> Tensor:
        """Turn patches of pixels [B, V*N, D] into images [B*V, 3, H, W], 0 black and 1 white."""
        return (self.images_of(patches) * self.pixels.std + self.pixels.mean).movedim(-1, 1)
