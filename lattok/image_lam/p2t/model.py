"""Image latent action model of "From Pixels to Tokens" (Lin et al., 2026), appendix A.1, after UniVLA; with its
configuration (defaults: appendix A.1) and parts.

What it predicts are features of the later frame (Eq. 12). Streams: `control`, and an environment stream next to it
(`control+env` with a frozen codebook, `joint` from scratch). Stage 1 learns that codebook: one stream, with the
instruction's words next to the tokens (`language`).

Encoders have a form that labels videos (`base/labelling.py`). Over time, the earlier frame attends only itself,
W_o W_v n0, one matrix, and the later one has two keys, so softmax is a sigmoid: v0 + s(q (k1 - k0)) (v1 - v0), where
differences of k and v are maps of n1 - n0. Equal to the encoders up to rounding. Matrices alone may be bfloat16.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.image_lam.base.config import TrainedPairConfig
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import Affine, FlatPairEncoder, Layer, add_product, precise
from lattok.image_lam.base.trained import TrainedPairModel
from lattok.nn.blocks import PreNormBlock, SpaceTimeBlock, sinusoids
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor
from lattok.utils.checks import LattokError
from lattok.utils.options import FROM_DATA, GROUP, check_choices


@dataclass(frozen=True)
class PairEncoderConfig:
    """What reads a pair of frames.

    Attributes:
        name: encoder: "spacetime" (paper), or "fused", one frame of [now, later, difference]
        depth: blocks of the encoder
        query_start: how the query tokens begin: "uniform" in ±1 (UniVLA), or "normal" with deviation 0.02
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
        conditioning: how the decoder sees latents: as tokens next to the patches (paper), or also added to each
        predict_change: the decoder predicts the change from the current features; before training, no change
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
        language: what reads instructions in stage 1: "t5:MODEL" or "precomputed"; its vectors join the tokens of every
            frame
        latent_heads: whether all tokens share one head (paper), or each has its own
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


class Words(NamedTuple):
    """An instruction, seen by every frame."""

    tokens: Tensor  # [B, S, width]
    mask: Tensor  # [B, S] bool: which of them are words

    def repeated(self, times: int) -> "Words":
        """Return them for so many samples in the place of each."""
        return Words(*(part.repeat_interleave(times, 0) for part in self))


def with_words(x: Tensor, words: Words | None) -> tuple[Tensor, Tensor | None]:
    """Put the words after tokens [B, ..., n, width], and say which of all these attention may look at."""
    if words is None:
        return x, None
    missing = (1,) * (x.ndim - 3)  # axes between batch and tokens: frames
    tokens = words.tokens.unflatten(0, (-1, *missing)).expand(*x.shape[:-2], -1, -1)
    keys = F.pad(words.mask, (x.shape[-2], 0), value=True).unflatten(0, (-1, *missing))
    return torch.cat([x, tokens], -2), keys


def add_sines(x: Tensor, table: Tensor) -> Tensor:
    """Add the sines of their places to tokens [..., n, width]; the table is made for one n, the rule holds for any."""
    count, width = x.shape[-2:]
    return x + (table[:count] if count <= len(table) else sinusoids(torch.arange(count), width).to(table))


def new_queries(config: ImageLAMConfig, count: int, width: int) -> nn.Parameter:
    uniform = config.encoder.query_start == "uniform"
    return nn.Parameter(2 * torch.rand(count, width) - 1 if uniform else torch.randn(count, width) * 0.02)


def new_blocks(kind: type[PreNormBlock] | type[SpaceTimeBlock], config: ImageLAMConfig, depth: int) -> nn.ModuleList:
    return nn.ModuleList(kind(config.width, config.heads, config.dropout) for _ in range(depth))


class FusedEncoder(nn.Module):
    """Queries look at one frame of [now, later, 3 x difference]: cheap, and the change is visible at once."""

    any_grid = False  # the places of patches are learned

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.project = nn.Linear(3 * feature_dim, config.width)
        self.queries = new_queries(config, queries, config.width)
        self.places = nn.Parameter(torch.randn(places, config.width) * 0.02)
        self.blocks = new_blocks(PreNormBlock, config, config.encoder.depth)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor, words: Words | None = None) -> Tensor:
        """Turn features [B, 2, N, D] into query tokens [B, queries, width]."""
        now, later = features.unbind(1)
        x, keys = with_words(self.of_pair(now, later, self.project), words)
        for block in self.blocks:
            x = block(x, keys)
        return self.norm(x[:, : len(self.queries)])

    def of_frame(self, features: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what pairs need of a frame: its features."""
        return features

    def of_pair(self, now: Tensor, later: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """Turn features [n, N, D] of both frames into queries and projected patches [n, queries + N, width]."""
        x = project(torch.cat([now, later, 3 * (later - now)], -1)) + self.places
        return torch.cat([self.queries.expand(len(x), -1, -1), x], 1)

    def for_videos(self, dtype: torch.dtype = torch.float32) -> FlatPairEncoder:
        return FlatPairEncoder(self, dtype)


class SpaceTimeEncoder(nn.Module):
    """UniVLA's encoder: queries and patches of both frames, attention in frames and causally between them."""

    any_grid = True  # the places of patches are a rule

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.queries = new_queries(config, queries, feature_dim)
        self.embed = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, width), nn.LayerNorm(width))
        self.places = nn.Buffer(sinusoids(torch.arange(queries + places), width), persistent=False)
        self.blocks = new_blocks(SpaceTimeBlock, config, config.encoder.depth)

    def forward(self, features: Tensor, words: Words | None = None) -> Tensor:
        """Turn features [B, 2, N, D] into query tokens of the later frame [B, queries, width]."""
        queries = self.queries.expand(*features.shape[:2], -1, -1)
        x = add_sines(self.embed(torch.cat([queries, features], 2)), self.places)  # b 2 q+n w
        x, keys = with_words(x, words)
        for block in self.blocks:
            x = block(x, keys)
        return x[:, 1, : len(self.queries)]

    def for_videos(self, dtype: torch.dtype = torch.float32) -> "TwoFrameEncoder":
        return TwoFrameEncoder(self, dtype)


class TwoFrameBlock(Layer):
    """A `SpaceTimeBlock`, which looks at the other frame between its attention in a frame and its MLP."""

    def __init__(self, block: SpaceTimeBlock, dtype: torch.dtype):
        super().__init__((block.norm1, block.norm2, block.norm3), block.space, block.ff, dtype)
        width = block.time.out.in_features
        query, key, value = block.time.qkv.weight.detach().split(width)
        mix = block.time.out.weight.detach()
        self.time_query = Affine(query * (width // self.heads) ** -0.5, None, dtype)
        self.time_change = Affine(torch.cat([key, value]), None, dtype)
        self.time_alone = Affine((precise(mix) @ precise(value)).to(mix.dtype), block.time.out.bias, dtype)
        self.time_mix = Affine(mix, None, dtype)

    def time(self, x: Tensor, only_later: bool) -> Tensor:
        """Add causal attention over two frames to [2, n, tokens, width], or return its second frame alone."""
        first, second = self.norms[1](x).unbind()
        alone = self.time_alone(first)
        query, (key, value) = self.time_query(second), self.time_change(second - first).chunk(2, -1)
        score = (query * key).unflatten(-1, (self.heads, -1)).sum(-1, keepdim=True, dtype=torch.float32)
        change = value.unflatten(-1, (self.heads, -1)) * score.sigmoid().to(value.dtype)
        x = x[1:].add_(alone) if only_later else x.add_(alone)
        add_product(x[-1], change.flatten(-2), self.time_mix)
        return x


class TwoFrameEncoder:
    """The form for labels of a `SpaceTimeEncoder`; of a frame it holds tokens [n, tokens, width], after attention."""

    def __init__(self, encoder: SpaceTimeEncoder, dtype: torch.dtype = torch.float32):
        self.norm_in, self.norm_out = encoder.embed[0], encoder.embed[2]
        self.embed = Affine.of(encoder.embed[1], dtype)  # pyright: ignore
        count = len(encoder.queries)
        self.places = encoder.places[count:]
        self.queries = self._embedded(encoder.queries.detach()) + encoder.places[:count]  # the same for every frame
        blocks: Any = encoder.blocks
        self.layers = [TwoFrameBlock(block, dtype) for block in blocks]
        self.used = [None] * (len(self.layers) - 1) + [count]  # tokens that go on from a layer, the first ones

    def frames(self, features: Tensor) -> Tensor:
        patches = self._embedded(features).add_(self.places)
        x = torch.cat([self.queries.expand(len(patches), -1, -1), patches], 1)
        return self.layers[0].space(x, self.used[0])

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        x = torch.stack([now, later])  # 2 n tokens width
        for place, layer in enumerate(self.layers):
            if place > 0:
                x = layer.space(x.flatten(0, 1), self.used[place]).unflatten(0, (2, -1))
            x = layer.feed_forward(layer.time(x, only_later=layer is self.layers[-1]))
        return x[-1]

    def _embedded(self, features: Tensor) -> Tensor:
        return self.norm_out(self.embed(self.norm_in(features)).to(self.places.dtype))


class Decoder(nn.Module):
    """Current features [B, N, D] and one stream's vectors [B, p, d] after the other to the later frame's features."""

    def __init__(self, config: ImageLAMConfig, streams: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.predict_change, self.add = config.decoder.predict_change, config.decoder.conditioning == "add"
        self.latent_up = nn.ModuleList(nn.Linear(config.latent_dim, width) for _ in range(streams))
        self.patch_up = nn.Linear(feature_dim, width)
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
        count = streams * config.positions + places
        self.places = nn.Buffer(sinusoids(torch.arange(count), width), persistent=False)
        self.blocks = new_blocks(PreNormBlock, config, config.decoder.depth)
        self.out = nn.Linear(width, feature_dim)
        if config.decoder.predict_change:  # start as "nothing changes", the best constant guess
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, *vectors: Tensor, words: Words | None = None) -> Tensor:
        latents = torch.cat([up(stream) for up, stream in zip(self.latent_up, vectors, strict=True)], 1)
        patches = self.patch_up(features)
        if self.add:  # every patch knows the change before the first block
            patches = patches + latents.sum(1, keepdim=True)
        places = slice(latents.shape[1], latents.shape[1] + features.shape[1])
        x, keys = with_words(add_sines(self.embed(torch.cat([latents, patches], 1)), self.places), words)  # b p+n+s w
        for block in self.blocks:
            x = block(x, keys)
        predicted = self.out(x[:, places])
        return features + predicted if self.predict_change else predicted


class ImageLAM(TrainedPairModel):
    """Latent actions of frame pairs: P codes for what changed and the current frame does not show.

    >>> lam = ImageLAM.from_pretrained("org/name")          # or a folder
    >>> lam.encode(frames).codes                             # uint8 [B, 2, V, H, W, 3] -> int64 [B, P]
    """

    type = "image-lam"
    arxiv = "2605.04678"
    config_class = ImageLAMConfig
    config: ImageLAMConfig

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
        kind = FusedEncoder if self.config.encoder.name == "fused" else SpaceTimeEncoder
        return kind(self.config, queries, self.features.dim, places)

    def new_heads(self) -> list[nn.Module]:
        config = self.config
        count = config.tokens if config.latent_heads == "per_token" else 1
        return [nn.Linear(config.width, config.latent_dim) for _ in range(count)]

    def new_decoder(self) -> Decoder:
        return Decoder(self.config, self.streams, self.features.dim, len(self.cameras) * self.features.count)

    def take_environment(self, stage1: "ImageLAM") -> None:
        """Copy codebook and queries of a stage-1 model into the environment stream of `control+env`."""
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

    def _conditions(self, samples: int, text: Values | None, mask: Values | None) -> dict[str, Any]:
        """Turn vectors of the instruction's words [samples, S, language_dim] into tokens, which stage 1 needs."""
        if self.language_up is None:
            return super()._conditions(samples, text, mask)
        if text is None:
            checks.fail("text", f"vectors [B, S, {self.config.language_dim}]: this is a stage-1 model", "none")
        text = as_tensor("text", text)
        checks.rank("text", text, "B S D")
        checks.size("text", "samples, as there are of frames", len(text), samples)
        checks.size("text", "channels", text.shape[2], self.config.language_dim)
        text = text.to(self.features.mean)
        mask = torch.ones_like(text[..., 0]) if mask is None else as_tensor("text_mask", mask).to(text.device)
        if mask.shape != text.shape[:2]:
            checks.fail("text_mask", f"shape {list(text.shape[:2])}", f"{list(mask.shape)}")
        return {"words": Words(self.language_up(text), mask.bool())}
