"""Recipe of LatBot's latent action model, which learns from clips and their instructions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from lattok.backbones.model import with_base
from lattok.data import RobotDataset, camera_keys, select_episodes
from lattok.data.alike import same_actions
from lattok.data.episodes import check_horizon, check_strides_in
from lattok.data.opening import same_cameras
from lattok.hub.weights import from_anywhere
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.image_lam.clips.decoder import PREFIX, SanaDecoder, open_sana, sizes_of
from lattok.recipes.common import ADAMW, FROM_NOTHING, LATBOT_RATE, QUANTILES, Recipe
from lattok.recipes.policy_data import batch_options
from lattok.recipes.policy_options import ActedOptions
from lattok.recipes.run_folder import finish
from lattok.samples.batches import PolicyBatches
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, WindowOptions
from lattok.training import CHECKPOINT, RUN, fit
from lattok.utils import checks

FULL: dict[str, Any] = {
    **QUANTILES,
    **LATBOT_RATE,
    **ADAMW,
    "steps": 100_000,
    "batch_size": 512,
    "log_every": 100,
    "backbone_train": "all_but_vision",
    "backbone_lora_projector": True,  # where backbone_train=lora is chosen
}
TINY: dict[str, Any] = {
    **FROM_NOTHING,
    "frames": 4,
    "stride": "0.2s",
    "scene_tokens": 4,
    "motion_tokens": 4,
    "latent_dim": 32,
    "features_size": 64,
    "decoder_width": 128,
    "decoder_depth": 3,
    "decoder_heads": 4,
    "separation_weight": 0.02,  # 0.1 drives where objects are out of the scene as well
    "steps": 1500,
    "batch_size": 32,
    "lr": 1e-3,
}


@dataclass(frozen=True)
class ClipOptions(ActedOptions):
    """What a model of clips learns from.

    Attributes:
        horizon: actions that are decoded, from the first frame on (default: one for each step of the clip)
    """

    horizon: int | None = None


@dataclass(frozen=True)
class ClipLAMRecipe(Recipe[ClipLAM]):
    """Train LatBot's latent action model of clips with instructions.

    - `full`: the paper's numbers, except the number of steps, which it does not give
    - `tiny`: a small one from random weights, on two cores
    """

    kind = "clip-lam"
    judged_by_actions = False
    data: ClipOptions = field(default_factory=ClipOptions)
    model: ClipLAMConfig = field(default_factory=ClipLAMConfig)
    common = ("backbone", "frames", "stride", "horizon", "cameras", "decoder_exchange", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny"}
    small = "tiny"
    default_preset = "full"
    presets: ClassVar[Mapping[str, Any]] = {"full": FULL, "tiny": TINY}

    def train(self, resume: bool = False, resume_command: str = "") -> ClipLAM:
        out, sources, data = self.folder(resume), self.open(), self.data
        datasets = [source.dataset for source in sources]
        cameras = camera_keys(datasets[0], data.cameras)
        views = [cameras, *(same_cameras(dataset, cameras) for dataset in datasets[1:])]
        torch.manual_seed(self.loop.seed)
        model = ClipLAM(*with_base(self._config(datasets, cameras)))
        parts = [self._windows(model, *each) for each in zip(datasets, views, strict=True)]
        maps: Any = model.normalizers if model.config.normalizers else [model.action_normalizer]
        for part, normalizer in zip(parts, maps, strict=True):
            normalizer.fit(part.known_actions, model.config.action_kinds)
        weights, named = [source.weight for source in sources], [{"action": normalizer} for normalizer in maps]
        samples = MixedPolicyWindows(parts, weights, named) if len(parts) > 1 else parts[0]
        revision = model.config.backbone.revision
        inputs = {"backbone": revision} if revision else {}
        with self.begin(resume, sources, inputs, resume_command) as contents:
            model.features.load()
            if isinstance(model.decoder, SanaDecoder) and not (resume and (out / RUN / CHECKPOINT).is_file()):
                model.decoder.load(model.config.decoder.name)
            model.trained_on = self.trained_on(sources, self.loop.batch_size, contents)
            drawn = batch_options(data, self.loop, samples, model.config.image_size)
            drawn = replace(drawn, acted_share=data.acted_share, flows=True)
            batches = PolicyBatches(samples, drawn, prepared=model.prepared)
            weights = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            return finish({"": model}, out)[""]

    def _config(self, datasets: Sequence[RobotDataset], cameras: tuple[str, ...]) -> ClipLAMConfig:
        chosen, key, horizon = self.options(), self.data.action_key, self.data.horizon
        names = same_actions(datasets, key)
        strides = [checks.stride_in_frames(chosen["stride"], dataset.fps) for dataset in datasets]
        for dataset, stride in zip(datasets, strides, strict=True):
            check_strides_in(dataset, self.data.episodes, [stride])
        mean, std = known_scaling(chosen["features"], chosen["features_size"], chosen["features_revision"])
        if horizon is None:
            steps = set(strides)
            if len(steps) > 1:
                got = f"{chosen['stride']}, which is {checks.listed(map(str, sorted(steps)))} steps"
                checks.fail("horizon", "a number of actions for datasets whose clips differ in steps", got)
            horizon = steps.pop()
        absent = sorted(set.intersection(*(set(dataset.absent.get(key, ())) for dataset in datasets)))
        known: dict[str, Any] = {"cameras": cameras, "action_dim": len(names), "action_names": names}
        known |= {"absent": tuple(absent), "action_key": key, "horizon": horizon}
        known["normalizers"] = tuple(dataset.name for dataset in datasets) if len(datasets) > 1 else ()
        if chosen["decoder"].startswith(PREFIX):
            known["decoder_sana"] = sizes_of(open_sana(chosen["decoder"]))
        return self.config(**known, features=from_anywhere(chosen["features"]), mean=mean, std=std)

    def _windows(self, model: ClipLAM, dataset: RobotDataset, cameras: tuple[str, ...]) -> PolicyWindows:
        """Return every clip of a dataset, without its frames, with the instruction and the actions."""
        data, config = self.data, model.config
        check_horizon(config.horizon, select_episodes(dataset, data.episodes))
        where = f" in {dataset.name}" if config.normalizers else ""
        gaps = config.gaps(model.stride_frames(dataset.fps), where)[1:]
        options = WindowOptions(
            config.horizon,
            config.image_size,
            cameras=cameras,
            interpolation=config.interpolation,
            action_key=data.action_key,
            state_key=None,
            episodes=data.episodes,
            action_episodes=data.action_episodes,
            confident_share=data.confident_share,
            gaps=gaps,
        )
        windows = PolicyWindows(dataset, options)
        windows.check_share(data.acted_share)
        return windows
