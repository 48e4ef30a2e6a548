"""Recipe of the P2T action tokenizer: dataset, windows, model and loop put together."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq.config import QUICK_MODEL
from lattok.data import select_episodes
from lattok.data.episodes import check_horizon
from lattok.normalize import Normalizer
from lattok.recipes.common import EXTREMES, QUANTILES, MixOptions, Recipe, finish
from lattok.samples import ActionWindows
from lattok.samples.batches import MixedBatches, MixedWindows, SeededBatches, same_actions
from lattok.training import LoopOptions, fit
from lattok.types import ActionBatch

PAPER = {"steps": 50_000, "lr": 1e-4, "batch_size": 128, "mask_weight": 0.1, "log_every": 100}


@dataclass(frozen=True)
class ActionVQRecipe(Recipe[P2TActionVQ]):
    """Train the paper's tokenizer, one code per step.

    - `p2t`: appendix A.2 (Adam 1e-4, batch 128, 50,000 steps)
    - `libero`, `robotwin`, `jaka`: the same at the horizons of the paper's robots (8, 25, 20), with its normalisation
    - `quick`: one minute on two cores, without the mask loss
    - joined with any of them ("quick+context"): `context`, a decoder over all codes; `p2t_code`, as the published code
    """

    kind = "action-vq"
    model_class = ActionVQConfig
    data_class = MixOptions
    data: MixOptions
    loop: LoopOptions
    model: ActionVQConfig
    common = ("horizon", "codebook_size", *Recipe.common)
    example = MappingProxyType({"preset": "quick"})
    default_preset = "p2t"
    presets = MappingProxyType(
        {
            "p2t": PAPER,
            "libero": {**PAPER, **QUANTILES, "horizon": 8},
            "robotwin": {**PAPER, **EXTREMES, "horizon": 25},
            "jaka": {**PAPER, **QUANTILES, "horizon": 20},
            "quick": {
                "steps": 1000,
                "lr": 2e-3,
                "schedule": "one_cycle",
                "batch_size": 128,
                "threads": 1,
                **QUICK_MODEL,
            },
            "context": {"decoder": "context"},
            "p2t_code": {"mask_weight": 1.0, "mask_passes": 1},
        }
    )

    def train(self, resume: bool = False, resume_command: str = "") -> P2TActionVQ:
        """Train as every recipe does.

        In a mixture batches come normalised, each dataset's chunks with its own normaliser, and the model's is the
        identity meanwhile.
        """
        out = self.folder(resume)
        sources = self.open()
        datasets = [source.dataset for source in sources]
        horizon = self.model.horizon
        names = same_actions(datasets, self.data.action_key)
        episodes = [episode for dataset in datasets for episode in select_episodes(dataset, self.data.episodes)]
        check_horizon(horizon, episodes)
        parts = [ActionWindows(dataset, horizon, self.data.action_key, self.data.episodes) for dataset in datasets]
        torch.manual_seed(self.loop.seed)
        several = tuple(dataset.name for dataset in datasets) if self.data.mix else ()
        config = self.config(action_dim=len(names), action_names=names, normalizers=several)
        model, size, seed = P2TActionVQ(config), self.loop.batch_size, self.loop.seed
        normalizers = [module for module in model.normalizers if isinstance(module, Normalizer)] or [model.normalizer]
        for part, normalizer in zip(parts, normalizers, strict=True):
            normalizer.fit(part.actions, config.normalize_kinds)
        if several:
            windows = MixedWindows(parts, normalizers)
            draw = MixedBatches(windows.sizes, [source.weight for source in sources], size, seed)
            model.normalizer = Normalizer(len(names))
        else:
            windows, draw = parts[0], SeededBatches(len(parts[0]), size, seed)

        def batches(step: int, process: int, processes: int) -> ActionBatch:
            return windows.batch(draw(step)[process::processes])

        with self.begin(resume, sources, resume_command=resume_command) as begun:
            model.trained_on = self.trained_on(sources, size, begun)
            weights = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.choose_normalizer()
            return finish(model, out)
