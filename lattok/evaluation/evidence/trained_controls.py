"""Controls that need a training run of their own: made on request, once per model and split, and kept in a folder.

`labels_only` asks what reconstruction is good for: the same encoder, trained on the labels alone. Config and labelled
pairs are the model's own, as far as it knows them; prediction has weight 0; there is one stream.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from lattok.data import RobotDataset, select_episodes
from lattok.data.content import content_of
from lattok.evaluation.evidence import Case
from lattok.evaluation.evidence.pair_set import PairSet
from lattok.image_lam import PairLearner, TrainedPairModel
from lattok.image_lam.base.config import TrainedPairConfig
from lattok.samples.augment import Augmentation
from lattok.samples.batches import PairBatches
from lattok.samples.frame_pairs import FramePairs
from lattok.samples.windows import acted_episodes
from lattok.training import LoopOptions, fit
from lattok.utils import files
from lattok.utils.checks import LattokError
from lattok.utils.options import replaced
from lattok.utils.signals import Interrupted, restate
from lattok.utils.untrusted import typed
from lattok.version import __version__

CONTROL_LOOP = LoopOptions(
    steps=1200, batch_size=40, lr=1e-3, schedule="one_cycle", optimizer="adamw", weight_decay=0.01, save_every=100_000
)
LABELS_ONLY = "labels_only"
NO_LATER = "no_later_frames"  # see `action_evidence`
USUAL = {"fraction": 0.05, "unit": "pairs", "per_batch": 8}  # where the model does not know, or had no labels


@dataclass(frozen=True)
class ControlTraining:
    """How controls are trained, and where their results are kept."""

    options: LoopOptions
    folder: Path | None
    identity: dict[str, Any]  # dataset, episodes, gap: what results depend on besides model and options

    @classmethod
    def on(cls, case: Case, stride: int, cameras: tuple[str, ...], columns: Sequence[str | None]) -> "ControlTraining":
        """Train controls on the episodes and `columns` of a case, as long as it says, or as the model was trained."""
        dataset, split, folder = case.dataset, case.split, case.options.folder
        episodes = select_episodes(dataset, [*split.train, *split.held_out])
        keys = [key for key in columns if key is not None]
        loop, trained = case.control_loop, case.model.trained_on or {}
        identity = {"dataset": content_of(dataset, episodes, keys, cameras).digest, "lattok": __version__}
        identity |= {"train": split.train, "held_out": split.held_out, "changes": trained.get("changes")}
        identity |= {"stride": stride, "cameras": cameras, "columns": keys}
        if loop is None and {"loop", "samples_per_step"} <= trained.keys():
            names = {field.name for field in fields(LoopOptions)} - {"tracker", "batch_size"}
            known = {name: value for name, value in trained["loop"].items() if name in names}
            loop = LoopOptions(**known, batch_size=trained["samples_per_step"])
            loop = replace(loop, steps=loop.steps + trained.get("steps_before", 0))
        loop = replace(loop or CONTROL_LOOP, seed=case.options.seed)
        return cls(loop, None if folder is None else folder / "controls", identity)

    def text(self, pairs: PairSet) -> str:
        return f"{self.options.steps:,} steps of {self.options.batch_size} of {len(pairs.frames):,} pairs"

    def result(
        self, control: str, model: Any, sizes: Sequence[int], make: Callable[[], dict[str, Tensor]], **more: Any
    ) -> dict[str, Tensor]:
        """Read a control's result from the folder where it is kept, or make it and keep it there. `sizes`: how many
        samples there are to train, to probe and to judge; `more`: what else the result depends on."""
        if self.folder is None:
            return make()
        described = model.describe()
        identity = [described["config_sha256"], described["weights_sha256"]]
        key = {"control": control, "model": identity, "pairs": [*sizes], "loop": asdict(self.options)}
        text = json.dumps({**key, **self.identity, **more}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        if not path.is_file():
            found = make()
            with files.whole_file(path) as temporary:
                safetensors.torch.save_file(found, temporary, {"key": text})
        return safetensors.torch.load_file(path)

    def fit(
        self, name: str, module: nn.Module, batches: Callable[..., Any], weights: Mapping[str, float], model: Any
    ) -> None:
        """Train `module` in place on the device of `model`; nothing stays on disk. The progress bar shows `name`."""
        device = model.features.mean.device
        with tempfile.TemporaryDirectory() as scratch:
            try:
                options = replace(self.options, device=str(device))
                fit(module, batches, options, Path(scratch) / name, loss_weights=weights)
            except Interrupted as stop:
                raise restate(stop, "interrupted while training a control; nothing of it is kept") from None
        module.to(device).eval()


def changes_of(model: Any) -> Augmentation | None:
    """Return how images changed in the model's training, as far as it says."""
    known = (model.trained_on or {}).get("changes")
    return None if known is None else typed(known, Augmentation, "changes", "training.json")


def sizes_of(train: PairSet, held_out: PairSet) -> list[int]:
    """Count the pairs that controls are trained on, and those of either split that are looked at."""
    return [len(train.frames), len(train.rows), len(held_out.rows)]


def labels_of(model: TrainedPairModel) -> dict[str, Any]:
    """Return which pairs supervised the model: fraction, unit, extra ones per batch, and the seed that drew them."""
    known = model.trained_on or {}
    own = known.get("labels") or {}
    return {**(own if own.get("fraction") else USUAL), "seed": known.get("loop", {}).get("seed", 0)}


def labels_only(
    model: TrainedPairModel, dataset: RobotDataset, train: PairSet, held_out: PairSet, training: ControlTraining
) -> tuple[dict[str, Tensor], str]:
    """Train the control, or read it from the folder where it is there already.

    Returns `train_codes` [n, P], `held_out_codes` [N, P], `train_latents` [n, p*d] and `held_out_latents` [N, p*d], and
    in words what it was trained on.
    """
    labels, pairs = labels_of(model), copy(train.frames)
    known = np.ones(len(pairs), dtype=bool)
    with suppress(LattokError):  # a dataset that has other episodes than those whose actions the model knew
        acted = acted_episodes(dataset, pairs.episodes, labels.get("episodes"))
        episodes = [episode.index for episode, yes in zip(pairs.episodes, acted, strict=True) if yes]
        known = np.isin(pairs.episode_of, episodes)
    pairs.draw(known, labels["fraction"], labels["unit"], labels["seed"])  # as a training on these episodes does

    def make() -> dict[str, Tensor]:
        control = _trained(model, pairs, labels["per_batch"], training)
        sets = {"train": train.encoded(control), "held_out": held_out.encoded(control)}
        tensors = {f"{name}_codes": latents.codes for name, latents in sets.items()}
        return tensors | {f"{name}_latents": latents.latents.flatten(1) for name, latents in sets.items()}

    tensors = training.result(LABELS_ONLY, model, sizes_of(train, held_out), make, labels=labels)
    whose = "" if ((model.trained_on or {}).get("labels") or {}).get("fraction") else " (not the model's own)"
    return tensors, f"{int(pairs.labelled.sum())} labelled of {len(pairs):,} pairs{whose}, {training.text(train)}"


def _trained(model: TrainedPairModel, pairs: FramePairs, per_batch: int, training: ControlTraining) -> TrainedPairModel:
    """Train on all pairs of the training episodes, also where probes see fewer: the model itself had them."""
    seed, size = training.options.seed, max(2, training.options.batch_size)
    extra = min(max(per_batch, 1), size - 1)  # without any, many a batch would teach nothing
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        control = model.fresh(control_config(model))
        learner = PairLearner(control)
        learner.attach_action_head(torch.from_numpy(pairs.actions_of(pairs.labelled.nonzero()[0])))
    batches = PairBatches(pairs, size - extra, extra, seed, changes=changes_of(model))
    training.fit("encoder from labels alone", learner, batches, control.config.loss_weights, model)
    return control.eval()


def control_config(model: TrainedPairModel) -> TrainedPairConfig:
    """Return the model's config without reconstruction and what belongs to it."""
    plain = {"streams": "control", "extra_strides": (), "action_target": "mean", "action_steps": 1}
    losses = {"loss_prediction": 0.0, "loss_additivity": 0.0, "loss_flow": 0.0}
    return replaced(model.config, **plain, **losses, loss_action=model.config.loss.action or 1.0)
