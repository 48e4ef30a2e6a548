"""Latent action model of LatBot (Li et al., 2025): a clip and its instruction to latents of scene and motion.

    Z_sce, Z_mot = f_vlm(V_{t:t+k}, l)                                       Eq. 1
    V_{t+k}, A_{t:t+k} = Decoder(Z_sce, Z_mot, V_t)                          flow matching: decoder.py

The paper leaves losses, weights and sizes of the decoder open; `docs/decisions/clips.md` has what stands here for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from lattok.backbones import Backbone
from lattok.backbones.model import BackboneModel, open_backbone
from lattok.data.pixels import resize_pixels
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import Video, VideoEncoder, block_size, of_cameras, query_tokens
from lattok.image_lam.base.losses import separation
from lattok.image_lam.base.pair_model import FrozenFeaturesModel
from lattok.image_lam.base.video_file import Files, are_files, label_files
from lattok.image_lam.clips.config import ClipLAMConfig
from lattok.image_lam.clips.decoder import Pair, SanaDecoder, UnifiedDecoder
from lattok.nn.blocks import onto
from lattok.nn.losses import action_loss, draw_flow, numbers, of_share
from lattok.nn.normalize import DatasetNormalizers, Normalizer, OfDatasets
from lattok.types import Gap, LatentActions, LossTerms, PolicyBatch, join
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.options import check_knows_data
from lattok.utils.untrusted import plain_format

MIN_SAMPLES = 3  # samples at once; any two correlate fully
MIN_CHANGE = 1e-3  # the least mean squared change of a frame that an error is divided by


class ClipLAM(OfDatasets, FrozenFeaturesModel, BackboneModel):
    """Latent actions of clips: what the robot does (`latents`) and what changes around it (`env`), continuous.

    >>> lam = ClipLAM.from_pretrained("org/name")             # or a folder
    >>> lam.encode(clips, ["close the drawer"]).latents       # uint8 [B, k, V, H, W, 3] -> [B, motion_tokens, d]
    """

    type = "clip-lam"
    arxiv = "2511.23034"
    config_class = ClipLAMConfig
    config: ClipLAMConfig
    reads_task = True
    pixels = None  # what is predicted is what the features are

    def __init__(self, config: ClipLAMConfig, backbone: Backbone, features: FrozenFeatures | None = None):
        super().__init__()
        check_knows_data(config)
        self.config, self.cameras = config, config.cameras
        base = config.backbone
        backbone.adapt(base.train, base.lora, base.gradient_checkpointing)
        self.backbone = backbone
        width, count = backbone.hidden_size, config.scene_tokens + config.motion_tokens
        self.queries = nn.Parameter(backbone.embedding_rms * torch.randn(count, width))
        self.env = True if config.scene_tokens else None  # whether there is a stream of the scene
        self.scene_head = nn.Linear(width, config.latent_dim) if self.env else None
        self.motion_head = nn.Linear(width, config.latent_dim)
        self.features = features or self.frozen_features(config)
        places = len(config.cameras) * self.features.count
        self.decoder = (SanaDecoder if config.decoder.sana else UnifiedDecoder)(config, self.features.dim, places)
        fresh = partial(Normalizer, config.action_dim, config.action_clipped)
        self.use_normalizers(fresh())  # changes nothing in a mixture, whose batches come normalised
        self.normalizers = DatasetNormalizers(config.normalizers, fresh, "model")

    @classmethod
    def frozen_features(cls, config: ClipLAMConfig) -> FrozenFeatures:
        """Build the frozen latent space of the predicted frame, without its weights."""
        of, scaling = config.features, (config.mean, config.std, config.interpolation)
        return FrozenFeatures(of.name, of.size, *scaling, of.revision, patch=of.patch)

    @property
    def datasets(self) -> tuple[str, ...]:
        """None: labels are the same for all of them. `for_dataset` chooses for `generate` alone."""
        return ()

    def use_normalizers(self, maps: Normalizer) -> None:
        self.action_normalizer = maps

    def choose(self, name: str) -> None:
        self.config = replace(self.config, normalizers=())
        self.use_normalizers(self.normalizers.of(name))
        self.normalizers = self.normalizers.only()

    def usage(self) -> list[str]:
        label = f'labels = model.label_video(video, fps={self.rate()}, task="what the robot does")'
        return self.usage_of(f"{label}  # .latents float32 [T, P, d]")

    def check_rate(self, fps: float) -> None:
        """Refuse a rate at which the stride has too few frames for a clip."""
        self.config.gaps(self.stride_frames(fps))

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return self._resized(torch.from_numpy(frames)).numpy()

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """Return the terms "frame" and "action", and "separation" where that has a weight.

        These are squared errors of velocities. If the decoder predicts the frame or its change, "frame" is its error
        divided by that of copying the first frame. The error of a velocity would be largest at late times, when the
        frame shows through the noise and latents are hardly needed. `batch.later` holds all frames of the clips but the
        first. If the actions of a sample are not known, or its episode has ended, only the frame counts; dimensions
        that a robot lacks are masked in input and loss.
        """
        device = self.queries.device
        batch = onto(batch, device)
        clips, valid = _clips(batch), batch.valid
        inputs = self._inputs(clips, batch.texts) if batch.inputs is None else batch.inputs
        scene, motion = self._latents(inputs, len(clips))
        now, later = self.frame_features(clips[:, :: clips.shape[1] - 1]).unbind(1)
        actions = self.action_normalizer(batch.actions).masked_fill(~numbers(batch.judged), 0.0)
        noise, times = batch.draws or draw_flow(actions.shape, device=device)
        noise = noise if batch.known is None else noise.masked_fill(~batch.known[:, None], 0.0)
        frame_noise, share = torch.randn_like(later), times[:, None, None]
        x, y = (1 - share) * frame_noise + share * later, (1 - share) * noise + share * actions
        known = valid & (self.config.action_weight > 0)  # the frame would hear of others through the exchange
        frame, chunk = self.decoder(x, y, times, (scene if self.env else motion, motion), now, known)
        errors = {"action": action_loss(chunk, actions - noise, batch.judged)}
        missed = frame.float() - (later - frame_noise)
        terms = {"frame": missed.square().mean()}
        if self.config.decoder.output != "velocity":  # 1 - t times its error is the frame's, until `MIN_TIME_LEFT`
            copied = (later - now).float().square().mean().clamp_min(MIN_CHANGE)
            terms["frame"] = ((1 - share) * missed).square().mean() / copied
        if self.config.separation_weight > 0:
            if len(scene) < MIN_SAMPLES:
                got = f"{len(scene)}, a process's part of a batch"
                checks.fail("batch_size", f"at least {MIN_SAMPLES} samples at once with separation_weight", got)
            terms["separation"] = separation(scene, motion.detach())
        return terms | of_share(errors, valid, batch.shares.acted)

    def latents(self, clips: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Turn clips uint8 [B, k, V, H, W, 3] and B instructions into latents of scene and motion, [B, p, d] each."""
        return self._latents(self._inputs(clips, texts), len(clips))

    def prepared(self, batch: PolicyBatch) -> PolicyBatch:
        """Return a batch with the backbone's inputs, made of its clips and prompts without any weights."""
        return batch._replace(inputs=self._inputs(_clips(batch), batch.texts))

    def _inputs(self, clips: Tensor, texts: Sequence[str]) -> Mapping[str, Any]:
        prompts = [plain_format(self.config.prompt, task=text.strip()) for text in texts]
        return self.backbone.prepare(self._resized(clips).flatten(1, 2), prompts)

    def _latents(self, inputs: Mapping[str, Any], count: int) -> tuple[Tensor, Tensor]:
        config, last = self.config, self.backbone.num_layers
        out = self.backbone(inputs, self.queries.expand(count, -1, -1), [last])
        states = out.hidden[last][:, out.queries].to(self.queries.dtype)
        scene, motion = states.split([config.scene_tokens, config.motion_tokens], 1)
        motion = self.motion_head(motion).float()
        scene = motion[:, :0] if self.scene_head is None else self.scene_head(scene).float()
        if config.latent_norm == "layer":
            scene, motion = (F.layer_norm(part, (config.latent_dim,)) for part in (scene, motion))
        return scene, motion

    @torch.no_grad()
    def encode(self, clips: Values, texts: str | Sequence[str] = "") -> LatentActions:
        """Turn clips uint8 [B, k, V, H, W, 3] and instructions into `LatentActions`; motion, with the scene as `env`
        where it has tokens. V may be left out with one camera; one text is used for all. Arrays in, arrays out."""
        found = of_cameras("clips", as_tensor("clips", clips), "B k V H W 3", self.cameras)
        checks.size("clips", "frames per sample", found.shape[1], self.config.frames)
        texts = [texts] * len(found) if isinstance(texts, str) else texts
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            checks.fail("texts", "an instruction, or a list of them", f"{texts!r:.60}")
        checks.size("texts", "instructions, one for each clip", len(texts), len(found))
        with self.inference():
            return like(clips, self._public(*self.latents(found.to(self.queries.device), texts)))

    @torch.no_grad()
    def label_video(
        self, frames: Video | Files, stride: Gap = None, task: str | Sequence[str] = "", *, fps: float | None = None
    ) -> LatentActions:
        """Turn video uint8 [T, V, H, W, 3] into T latent actions of the clips from t to min(t + stride, T - 1).

        `stride` is a number of frames, or seconds ("0.2s") of a video at `fps`; left out: the model's own. `task`: an
        instruction, or T of them; a clip has that of its first frame.
        V may be left out when there is one camera; arrays in, arrays out. The video may also come in pieces, in order.
        Clips are computed in blocks from frame 0, so that labels do not depend on the pieces. A video file, or one for
        each camera, gives arrays; `fps` is its rate where the file does not tell.
        """
        if are_files(frames):
            return label_files(self, frames, stride, fps, task=task)
        stride = checks.gap(stride, fps, self.config.stride)
        tasks = [task] if isinstance(task, str) else task
        if not isinstance(tasks, list | tuple) or not all(isinstance(text, str) for text in tasks):
            checks.fail("task", "an instruction, or a list of them", f"{task!r:.60}")
        told = repeat(task) if isinstance(task, str) else iter(tasks)
        gaps, config = self.config.gaps(stride), self.config
        patches = (config.image_size // config.backbone.patch_size) ** 2
        numbers_of_a_clip = config.frames * len(self.cameras) * patches * config.backbone.width
        size = block_size(numbers_of_a_clip, self.queries.device)

        def tokens(*moments: Tensor) -> Tensor:
            clips = torch.stack(moments, 1).to(self.queries.device)
            texts = list(islice(told, len(clips)))  # blocks come in the order of frames
            if len(texts) < len(clips):
                checks.fail("task", "an instruction for each frame, or one for all", f"{len(tasks)} for more frames")
            return torch.cat(self.latents(clips, texts), 1)

        with self.inference():
            found = query_tokens(VideoEncoder(self._resized, tokens), frames, self.cameras, gaps, size)
            parts = [self._public(*part.split([config.scene_tokens, config.motion_tokens], 1)) for part in found]
        labels = join(parts)
        if not isinstance(task, str):
            checks.size("task", "instructions, as there are frames", len(tasks), len(labels.latents))
        return like(frames, labels.of_video(stride, fps))

    @torch.no_grad()
    def predict(self, now: Tensor, latents: LatentActions) -> Tensor:
        """Predict patches of the last frame [B, V*N, D] from those of the first: their mean, in one step from noise."""
        frame, chunk, _ = self._noise(len(now), seed=0)
        with self.inference():
            return frame + self._velocity(frame, chunk, chunk.new_zeros(len(now)), now.to(frame), latents)[0]

    @torch.no_grad()
    def generate(
        self, frames: Values, latents: LatentActions, seed: int = 0, known: Values | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw patches of the last frame [B, V*N, D] and actions [B, H, m] in physical units, from frames uint8
        [B, V, H, W, 3] and latent actions, by Euler's method from noise of `seed`. Arrays in, arrays out.

        `known` [m] bool: dimensions that the robot has; others are 0. By default all that any dataset had. Of several
        datasets `for_dataset` has to choose one first, whose units the actions are in.
        """
        self.normalizers.check_chosen()
        first = of_cameras("frames", as_tensor("frames", frames), "B V H W 3", self.cameras)
        latents = self._checked(latents, len(first))
        now = self._resized(first.to(self.queries.device))  # as frames are that it learns from
        steps = self.config.decoder.flow_steps
        x, y, there = self._noise(len(now), seed, known)
        with self.inference():
            now = self.frame_features(now)
            for step in range(steps):
                frame, chunk = self._velocity(x, y, y.new_full((len(y),), step / steps), now, latents)
                x, y = x + frame / steps, y + (chunk / steps).masked_fill(~there, 0.0)
        return like(frames, (x, self.action_normalizer.inverse(y).masked_fill(~there, 0.0)))

    def fresh(self, config: ClipLAMConfig | None = None) -> Self:
        """Make a model of the same or another configuration with random weights; the frozen latent space is shared."""
        config = config or self.config
        return type(self)(config, open_backbone(config, self.folder), self.features)

    def _checked(self, latents: LatentActions, count: int) -> LatentActions:
        """Return what `encode` gave for `count` samples, arrays or tensors, as tensors."""
        which = ("of motion alone", "of motion and scene")
        if not isinstance(latents, LatentActions) or (latents.env is None) == bool(self.env):
            got = type(latents).__name__ if not isinstance(latents, LatentActions) else f"those {which[not self.env]}"
            checks.fail("latents", f"what `encode` gives, {which[bool(self.env)]}", got)
        config = self.config

        def sized(name: str, stream: LatentActions, tokens: int) -> LatentActions:
            quantized, expected = as_tensor(name, stream.quantized), [count, tokens, config.latent_dim]
            if list(quantized.shape) != expected:
                checks.fail(name, f"shape {expected}, as this model's of {count} frames", f"{list(quantized.shape)}")
            return replace(stream, quantized=quantized.to(self.queries.device))

        found, env = sized("latents", latents, config.motion_tokens), latents.env
        return found if env is None else replace(found, env=sized("latents.env", env, config.scene_tokens))

    def _noise(self, count: int, seed: int, known: Values | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise of patches and actions, and which action dimensions there are, bool [m]."""
        config = self.config
        if known is None:
            known = torch.tensor([dim not in config.absent for dim in range(config.action_dim)])
        known = as_tensor("known", known)
        checks.rank("known", known, "m")
        checks.size("known", "action dimensions", len(known), config.action_dim)
        if known.dtype != torch.bool:
            checks.fail("known", "true or false for each action dimension", f"dtype {known.dtype}")
        checks.whole(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        patches = torch.randn(count, len(self.cameras) * self.features.count, self.features.dim, generator=generator)
        actions = torch.randn(count, config.horizon, config.action_dim, generator=generator)
        actions = actions.masked_fill(~known.cpu(), 0.0)
        return patches.to(self.queries.device), actions.to(self.queries.device), known.to(self.queries.device)

    def _velocity(self, x: Tensor, y: Tensor, times: Tensor, now: Tensor, latents: LatentActions) -> Pair:
        scene = latents if latents.env is None else latents.env
        pair = tuple(part.quantized.to(now.device) for part in (scene, latents))
        known = None if self.config.action_weight else torch.zeros(y.shape[:2], dtype=torch.bool, device=y.device)
        return self.decoder(x, y, times, pair, now, known)

    def _resized(self, frames: Tensor) -> Tensor:
        return resize_pixels(frames, self.config.image_size, self.config.interpolation)

    def _public(self, scene: Tensor, motion: Tensor) -> LatentActions:
        return LatentActions.of_latents(motion, LatentActions.of_latents(scene) if self.env else None)


def _clips(batch: PolicyBatch) -> Tensor:
    """Return the clips of a batch, uint8 [B, k, V, H, W, 3]."""
    if not isinstance(batch, PolicyBatch) or batch.later is None:
        hint = "Call lam.encode(clips, texts) for latent actions."
        checks.fail("batch", "a PolicyBatch with later frames", type(batch).__name__, hint)
    return torch.cat([batch.images[:, None], batch.later], 1)
