"""Image latent action model of "From Pixels to Tokens" (Lin et al., 2026), appendix A.1, after UniVLA.

    latents = Encoder(features(o_t), features(o_{t+stride}))       c in R^{P x d}
    codes   = VQ(latents)                                          P codes of K
    features^(o_{t+stride}) = Decoder(features(o_t), codebook[codes])

Streams: `control`, and an environment stream beside it (`control+env` with a frozen codebook, `joint` from scratch).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lattok import checks
from lattok.hub import HubModel
from lattok.image_lam import losses
from lattok.image_lam.config import ImageLAMConfig
from lattok.image_lam.features import FrozenFeatures
from lattok.nn import PreNormBlock, SpaceTimeBlock, sinusoidal_positions
from lattok.normalize import Normalizer
from lattok.quantize import QuantizerConfig, VectorQuantizer
from lattok.types import LatentActions, LossTerms, PairBatch, join

LABEL_BATCH = 64  # pairs per forward pass when labelling a video


class FusedEncoder(nn.Module):
    """Queries look at one frame of [now, later, 3 x difference]: cheap, and the change is visible at once."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.project = nn.Linear(3 * feature_dim, config.width)
        self.queries = nn.Parameter(torch.randn(queries, config.width) * 0.02)
        self.places = nn.Parameter(torch.randn(places, config.width) * 0.02)
        blocks = (PreNormBlock(config.width, config.heads, config.dropout) for _ in range(config.encoder_depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, 2, N, D] to query tokens [B, queries, width]."""
        now, later = features.unbind(1)
        x = self.project(torch.cat([now, later, 3 * (later - now)], -1)) + self.places  # b n w
        x = torch.cat([self.queries.expand(len(x), -1, -1), x], 1)
        return self.norm(self.blocks(x)[:, : len(self.queries)])


class SpaceTimeEncoder(nn.Module):
    """UniVLA's encoder: queries and patches of both frames, attention in frames and causally between them."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, feature_dim) * 0.02)
        self.embed = nn.Sequential(
            nn.LayerNorm(feature_dim), nn.Linear(feature_dim, config.width), nn.LayerNorm(config.width)
        )
        self.register_buffer("places", sinusoidal_positions(queries + places, config.width), persistent=False)
        self.places: Tensor
        blocks = (SpaceTimeBlock(config.width, config.heads, config.dropout) for _ in range(config.encoder_depth))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, 2, N, D] to query tokens of the later frame [B, queries, width]."""
        queries = self.queries.expand(*features.shape[:2], -1, -1)
        x = self.embed(torch.cat([queries, features], 2)) + self.places  # b 2 q+n w
        return self.blocks(x)[:, 1, : len(self.queries)]


class Decoder(nn.Module):
    """Current features [B, N, D] and one stream's vectors [B, p, d] after the other to the later frame's features."""

    def __init__(self, config: ImageLAMConfig, streams: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.predict_change, self.add = config.predict_change, config.conditioning == "add"
        self.latent_up = nn.ModuleList(nn.Linear(config.latent_dim, width) for _ in range(streams))
        self.patch_up = nn.Linear(feature_dim, width)
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
        self.register_buffer(
            "places", sinusoidal_positions(streams * config.positions + places, width), persistent=False
        )
        self.places: Tensor
        blocks = (PreNormBlock(width, config.heads, config.dropout) for _ in range(config.decoder_depth))
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(width, feature_dim)
        if config.predict_change:  # start as "nothing changes", the best constant guess
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, *vectors: Tensor) -> Tensor:
        latents = torch.cat([up(stream) for up, stream in zip(self.latent_up, vectors, strict=True)], 1)
        patches = self.patch_up(features)
        if self.add:  # every patch knows the change before the first block
            patches = patches + latents.sum(1, keepdim=True)
        x = torch.cat([latents, patches], 1)  # b p+n w
        x = self.blocks(self.embed(x) + self.places)
        predicted = self.out(x[:, latents.shape[1] :])
        return features + predicted if self.predict_change else predicted


class Stream(nn.Module):
    """Query tokens [B, P, width] to latents [B, p, d] and their codes: heads, norm, quantizer.

    A `frozen` stream's codebook is given (stage 1) rather than learned, so it needs no start and no warm-up.
    """

    def __init__(self, config: ImageLAMConfig, size: int, frozen: bool = False):
        super().__init__()
        self.config, d = config, config.latent_dim
        residual = config.quantizer == "residual"
        if residual:  # one latent from all queries, P levels of codes
            self.heads = nn.ModuleList([nn.Linear(config.tokens * config.width, d)])
        else:
            heads = config.tokens if config.latent_heads == "per_token" else 1
            self.heads = nn.ModuleList(nn.Linear(config.width, d) for _ in range(heads))
        positions = config.positions
        self.norm = nn.BatchNorm1d(positions * d, affine=False) if config.latent_norm == "batch" else None
        self.quantizer = VectorQuantizer(
            QuantizerConfig(
                dim=d,
                size=size,
                levels=config.tokens if residual else 1,
                update=config.codebook_update,
                start="normal" if frozen else config.codebook_start,
                continuous_steps=0 if frozen else config.continuous_steps,
                revive_below=config.revive_below,
            )
        )

    def latents(self, tokens: Tensor) -> Tensor:
        """[B, P, width] to [B, p, d]."""
        if self.config.quantizer == "residual":
            tokens = rearrange(tokens, "b p w -> b 1 (p w)")
        if len(self.heads) == 1:
            latents = self.heads[0](tokens)
        else:
            latents = torch.stack([head(tokens[:, i]) for i, head in enumerate(self.heads)], 1)
        if self.norm is not None:
            latents = self.norm(latents.flatten(1)).reshape(latents.shape)
        return latents


@dataclass
class Encoded:
    """One stream's latents and straight-through vectors [B, p, d], codes and loss terms."""

    latents: Tensor
    vectors: Tensor
    codes: Tensor
    losses: LossTerms


class ActionHead(nn.Module):
    """MLP from pre-quantization latents to the mean action of the gap (Eq. 14); dropped at publication."""

    def __init__(self, config: ImageLAMConfig, action_dim: int):
        super().__init__()
        inputs = config.positions * config.latent_dim
        self.normalizer = Normalizer(action_dim)
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, action_dim))

    def forward(self, latents: Tensor) -> Tensor:
        return self.net(latents.flatten(1))


class ImageLAM(HubModel):
    """Latent actions of frame pairs: P codes that say what changed, as far as the current frame does not show it.

    >>> lam = ImageLAM.from_pretrained("org/name")          # or a folder
    >>> lam.encode(frames).codes                             # uint8 [B, 2, V, H, W, 3] -> int64 [B, P]
    """

    type = "image-lam"
    config_class = ImageLAMConfig
    label_source = "video"

    def __init__(self, config: ImageLAMConfig):
        super().__init__()
        self.config = config
        self.features = FrozenFeatures(
            config.features, config.image_size, config.mean, config.std, config.interpolation, config.features_revision
        )
        places = len(config.cameras) * self.features.count
        streams = 1 if config.streams == "control" else 2
        encoder = FusedEncoder if config.encoder == "fused" else SpaceTimeEncoder
        self.encoder = encoder(config, streams * config.tokens, self.features.dim, places)
        frozen = config.streams == "control+env"
        self.control = Stream(config, config.codebook_size)
        self.env = Stream(config, config.env_codebook_size, frozen) if streams == 2 else None
        self.decoder = Decoder(config, streams, self.features.dim, places)
        self.action_head: ActionHead | None = None
        if frozen and self.env is not None:
            self.env.quantizer.requires_grad_(False)  # stage 1 taught it; only the encoder still learns

    def after_load(self) -> None:
        """Fetch the named features' weights."""
        self.features.load()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras in the order of the V axis."""
        return self.config.cameras

    def stride_frames(self, fps: float) -> int:
        """The model's stride in frames of a dataset."""
        return checks.stride_in_frames(self.config.stride, fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """The model's own resizing, uint8 [n, H, W, 3] to [n, s, s, 3]; usable while a video is decoded."""
        return self.features.resize(torch.from_numpy(frames)).numpy()

    def attach_action_head(self, actions: Tensor) -> None:
        """A fresh action head whose normaliser is fitted to `actions` [N, m]; used in training only."""
        self.action_head = ActionHead(self.config, actions.shape[1])
        self.action_head.normalizer.fit(actions)

    @torch.no_grad()
    def set_env_codebook(self, levels: Sequence[Tensor]) -> None:
        """Copy the stage-1 codebook, [K, d] for each level, that `control+env` keeps frozen."""
        if self.config.streams != "control+env" or self.env is None:
            checks.fail("env_codebook", "none, unless streams are control+env", f"streams {self.config.streams}")
        wanted = self.env.quantizer.codebook_vectors
        shapes, given = [list(w.shape) for w in wanted], [list(level.shape) for level in levels]
        if shapes != given:
            checks.fail("env_codebook", f"levels of shape {shapes}", f"{given}")
        for target, level in zip(wanted, levels, strict=True):
            target.copy_(level)

    def encode(self, frames: Tensor, stride: int | None = None) -> LatentActions:
        """Frame pairs uint8 [B, 2, V, H, W, 3], or with `stride` a video [T, V, H, W, 3], to `LatentActions`.

        V may be left out when there is one camera. A video gives T rows, see `label_video`.
        """
        if stride is not None:
            video = frames[:, None] if frames.ndim == 4 and len(self.cameras) == 1 else frames
            return self.label_video(video.cpu().numpy(), stride)
        if not isinstance(frames, Tensor):
            checks.fail("frames", "a torch tensor", type(frames).__name__, "Use torch.from_numpy(frames).")
        if frames.ndim == 5 and len(self.cameras) == 1:
            frames = frames[:, :, None]
        checks.rank("frames", frames, "B 2 V H W 3")
        checks.size("frames", "frames per sample", frames.shape[1], 2)
        return self.encode_features(self.frame_features(frames))

    @torch.no_grad()
    def encode_features(self, features: Tensor) -> LatentActions:
        """Precomputed features [B, 2, V*N, D] to `LatentActions`."""
        checks.rank("features", features, "B 2 N D")
        with self._inference():
            control, env = self._streams(features)
        return _public(self.control, control, None if self.env is None or env is None else _public(self.env, env))

    @torch.no_grad()
    def frame_features(self, frames: Tensor) -> Tensor:
        """uint8 [..., V, H, W, 3] to features [..., V*N, D]."""
        checks.size("frames", f"cameras ({', '.join(self.cameras)})", frames.shape[-4], len(self.cameras))
        lead = frames.shape[:-4]
        frames = self.features.resize(frames).to(self.features.mean.device)
        patches = self.features(frames.reshape(-1, *frames.shape[-3:]))
        return patches.reshape(*lead, len(self.cameras) * self.features.count, self.features.dim)

    @torch.no_grad()
    def label_video(self, frames: np.ndarray, stride: int) -> LatentActions:
        """Video uint8 [T, V, H, W, 3] to T latent actions of the pairs (t, min(t + stride, T - 1)).

        Every frame's features are computed once. Batches start at frame 0, so labels do not depend on the caller.
        """
        checks.rank("frames", frames, "T V H W 3")
        checks.positive(stride=stride)
        steps = len(frames)
        blocks = [frames[i : i + LABEL_BATCH] for i in range(0, steps, LABEL_BATCH)]
        features = torch.cat([self.frame_features(torch.from_numpy(block)) for block in blocks])
        parts = []
        for start in range(0, steps, LABEL_BATCH):
            now = torch.arange(start, min(start + LABEL_BATCH, steps), device=features.device)
            later = (now + stride).clamp_max(steps - 1)
            parts.append(self.encode_features(torch.stack([features[now], features[later]], 1)))
        return join(parts)

    def forward(self, batch: PairBatch) -> LossTerms:
        """Loss terms of a batch; `config.loss_weights` weights them."""
        features = self.frame_features(batch.frames)
        control, env = self._streams(features)
        vectors = [stream.vectors for stream in (control, env) if stream is not None]
        terms = {"prediction": losses.prediction(self.decoder(features[:, 0], *vectors), features[:, 1])}
        terms.update(control.losses)
        terms.update({f"{name}_env": value for name, value in (env.losses if env else {}).items()})
        if self.config.decorrelation_weight > 0:
            terms["decorrelation"] = losses.decorrelation(control.latents)
        if self.action_head is not None and batch.actions.shape[1]:
            target = self.action_head.normalizer(batch.actions)
            terms["action"] = losses.action(self.action_head(control.latents), target, batch.labelled)
        return terms

    def predict(self, features: Tensor, latents: LatentActions) -> Tensor:
        """Features of the later frame [B, N, D] from current features [B, N, D] and quantized latent actions."""
        return self.decoder(features, *[s.quantized for s in (latents, latents.env) if s is not None])

    def saved_tensors(self) -> dict[str, Tensor]:
        """Everything but the frozen features, which the config names, and the action head of the training robot."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith(("features.", "action_head."))}

    def describe(self) -> dict[str, Any]:
        """As every model; with timm features also the hash of their weights, which the artefact does not hold."""
        described = super().describe()
        if self.features.network is not None:
            weights = hashlib.sha256()
            for tensor in self.features.network.state_dict().values():
                weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            described["features_sha256"] = weights.hexdigest()
        return described

    def _streams(self, features: Tensor) -> tuple[Encoded, Encoded | None]:
        tokens = self.encoder(features)
        count = self.config.tokens
        control = _encode(self.control, tokens[:, :count], update=True)
        if self.env is None:
            return control, None
        return control, _encode(self.env, tokens[:, count:], update=self.config.streams == "joint")


def _encode(stream: Stream, tokens: Tensor, update: bool) -> Encoded:
    latents = stream.latents(tokens)
    quantized = stream.quantizer(latents, update)
    codes = quantized.codes.flatten(1) if stream.config.quantizer == "residual" else quantized.codes
    return Encoded(latents, quantized.vectors, codes, quantized.losses)


def _public(stream: Stream, encoded: Encoded, env: LatentActions | None = None) -> LatentActions:
    levels = encoded.codes[:, None] if stream.config.quantizer == "residual" else encoded.codes
    return LatentActions(encoded.codes, encoded.latents, stream.quantizer.lookup(levels), env)
