"""Recipe of latent action models of frame pairs: dataset, pairs, frozen features, model and loop put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from lattok import hub
from lattok.data import RobotDataset, camera_keys
from lattok.data.alike import check_cameras, note_rate, note_rates, same_actions
from lattok.data.content import Content
from lattok.data.episodes import select_episodes, unmeasured
from lattok.data.opening import Source, has_actions, same_cameras
from lattok.data.schema import short_name
from lattok.evaluation.questions.history import training_entries
from lattok.hub.weights import from_anywhere
from lattok.image_lam import PairLearner, TrainedPairModel
from lattok.image_lam.base.bottlenecks import BOTTLENECKS
from lattok.image_lam.base.features import known_scaling
from lattok.nn.quantize import check_warm_up
from lattok.recipes.common import ADAMW, SMALL_IMAGES, TWO_CORES, ImageOptions, MixOptions, Recipe
from lattok.recipes.pair_features import CachedFeatures, frames_or_features
from lattok.recipes.run_folder import Model, broadcast_buffers, finish
from lattok.samples.augment import Augmentation
from lattok.samples.batches import Instructions, PairBatches
from lattok.samples.frame_pairs import FramePairs, MixedPairs, PairLabels
from lattok.training import LoopOptions, fit
from lattok.utils import checks
from lattok.utils.options import flat, options_of

SHOWN = ("features", "stride", "cameras", "tokens", "codebook_size", "labelled_fraction")  # first in the help
WARM_UP = "codebook_continuous_steps"
# What a continued model may change: neither the shapes of its weights nor their meaning depend on it.
FREE = (
    *("stride", "extra_strides", "dropout", "language", "codebook_restart_every"),
    *("action_head", "action_target", "action_steps"),
)
SMALL: dict[str, Any] = {  # for one GPU
    **ADAMW,
    "width": 384,
    "heads": 6,
    "encoder_depth": 6,
    "decoder_depth": 6,
    "steps": 30_000,
    "batch_size": 64,
    "lr": 3e-4,
    "schedule": "one_cycle",
    "log_every": 100,
}
TINY: dict[str, Any] = {
    **SMALL_IMAGES,
    "features": "pixels",  # which need no download, and fit images of 64
    **TWO_CORES,
    "stride": "0.2s",
    "latent_dim": 64,
    "labelled_per_batch": 8,
    "width": 64,
    "heads": 4,
    "encoder_depth": 2,
    "decoder_depth": 2,
    "steps": 1200,
    "batch_size": 32,
    "lr": 2e-3,
}


@dataclass(frozen=True)
class PairOptions(ImageOptions, MixOptions):
    """What is read from the dataset, which actions may supervise, and which earlier model is trained further.

    Attributes:
        camera_count: how many cameras to use if `cameras` names none: the first ones; 0: all
        labelled_fraction: share of the pairs whose actions are labels
        action_episodes: episodes whose actions may be labels (default: all)
        labelled: what is drawn to be labelled: "pairs", or whole "episodes", for data in which only some have actions
        labelled_per_batch: extra labelled pairs in every batch, beyond those drawn by chance
        init: model to fine-tune, a folder or a Hub id; its architecture stays
        feature_cache: folder that keeps frozen features for all runs; left out: computed at each step
        feature_cache_dtype: precision of cached features; "float16" takes half the room, and changes last digits
    """

    camera_count: int = 0
    labelled_fraction: float = 0.05
    action_episodes: str | None = None
    labelled: Literal["pairs", "episodes"] = "pairs"
    labelled_per_batch: int = 0
    init: str | None = None
    feature_cache: str | None = None
    feature_cache_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("feature_cache_dtype", self.feature_cache_dtype, ("float32", "float16"))
        checks.whole(labelled_per_batch=self.labelled_per_batch, camera_count=self.camera_count)
        if self.feature_cache is not None and self.changes:
            hint = "Features of changed images cannot be kept: crop=1, and 0 for brightness, contrast, saturation, hue."
            raise checks.LattokError(f"`feature_cache` cannot be used while images are cropped or recoloured. {hint}")


@dataclass(frozen=True)
class PairRecipe(Recipe[Model]):
    """Train a latent action model of frame pairs; a subclass says of which family, and what it has besides."""

    lam: ClassVar[type[TrainedPairModel]]
    learned_from: ClassVar[tuple[str, ...]] = ("prediction", "action", "flow")  # other terms only shape latents
    data: PairOptions = field(default_factory=PairOptions)
    judged_by_actions = False

    def __post_init__(self) -> None:
        shares, chosen = self.loop.shares, flat(self.model)
        if chosen["latent_norm"] == "batch" and self.loop.batch_size < 2 * shares:
            expected = f"at least 2 pairs in each of {shares} parts with latent_norm=batch"
            checks.fail("batch_size", expected, self.loop.batch_size)
        kind = BOTTLENECKS.get(chosen["quantizer"])
        if self.data.init is None and kind is not None and kind.vectors:  # that of `init` has started
            check_warm_up(WARM_UP, chosen[WARM_UP], self.loop.steps)
        weights = {name: chosen[f"loss_{name}"] for name in self.learned_from}
        if self.data.labelled_fraction == 0:
            weights["action"] = 0.0
        if not any(weights.values()):
            expected = "more than 0 where neither actions (labelled_fraction, loss_action) nor flow supervise"
            checks.fail("loss_prediction", expected, "0", "Nothing would be learned.")

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, with what follows from earlier models between the two. The presets' continuous warm-up is
        at most a third of the run: a codebook has to be learned after it."""
        continued = given.get("init") is not None
        options = cls._continued(preset, given) if continued else {**preset, **given}
        warm, steps = options.get(WARM_UP, 0), options.get("steps", LoopOptions.steps)
        if WARM_UP in given or continued or warm <= steps // 3:
            return options
        return {**options, WARM_UP: steps // 3}

    @classmethod
    def over(cls, stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a run with others in their place; with other steps a third of them is another one."""
        steps = stored.get("steps")
        if given.get("steps", steps) != steps and checks.is_int(steps) and stored.get(WARM_UP) == steps // 3:
            stored = {name: value for name, value in stored.items() if name != WARM_UP}
        return super().over(stored, given)

    @classmethod
    def _continued(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return options of a run that continues `init`, whose architecture stays: its config.json says which."""
        own = {each.name for each in options_of(cls.lam.config_class) if not each.field.metadata.get("from_data")}
        before = flat(hub.config_of("init", given["init"], cls.lam))
        model = {name: value for name, value in before.items() if name in own}
        streams = preset.get("streams", model["streams"])  # which a stage decides
        if streams != model["streams"]:
            checks.fail("init", f"a model with streams={streams} for this stage", f"streams={model['streams']}")
        for name in sorted(own & given.keys()):
            free = name in FREE or name.startswith("loss_")
            if name in ("loss_kl", "loss_features"):  # a bottleneck or a decoder with weights of its own
                free = model[name] > 0 and given[name] > 0
            if given[name] != model[name] and not free:
                checks.fail(name, f"{model[name]!r}, as the model in init was trained with", repr(given[name]))
        return {**{name: value for name, value in preset.items() if name not in own}, **model, **given}

    def train(self, resume: bool = False, resume_command: str = "") -> Model:
        """Train as every recipe does; the heads that only training needs are not saved."""
        out, data, sources = self.folder(resume), self.data, self.open()
        datasets = [source.dataset for source in sources]
        built_on = data.init or getattr(data, "env_codebook", None)
        before: Any = None if built_on is None else self.lam.from_pretrained(built_on)
        words, known = self.words(datasets, before)
        cameras = self._cameras(datasets[0], before)
        torch.manual_seed(self.loop.seed)
        config = self.config(cameras=cameras, features=from_anywhere(self.model.features))
        if before is None:  # mean and deviation of the pixels are those that the features know
            mean, std = known_scaling(config.features, config.image_size, config.features_revision)
        else:
            mean, std = before.config.mean, before.config.std
        gap, *others = {checks.stride_in_frames(config.stride, dataset.fps) for dataset in datasets}
        if not others:  # one in seconds is as many frames as a dataset's rate says
            note_rates(datasets, gap, "frame")
        learner = PairLearner(self.lam(replace(config, mean=mean, std=std, **known)))
        model: Any = learner.lam
        if before is not None:
            for dataset in datasets if data.init is not None and config.stride == before.config.stride else ():
                note_rate(before, dataset, any_rate=True)
            model.features = before.features  # the same ones, loaded already
            if data.init is not None:
                model.load_tensors(before.saved_tensors(), data.init)
            else:
                model.take_environment(before)
        views = [cameras, *(same_cameras(dataset, cameras) for dataset in datasets[1:])]
        labelled = self._with_actions(datasets)
        read = zip(datasets, views, strict=True)
        parts = [self._pairs(model, *each, data.action_key if each[0] in labelled else None) for each in read]
        with self.begin(resume, sources, self.inputs(before), resume_command) as contents:
            model.features.load()
            folder, cache = data.feature_cache, None
            if folder is not None:
                cache = CachedFeatures(Path(folder).expanduser(), data.feature_cache_dtype, model, parts)
            memory = frames_or_features(data, self.loop, model, parts, cache)
            window = data.window(model.config.image_size, cameras)
            pairs = MixedPairs(parts, [source.weight for source in sources]) if data.mix else parts[0]
            if pairs.labelled.any():  # actions of a mixture come normalised, each dataset's by its own statistics
                if isinstance(pairs, MixedPairs):
                    learner.attach_action_head(torch.zeros(1, pairs.action_dim))
                else:
                    learner.attach_action_head(torch.from_numpy(pairs.fitted_actions))
            learner.open_perceptual()
            size, seed = self.loop.batch_size, self.loop.seed
            batches = PairBatches(pairs, size, data.labelled_per_batch, seed, words, data, window, memory)
            model.trained_on = self._history(contents, sources, batches.samples, before)
            weights = model.config.loss_weights
            fit(learner, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            broadcast_buffers(model)
            return finish({"": model}, out)[""]

    def words(
        self, datasets: Sequence[RobotDataset], before: TrainedPairModel | None
    ) -> tuple[Instructions | None, dict[str, int]]:
        """Return vectors of the instructions, where the model reads them, and what they decide of its configuration."""
        return None, {}

    def inputs(self, before: TrainedPairModel | None) -> dict[str, str]:
        """Hash what the run depends on besides dataset and options."""
        name = "env_codebook" if self.data.init is None else "init"
        return {} if before is None else {name: before.describe()["weights_sha256"]}

    def _cameras(self, dataset: RobotDataset, before: TrainedPairModel | None) -> tuple[str, ...]:
        """Return the cameras asked for, or those of the model that goes on, if the dataset has them, or all or some."""
        asked, count = self.data.cameras, self.data.camera_count
        if before is None or self.data.init is None:
            return camera_keys(dataset, asked)[: count if asked is None and count else None]
        own = [key if key in dataset.cameras else short_name(key) for key in before.cameras]
        known = {*own} <= {*dataset.cameras, *map(short_name, dataset.cameras)}
        cameras = camera_keys(dataset, own if asked is None and known else asked)
        ours, theirs = (", ".join(map(short_name, keys)) for keys in (before.cameras, cameras))
        if len(cameras) != len(before.cameras) or (asked is None and not known and len(cameras) > 1):
            expected = f"{len(before.cameras)}, as many as the model in init has ({ours})"
            checks.fail("cameras", expected, f"{len(cameras)} ({theirs})", "Name them in order.")
        check_cameras(cameras, before.cameras)
        return cameras

    def _with_actions(self, datasets: Sequence[RobotDataset]) -> list[RobotDataset]:
        """Return the datasets whose actions may supervise, which have the same dimensions; of a mixture not all."""
        key = self.data.action_key
        if self.data.labelled_fraction == 0:
            return []
        found = [each for each in datasets if has_actions(each, key)]
        if not found:
            whose = ", ".join(dataset.name for dataset in datasets)
            hint = "Video without actions needs labelled_fraction=0."
            checks.fail("action_key", f"a column of {whose}", repr(key), hint)
        if self.data.mix:
            episodes = ({each.index for each in select_episodes(one, self.data.episodes)} for one in found)
            known = [one for one, chosen in zip(found, episodes, strict=True) if unmeasured(one, key, chosen) != chosen]
            same_actions(found := known or found, key)  # where none is known, the samples say so
        return found

    def _pairs(
        self, model: TrainedPairModel, dataset: RobotDataset, cameras: tuple[str, ...], key: str | None
    ) -> FramePairs:
        """Return all frame pairs of a dataset, without their frames; actions of the column `key` supervise."""
        config, data = model.config, self.data
        labels = PairLabels(
            key,
            action_target=config.action.target,
            action_steps=config.action.steps,
            action_episodes=data.action_episodes,
            labelled_fraction=data.labelled_fraction,
            labelled=data.labelled,
            seed=self.loop.seed,
        )
        pairs = FramePairs(
            dataset,
            config.stride,
            cameras,
            labels,
            episodes=data.episodes,
            transform=model.resize,
            extra_strides=config.extra_strides,
        )
        if sorted(set(pairs.gaps)) != pairs.gaps:
            given = zip((config.stride, *config.extra_strides), pairs.gaps, strict=True)
            got = ", ".join(f"{gap} ({checks.counted(count, 'frame')})" for gap, count in given)
            checks.fail("extra_strides", f"gaps that grow from the stride on, at {dataset.fps:g} fps", got)
        return pairs

    def _history(
        self, contents: Sequence[Content], sources: list[Source], samples: int, before: TrainedPairModel | None
    ) -> dict[str, Any]:
        """Return what the artefact says about its training; what the earlier model has seen counts as seen."""
        data, history = self.data, self.trained_on(sources, samples, contents)
        labels = {"fraction": data.labelled_fraction, "unit": data.labelled, "per_batch": data.labelled_per_batch}
        history["labels"] = labels | history.get("labels", {})
        if data.changes:
            history["changes"] = {each.name: getattr(data, each.name) for each in fields(Augmentation)}
        if data.init is not None and before is not None and (known := before.trained_on):
            steps = known.get("loop", {}).get("steps"), known.get("steps_before")
            history["steps_before"] = sum(count for count in steps if isinstance(count, int))
        if before is not None:
            history["init" if data.init is not None else "env_codebook"] = before.describe()
            now = training_entries(history)
            others = [entry for entry in training_entries(before.trained_on) if entry not in now]
            if others:
                history["earlier"] = others
        return history
