"""Latent action models of frame pairs that are trained here: an encoder, streams of latents, a decoder of what comes.

    latents = Encoder(features(o_t), features(o_{t+stride}))       c in R^{P x d}
    codes   = bottleneck(latents)                                  P codes of K
    o^_{t+stride} = Decoder(o_t, codebook[codes])                  features, or pixels

Streams: `control`, and next to it that of an environment. A family says what its encoder, heads and decoder are.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.hub.trials import Trial
from lattok.image_lam.base import losses
from lattok.image_lam.base.bottlenecks import BOTTLENECKS, trial_of
from lattok.image_lam.base.config import TrainedPairConfig
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import VideoEncoder, as_latents, torch_encoder
from lattok.image_lam.base.pair_model import PairModel
from lattok.nn.blocks import upcast
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import VectorQuantizer
from lattok.types import LatentActions, LossTerms, PairBatch
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.options import check_knows_data


@dataclass
class EncodedStream:
    """One stream's latents and straight-through vectors [B, p, d], codes and loss terms."""

    latents: Tensor
    vectors: Tensor
    codes: Tensor
    losses: LossTerms


class LatentStream(nn.Module):
    """Query tokens [B, P, width] to latents [B, p, d] and their codes: heads, norm, bottleneck."""

    def __init__(
        self, config: TrainedPairConfig, size: int, new_heads: Callable[[], Sequence[nn.Module]], frozen: bool = False
    ):
        super().__init__()
        self.config, d, kind = config, config.latent_dim, BOTTLENECKS[config.quantizer]
        self.levels = kind.levels
        # with levels of codes one latent from all queries
        self.heads = nn.ModuleList([nn.Linear(config.tokens * config.width, d)] if kind.levels else new_heads())
        self.norm = nn.BatchNorm1d(config.positions * d, affine=False) if config.latent_norm == "batch" else None
        options = {"codebook": replace(config.codebook, size=size), "variational": config.loss.kl > 0}
        self.quantizer = kind.build(dim=d, tokens=config.tokens, frozen=frozen, **options)
        if frozen:
            self.quantizer.requires_grad_(False)  # stage 1 taught it; only the encoder still learns

    def forward(self, tokens: Tensor, update: bool = True, valid: Tensor | None = None) -> EncodedStream:
        """Encode query tokens; a codebook that follows latents sees `valid` [B] ones, and none with `update=False`."""
        latents = self.latents(tokens)
        seen = None if valid is None else valid[:, None].expand(latents.shape[:2])
        quantized = self.quantizer(latents, update, seen)
        if self.training and not update and isinstance(self.quantizer, VectorQuantizer):
            self.quantizer.remember(quantized.codes)  # how a frozen codebook is used is worth a report, too
        codes = quantized.codes.flatten(1) if self.levels else quantized.codes
        return EncodedStream(latents, quantized.vectors, codes, quantized.losses)

    def latents(self, tokens: Tensor) -> Tensor:
        """Turn query tokens [B, P, width] into latents [B, p, d]."""
        if self.levels:
            tokens = rearrange(tokens, "b p w -> b 1 (p w)")
        if len(self.heads) == 1:
            latents = self.heads[0](tokens)
        else:
            latents = torch.stack([head(tokens[:, i]) for i, head in enumerate(self.heads)], 1)
        latents = upcast(latents)  # autocast rounds up to here; what follows are statistics, codes and losses
        if self.norm is not None:
            latents = self.norm(latents.flatten(1)).reshape(latents.shape)
        return latents

    def public(self, encoded: EncodedStream, env: LatentActions | None = None) -> LatentActions:
        """Return what callers get: as quantized vectors rows of the codebook, or the latents where there is none."""
        if not encoded.codes.shape[1]:
            return LatentActions(encoded.codes, encoded.latents, encoded.latents, env)
        several = self.levels and self.config.tokens > 1
        rows = self.quantizer.lookup(encoded.codes[:, None] if several else encoded.codes)  # pyright: ignore
        return LatentActions(encoded.codes, encoded.latents, rows, env)

    def codebook(self) -> list[Tensor]:
        """Return the codebook of each level, [K, d]."""
        if not isinstance(self.quantizer, VectorQuantizer):
            checks.fail("env_codebook", "a model with quantizer vq or residual", self.config.quantizer)
        return self.quantizer.codebook_vectors


Learned = tuple[LossTerms, EncodedStream, EncodedStream | None]


class TrainedPairModel(PairModel, ABC):
    """A model of frame pairs with its decoder. What only training needs is in its `PairLearner`."""

    config: Any  # a TrainedPairConfig
    encoder: Any  # its `for_videos` returns the form that labels

    def __init__(self, config: TrainedPairConfig, features: FrozenFeatures | None = None):
        super().__init__()
        check_knows_data(config)
        self.config = config
        self.cameras, self.codebook_size = config.cameras, config.codebook_size
        self.features = features or self.frozen_features(config)
        self.pixels = None
        if config.target == "pixels":
            self.pixels = FrozenFeatures("pixels", *self.sight(config), patch=self.config.decoder.patch)
        self.streams = 1 if config.streams == "control" else 2  # of latents
        queries, places = self.streams * config.tokens, len(config.cameras) * self.features.count
        self.numbers_per_frame = (queries + places) * config.width
        self.encoder = self.new_encoder(queries, places)
        self.any_grid = self.encoder.any_grid
        frozen = config.streams == "control+env"
        self.control = LatentStream(config, config.codebook_size, self.new_heads)
        self.env = LatentStream(config, config.env_codebook_size, self.new_heads, frozen) if self.streams == 2 else None
        self.decoder = self.new_decoder()
        self.decoder.requires_grad_(self.decodes)  # several processes would wait for its gradients

    @abstractmethod
    def new_encoder(self, queries: int, places: int) -> nn.Module:
        """Make the encoder of features [B, 2, N, D] to query tokens [B, queries, width]."""

    @abstractmethod
    def new_heads(self) -> list[nn.Module]:
        """Make what turns query tokens into latents: one module for all, or one for each."""

    @abstractmethod
    def new_decoder(self) -> nn.Module:
        """Make a decoder like this model's, with new weights."""

    @property
    def decodes(self) -> bool:
        """Return whether a loss uses what the decoder predicts; otherwise the decoder is not trained."""
        return self.config.loss.prediction > 0

    @property
    def base_model(self) -> str | None:
        found = re.fullmatch(r"(?:timm:hf-hub|hf):([\w.-]+/[\w.-]+)", self.config.features, re.ASCII)
        return found[1] if found and not Path(found[1]).exists() else None

    def summary(self) -> str:
        c = self.config
        blocks = f"{c.encoder.depth} + {c.decoder.depth} blocks of width {c.width}"
        return f"{super().summary()}, {blocks}, features {c.features}"

    def video_encoder(self) -> VideoEncoder:
        return torch_encoder(self.frame_features, self.encoder.for_videos())

    @torch.no_grad()
    def encode_features(
        self, features: Values, text: Values | None = None, text_mask: Values | None = None
    ) -> LatentActions:
        """Turn precomputed features [B, 2, V*N, D] into `LatentActions`.

        A stage-1 model also needs `text` [B, S, language_dim], vectors of the instruction's words, and may get
        `text_mask` [B, S] bool, which says where there is one.
        """
        found = self.checked_features(features)
        with self.inference():
            conditions = self._conditions(len(found), text, text_mask)
            return like(features, self.from_tokens(self.encoder(found, **conditions)))

    def _conditions(self, samples: int, text: Values | None, mask: Values | None) -> dict[str, Any]:
        """Return further inputs of encoder and decoder; none, but in a stage-1 model."""
        if text is not None:
            shape = list(as_tensor("text", text).shape)
            raise checks.LattokError(f"`text` {shape} was given, but this model does not read instructions.")
        return {}

    def trial(self) -> Trial | None:
        streams = [stream for stream in (self.control, self.env) if stream is not None]
        sizes = (self.config.codebook_size, self.config.env_codebook_size)
        return trial_of([each.quantizer for each in streams], self.config.tokens, sizes, self.control.levels)

    def from_tokens(self, tokens: Tensor) -> LatentActions:
        control, env = self._quantized(tokens)
        return self.control.public(control, self.env.public(env) if self.env and env else None)

    def forward(self, batch: PairBatch) -> LossTerms:
        """Return the loss terms of a batch that need no head of a learner; `config.loss_weights` weights them."""
        return self.learn(batch)[0]

    def learn(self, batch: PairBatch, perceptual: nn.Module | None = None) -> Learned:
        """Return the loss terms of a batch, and the latent actions of its pairs in both streams, with gradients.

        Pairs are all that training makes of each sample, those with the first frame before others. `perceptual`
        compares images, where the model predicts these.
        """
        if not isinstance(batch, PairBatch):
            hint = "Call lam.encode(frames) for latent actions, lam.predict(features, latents) for what comes next."
            checks.fail("batch", "a PairBatch to train on", type(batch).__name__, hint)
        features = self.frame_features(batch.frames) if batch.features is None else batch.features.float()
        pairs = self.pairs_of(features.shape[1])
        both = of_pairs(features, pairs)  # (b pairs) 2 n d
        conditions = self._conditions(len(features), batch.text, batch.text_mask)
        conditions = {name: each.repeated(len(pairs)) for name, each in conditions.items()}
        valid = None if batch.valid is None else batch.valid.repeat_interleave(len(pairs), 0)
        control, env = self._quantized(self.encoder(both, **conditions), valid)
        vectors = [stream.vectors for stream in (control, env) if stream is not None]
        terms = dict(control.losses) | self.predictions(batch, both, vectors, conditions, perceptual)
        terms.update({f"{name}_env": value for name, value in (env.losses if env else {}).items()})
        if self.config.loss.decorrelation > 0:
            terms["decorrelation"] = losses.decorrelation(control.latents)
        if self.config.loss.additivity > 0 and len(pairs) > 1:
            terms["additivity"] = losses.additivity(control.latents.unflatten(0, (-1, len(pairs))))
        return terms, control, env

    def predictions(
        self, batch: PairBatch, features: Tensor, vectors: Sequence[Tensor], conditions: dict[str, Any], perceptual: Any
    ) -> LossTerms:
        """Return the loss terms of the decoder's predictions from features [B * pairs, 2, N, D] and latent vectors."""
        if not self.config.loss.prediction:
            return {}
        return {"prediction": losses.prediction(self.decoder(features[:, 0], *vectors, **conditions), features[:, 1])}

    def predict(
        self, features: Tensor, latents: LatentActions, text: Values | None = None, text_mask: Values | None = None
    ) -> Tensor:
        """Predict the later frame [B, N, D] from the current one [B, N, D] and quantized latent actions: features, or
        pixels in patches, as `frame_targets` gives them.
        """
        here = self.features.mean
        latents, features = as_latents(latents), as_tensor("features", features)
        checks.rank("features", features, "B N D")
        vectors = [stream.quantized.to(here) for stream in (latents, latents.env) if stream is not None]
        return self.decoder(features.to(here), *vectors, **self._conditions(len(features), text, text_mask))

    def _quantized(self, tokens: Tensor, valid: Tensor | None = None) -> tuple[EncodedStream, EncodedStream | None]:
        """Split query tokens [B, queries, width] into control and environment streams."""
        count = self.config.tokens
        control = self.control(tokens[:, :count], valid=valid)
        if self.env is None:
            return control, None
        return control, self.env(tokens[:, count:], update=self.config.streams == "joint", valid=valid)

    def pairs_of(self, frames: int) -> list[list[int]]:
        """List the frames (i, j) that training makes latent actions of, the labelled pair first.

        Further futures are reached from the first frame; additivity also needs steps between. Two frames are one pair.
        """
        last = 1 + len(self.config.extra_strides)
        if frames == 2:
            return [[0, 1]]
        checks.size("frames", "frames per sample", frames, 1 + last)
        pairs = [[0, later] for later in range(1, last + 1)]
        steps = [[now, now + 1] for now in range(1, last)]
        return pairs + steps if self.config.loss.additivity > 0 else pairs


def of_pairs(frames: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """Put the frames [B, F, ...] of each pair together: [B * pairs, 2, ...]. A list as an index would go to the GPU."""
    return torch.stack([frames[:, i] for pair in pairs for i in pair], 1).unflatten(1, (len(pairs), 2)).flatten(0, 1)


class GapActionHead(nn.Module):
    """MLP to the actions of the gap (Eq. 14), from latents or codes (`action_head`); dropped at publication."""

    def __init__(self, config: TrainedPairConfig, action_dim: int):
        super().__init__()
        self.from_codes, self.steps = config.action.head == "codes", config.action.steps
        self.chunks = config.action.target == "chunk"
        inputs = config.latent_dim * (1 if self.from_codes else config.positions)
        self.normalizer = Normalizer(action_dim)
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, self.steps * action_dim))

    def forward(self, encoded: EncodedStream) -> Tensor:
        """Predict normalised actions [B, m], or [B, steps, m] for a chunk."""
        actions = self.net(encoded.vectors.mean(1) if self.from_codes else encoded.latents.flatten(1))
        return actions.unflatten(1, (self.steps, -1)) if self.chunks else actions


class FlowHead(nn.Module):
    """MLP from the vectors of the codes to the motion of every cell of the first frame, which it does not see.

    The decoder does see that frame, so its codes need not say what moved where. After LAOF (Bu et al., 2025), whose
    flow is a trained network's. With an environment stream it teaches that one: what moves beyond what control says.
    """

    def __init__(self, config: TrainedPairConfig):
        super().__init__()
        streams = 1 if config.streams == "control" else 2
        inputs, outputs = streams * config.positions * config.latent_dim, len(config.cameras) * 2 * losses.CELLS**2
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, outputs))

    def forward(self, control: EncodedStream, env: EncodedStream | None) -> Tensor:
        """Predict motion [B, V * 2 * cells], as `block_flow` gives it."""
        # an environment stream gets the gradient alone
        vectors = [control.vectors] if env is None else [control.vectors.detach(), env.vectors]
        return self.net(torch.cat(vectors, 1).flatten(1))


LAM = TypeVar("LAM", bound=TrainedPairModel)


class PairLearner(nn.Module, Generic[LAM]):
    """A model `lam` and its heads: of actions (Eq. 14), of motion, and the networks that compare images.

    It gives the loss terms of a batch; `lam.config.loss_weights` weights them. The model itself has no head.
    """

    def __init__(self, lam: LAM):
        super().__init__()
        self.lam: LAM = lam
        self.flow_head = FlowHead(lam.config) if lam.config.loss.flow > 0 else None
        self.action_head: GapActionHead | None = None
        self.perceptual: nn.Module | None = None

    def attach_action_head(self, actions: Tensor) -> None:
        """Add an action head with a normaliser fitted to `actions` [N, m] or [N, steps, m]."""
        self.action_head = GapActionHead(self.lam.config, actions.shape[-1])
        self.action_head.normalizer.fit(actions.flatten(0, -2))

    def open_perceptual(self) -> None:
        """Open the networks that compare predicted images, where a loss asks for that."""
        if self.lam.config.loss_weights.get("perceptual", 0.0) > 0:
            self.perceptual = losses.PerceptualLoss()

    def forward(self, batch: PairBatch) -> LossTerms:
        """Return the loss terms of a batch."""
        return self.learn(batch)[0]

    def learn(self, batch: PairBatch) -> tuple[LossTerms, EncodedStream]:
        """Return the loss terms of a batch, and its pairs' latent actions of the control stream, with gradients."""
        terms, control, env = self.lam.learn(batch, self.perceptual)
        pairs = self.lam.pairs_of(batch.frames.shape[1] if batch.features is None else batch.features.shape[1])
        if self.flow_head is not None:
            motion = losses.block_flow(of_pairs(batch.frames, pairs))
            terms["flow"] = losses.flow(self.flow_head(control, env), motion)
        if self.action_head is not None and batch.actions.shape[1]:
            first = EncodedStream(control.latents[:: len(pairs)], control.vectors[:: len(pairs)], control.codes, {})
            target = self.action_head.normalizer(batch.actions)
            terms["action"] = losses.action(self.action_head(first), target, batch.labelled, batch.acted)
        return terms, control
