"""Image latent action model of "From Pixels to Tokens" (Lin et al., 2026), appendix A.1, after UniVLA.

    latents = Encoder(features(o_t), features(o_{t+stride}))       c in R^{P x d}
    codes   = VQ(latents)                                          P codes of K
    features^(o_{t+stride}) = Decoder(features(o_t), codebook[codes])

Streams: `control`, and an environment stream next to it (`control+env` with a frozen codebook, `joint` from scratch).
Stage 1 learns that codebook: one stream, with the instruction's words next to the tokens (`language`).
With `target="pixels"` the decoder goes from the pixels of o_t to those of o_{t+stride} (Moto, LARA: sequence.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lattok.image_lam.base import losses
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import VideoEncoder, torch_encoder
from lattok.image_lam.base.mae import HELD
from lattok.image_lam.base.pair_model import PairModel
from lattok.image_lam.moto.sequence import PatchDecoder, SequenceEncoder
from lattok.image_lam.p2t.config import ImageLAMConfig
from lattok.image_lam.p2t.pair_encoders import pair_encoder
from lattok.image_lam.p2t.parts import (
    Decoder,
    Encoded,
    FlowHead,
    FusedEncoder,
    GapActionHead,
    LatentStream,
    SpaceTimeEncoder,
    Words,
)
from lattok.nn.quantize import VectorQuantizer
from lattok.types import LatentActions, LossTerms, PairBatch
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.checks import LattokError
from lattok.utils.options import check_knows_data

NOT_SAVED = ("action_head.", "flow_head.", "perceptual.")
ENCODERS = {"spacetime": SpaceTimeEncoder, "fused": FusedEncoder, "sequence": SequenceEncoder}


class ImageLAM(PairModel):
    """Latent actions of frame pairs: P codes that say what changed, as far as the current frame does not show it.

    >>> lam = ImageLAM.from_pretrained("org/name")          # or a folder
    >>> lam.encode(frames).codes                             # uint8 [B, 2, V, H, W, 3] -> int64 [B, P]
    """

    type = "image-lam"
    config_class = ImageLAMConfig

    def __init__(self, config: ImageLAMConfig, features: FrozenFeatures | None = None):
        super().__init__()
        check_knows_data(config)
        self.config = config
        self.cameras, self.language, self.codebook_size = config.cameras, config.language, config.codebook_size
        self.features = features or frozen_features(config)
        self.pixels = _seen_as(config, "pixels") if config.target == "pixels" else None
        places = len(config.cameras) * self.features.count
        streams = 1 if config.streams == "control" else 2
        self.encoder = ENCODERS[config.encoder](config, streams * config.tokens, self.features.dim, places)
        frozen = config.streams == "control+env"
        self.control = LatentStream(config, config.codebook_size)
        self.env = LatentStream(config, config.env_codebook_size, frozen) if streams == 2 else None
        self.decoder = self.new_decoder()
        self.feature_decoder: PatchDecoder | None = None
        if config.feature_weight > 0:
            self.feature_decoder = PatchDecoder(config.of_features, streams, self.features.dim, places)
        self.language_up = None if config.language is None else nn.Linear(config.language_dim, config.width)
        self.action_head: GapActionHead | None = None
        self.flow_head = FlowHead(config) if config.flow_weight > 0 else None
        self.perceptual: nn.Module | None = None
        if frozen and self.env is not None:
            self.env.quantizer.requires_grad_(False)  # stage 1 taught it; only the encoder still learns

    @classmethod
    def opened(cls, config: ImageLAMConfig, folder: Path, backbone: Any = None) -> tuple[Any, dict[str, Any]]:
        """Build the frozen features, unless the artefact holds them."""
        super().opened(config, folder, backbone)
        return config, {} if config.features.startswith(HELD) else {"features": frozen_features(config)}

    @property
    def base_model(self) -> str | None:
        """Return the Hub id of its features' network."""
        found = re.fullmatch(r"(?:timm:hf-hub|hf):([\w.-]+/[\w.-]+)", self.config.features, re.ASCII)
        return found[1] if found and not Path(found[1]).exists() else None

    def summary(self) -> str:
        config, stage = self.config, "" if self.config.language is None else "stage 1, "
        if self.env is not None:
            stage = f"stage 2, {config.env_codebook_size} codes of the environment, "
        head = "" if self.action_head is None else ", an action head that is not saved"
        blocks = f"{config.encoder_depth} + {config.decoder_depth} blocks of width {config.width}"
        return f"{stage}{super().summary()}, {blocks}, features {config.features}{head}"

    def next_step(self, name: str) -> str:
        if self.config.language is None:
            return super().next_step(name)
        command = f"lattok train image-lam DATASET --out DIR --stage 2 --env-codebook {shlex.quote(name)}"
        return f"Learn stage 2 with its codebook: {command}"  # which needs instructions, and videos hold none

    @property
    def numbers_per_frame(self) -> int:
        """Count those of a layer: all tokens, each as wide as the model."""
        config = self.config
        tokens = len(self.cameras) * self.features.count + config.tokens * (1 if self.env is None else 2)
        return tokens * config.width

    def video_encoder(self) -> VideoEncoder:
        """Return torch's encoder in float32."""
        return torch_encoder(self.frame_features, pair_encoder(self.encoder))

    def fresh(self) -> ImageLAM:
        """Make a model of the same configuration with random weights; the frozen features are shared."""
        made = ImageLAM(self.config)
        made.features = self.features
        return made

    def attach_action_head(self, actions: Tensor) -> None:
        """Add an action head, for training only, with a normaliser fitted to `actions` [N, m] or [N, steps, m]."""
        self.action_head = GapActionHead(self.config, actions.shape[-1])
        self.action_head.normalizer.fit(actions.flatten(0, -2))

    def take_environment(self, stage1: ImageLAM) -> None:
        """Take codebook and queries of a stage-1 model for the environment stream of `control+env`."""
        for name in ("features", "quantizer"):
            ours, theirs = getattr(self.config, name), getattr(stage1.config, name)
            if ours != theirs:
                checks.fail("env_codebook", f"{name} {ours!r}", repr(theirs))
        self.set_env_codebook(_codebook(stage1.control))
        queries, count = stage1.encoder.queries, self.config.tokens
        if queries.shape == self.encoder.queries[count:].shape:  # as UniVLA starts its stage 2
            with torch.no_grad():
                self.encoder.queries[count:] = queries

    @torch.no_grad()
    def set_env_codebook(self, levels: Sequence[Tensor]) -> None:
        """Copy the stage-1 codebook, [K, d] for each level, that `control+env` keeps frozen."""
        if self.config.streams != "control+env" or self.env is None:
            raise LattokError(f"`env_codebook` needs streams=control+env, got {self.config.streams}.")
        wanted = _codebook(self.env)
        shapes, given = [list(w.shape) for w in wanted], [list(level.shape) for level in levels]
        if shapes != given:
            checks.fail("env_codebook", f"levels of shape {shapes}", f"{given}")
        for target, level in zip(wanted, levels, strict=True):
            target.copy_(level)

    @torch.no_grad()
    def encode_pixels(self, pixels: Values) -> LatentActions:
        """Turn frame pairs as normalised pixels [B, 2, 3, H, W], of several cameras [B, 2, V, 3, H, W], into
        `LatentActions`: `encode` without resizing frames to the model's size and normalising them.

        Arrays in, arrays out.
        """
        given, pixels = pixels, as_tensor("pixels", pixels)
        if pixels.ndim == 5 and len(self.cameras) == 1:
            pixels = pixels[:, :, None]
        checks.rank("pixels", pixels, "B 2 V 3 H W")
        side, views = self.features.image_size, len(self.cameras)
        if pixels.shape[1:] != (2, views, 3, side, side) or not pixels.is_floating_point():
            expected = f"normalised floats of shape [B, 2, {views}, 3, {side}, {side}]"
            hint = "encode takes uint8 frames of any size."
            checks.fail("pixels", expected, f"{pixels.dtype} of shape {list(pixels.shape)}", hint)
        patches = self.features.of_pixels(pixels.to(self.features.mean).flatten(0, 2).movedim(1, -1))
        return like(given, self.encode_features(patches.reshape(len(pixels), 2, -1, self.features.dim)))

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
        given, features = features, as_tensor("features", features)
        text = None if text is None else as_tensor("text", text)
        text_mask = None if text_mask is None else as_tensor("text_mask", text_mask)
        checks.rank("features", features, "B 2 N D")
        checks.size("features", "frames per sample", features.shape[1], 2)
        checks.size("features", f"channels, as {self.config.features} has", features.shape[3], self.features.dim)
        if not isinstance(self.encoder, SpaceTimeEncoder):
            places = len(self.cameras) * self.features.count
            checks.size("features", "patches, whose places were learned", features.shape[2], places)
        with self._inference():
            words = self._words(len(features), text, text_mask)
            return like(given, self.from_tokens(self.encoder(features.to(self.features.mean), words)))

    def from_tokens(self, tokens: Tensor) -> LatentActions:
        """Turn the encoder's query tokens [B, queries, width] into `LatentActions`."""
        control, env = self._quantized(tokens)
        return self.control.public(control, self.env.public(env) if self.env and env else None)

    @torch.no_grad()
    def frame_targets(self, frames: Tensor) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into what the decoder predicts: features, or pixels in patches [..., V*N, D]."""
        return self.frame_features(frames) if self.pixels is None else self._seen_by(self.pixels, frames)

    @torch.no_grad()
    def features_of(self, targets: Tensor) -> Tensor:
        """Turn what the decoder predicts [B, V*N, D] into features, as `frame_features` gives them."""
        if self.pixels is None:
            return targets
        images = self.pixels.pixels_of(targets.reshape(-1, self.pixels.count, self.pixels.dim))
        return self.features.of_pixels(images).reshape(len(targets), -1, self.features.dim)

    def new_decoder(self) -> Decoder | PatchDecoder:
        """Make a decoder as this model has one, with fresh weights."""
        decoder, seen = (Decoder, self.features) if self.pixels is None else (PatchDecoder, self.pixels)
        streams = 1 if self.config.streams == "control" else 2
        return decoder(self.config, streams, seen.dim, len(self.cameras) * seen.count)

    def forward(self, batch: PairBatch) -> LossTerms:
        """Return the loss terms of a batch; `config.loss_weights` weights them."""
        return self.learn(batch)[0]

    def learn(self, batch: PairBatch) -> tuple[LossTerms, Encoded]:
        """Return the loss terms of a batch, and what its pairs became in the control stream, with gradients.

        Of each sample all pairs that training makes, the first frame with each later one before others.
        """
        if not isinstance(batch, PairBatch):
            hint = "Call lam.encode(frames) for latent actions, lam.predict(features, latents) for what comes next."
            checks.fail("batch", "a PairBatch to train on", type(batch).__name__, hint)
        features = self.frame_features(batch.frames) if batch.features is None else batch.features.float()
        words = self._words(len(features), batch.text, batch.text_mask)
        pairs = self._pairs(features.shape[1])
        both = _of_pairs(features, pairs)  # (b pairs) 2 n d
        if words is not None:
            words = Words(*(part.repeat_interleave(len(pairs), 0) for part in words))
        valid = None if batch.valid is None else batch.valid.repeat_interleave(len(pairs), 0)
        control, env = self._quantized(self.encoder(both, words), valid)
        vectors = [stream.vectors for stream in (control, env) if stream is not None]
        terms = dict(control.losses)
        seen = both if self.pixels is None else _of_pairs(self.frame_targets(batch.frames), pairs)
        if self.config.prediction_weight > 0 or self.perceptual is not None:
            predicted = self.decoder(seen[:, 0], *vectors, words=words)
            terms["prediction"] = losses.prediction(predicted, seen[:, 1])
            if self.perceptual is not None:
                terms["perceptual"] = self.perceptual(*(self._shown(patches) for patches in (predicted, seen[:, 1])))
        if self.feature_decoder is not None:
            terms["features"] = losses.prediction(self.feature_decoder(both[:, 0], *vectors, words=words), both[:, 1])
        terms.update({f"{name}_env": value for name, value in (env.losses if env else {}).items()})
        if self.config.decorrelation_weight > 0:
            terms["decorrelation"] = losses.decorrelation(control.latents)
        if self.config.additivity_weight > 0 and len(pairs) > 1:
            terms["additivity"] = losses.additivity(control.latents.unflatten(0, (-1, len(pairs))), pairs)
        if self.flow_head is not None:
            motion = losses.block_flow(_of_pairs(batch.frames, pairs))
            terms["flow"] = losses.flow(self.flow_head(control, env), motion)
        if self.action_head is not None and batch.actions.shape[1]:
            first = Encoded(control.latents[:: len(pairs)], control.vectors[:: len(pairs)], control.codes, {})
            target = self.action_head.normalizer(batch.actions)
            terms["action"] = losses.action(self.action_head(first), target, batch.labelled)
        return terms, control

    def _shown(self, patches: Tensor) -> Tensor:
        """Turn patches of pixels [B, V*N, D] into images [B*V, 3, H, W], 0 black and 1 white."""
        assert self.pixels is not None
        images = self.pixels.pixels_of(patches.reshape(-1, self.pixels.count, self.pixels.dim))
        return (images * self.pixels.std + self.pixels.mean).movedim(-1, 1)

    def predict(
        self,
        features: Tensor,
        latents: LatentActions,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict features of the later frame [B, N, D] from current ones [B, N, D] and quantized latent actions.

        With target="pixels" these are pixels in patches, as `frame_targets` gives them.
        """
        vectors = [s.quantized for s in (latents, latents.env) if s is not None]
        return self.decoder(features, *vectors, words=self._words(len(features), text, text_mask))

    def saved_tensors(self) -> dict[str, Tensor]:
        """Leave out frozen features that the config names, and the heads that only training needs."""
        left_out = NOT_SAVED if self.features.held else (*NOT_SAVED, "features.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(left_out)}

    def _quantized(self, tokens: Tensor, valid: Tensor | None = None) -> tuple[Encoded, Encoded | None]:
        """Split query tokens [B, queries, width] into control and environment streams."""
        count = self.config.tokens
        control = self.control(tokens[:, :count], valid=valid)
        if self.env is None:
            return control, None
        return control, self.env(tokens[:, count:], update=self.config.streams == "joint", valid=valid)

    def _words(self, samples: int, text: Tensor | None, mask: Tensor | None) -> Words | None:
        """Turn vectors of the instruction's words [samples, S, language_dim] into tokens, which stage 1 needs."""
        if self.language_up is None:
            if text is not None:
                raise LattokError(f"`text` {list(text.shape)} was given, but this model does not read instructions.")
            return None
        if text is None:
            checks.fail("text", f"vectors [B, S, {self.config.language_dim}]: this is a stage-1 model", "none")
        checks.rank("text", text, "B S D")
        checks.size("text", "samples, as there are of frames", len(text), samples)
        checks.size("text", "channels", text.shape[2], self.config.language_dim)
        text = text.to(self.features.mean)
        mask = torch.ones_like(text[..., 0]) if mask is None else mask.to(text.device)
        if mask.shape != text.shape[:2]:
            checks.fail("text_mask", f"shape {list(text.shape[:2])}", f"{list(mask.shape)}")
        return Words(self.language_up(text), mask.bool())

    def _pairs(self, frames: int) -> list[list[int]]:
        """List the frames (i, j) that training makes latent actions of, the labelled pair first.

        Further futures are reached from the first frame; additivity also needs the steps between them. Samples of two
        frames are pairs and no more.
        """
        last = 1 + len(self.config.extra_strides)
        if frames == 2:
            return [[0, 1]]
        checks.size("frames", "frames per sample", frames, 1 + last)
        pairs = [[0, later] for later in range(1, last + 1)]
        steps = [[now, now + 1] for now in range(1, last)]
        return pairs + steps if self.config.additivity_weight > 0 else pairs


def _of_pairs(frames: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """Put the frames [B, F, ...] of each pair together: [B * pairs, 2, ...]. A list as an index would go to the GPU."""
    chosen = torch.stack([frames[:, i] for pair in pairs for i in pair], 1)
    return chosen.unflatten(1, (len(pairs), 2)).flatten(0, 1)


def frozen_features(config: ImageLAMConfig) -> FrozenFeatures:
    """Build the frozen features that a configuration names, without their weights."""
    return _seen_as(config, config.features, revision=config.features_revision, class_token=config.class_token)


def _seen_as(config: ImageLAMConfig, name: str, **options: Any) -> FrozenFeatures:
    """Look at frames of the model's size and normalisation in the way of this name."""
    scaling = (config.mean, config.std, config.interpolation)
    return FrozenFeatures(name, config.image_size, *scaling, patch=config.pixel_patch, **options)


def _codebook(stream: LatentStream) -> list[Tensor]:
    """Return the codebook of each level; an environment stream always has one."""
    if not isinstance(stream.quantizer, VectorQuantizer):
        checks.fail("env_codebook", "a model with quantizer vq or residual", stream.config.quantizer)
    return stream.quantizer.codebook_vectors
