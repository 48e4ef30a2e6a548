"""Recipe of the paper's action tokenizer, which is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.data import select_episodes
from lattok.data.alike import note_rates, spaces_of
from lattok.data.episodes import check_horizon
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import check_warm_up
from lattok.recipes.common import EXTREMES, QUANTILES, MixOptions, Recipe
from lattok.recipes.run_folder import finish, first_process
from lattok.recipes.tokenizers import known_windows, say_summaries
from lattok.samples.order import BatchSampler, Passes
from lattok.samples.windows import MixedWindows
from lattok.training import fit
from lattok.types import ActionBatch
from lattok.utils.seeds import derive_seed

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
    in_any_order = True
    data: MixOptions = field(default_factory=MixOptions)
    model: ActionVQConfig = field(default_factory=ActionVQConfig)
    common = ("horizon", "codebook_size", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"preset": "quick"}
    small = "quick"
    default_preset = "p2t"
    joined = ("context", "p2t_code")
    presets: ClassVar[Mapping[str, Any]] = {
        "p2t": PAPER,
        "libero": {**PAPER, **QUANTILES, "horizon": 8},
        "robotwin": {**PAPER, **EXTREMES, "horizon": 25},
        "jaka": {**PAPER, **QUANTILES, "horizon": 20},
        "quick": {"steps": 1000, "lr": 2e-3, "schedule": "one_cycle", "batch_size": 128, "threads": 1, "dropout": 0.0},
        "context": {"decoder": "context"},
        "p2t_code": {"mask_weight": 1.0, "mask_passes": 1},
    }

    def __post_init__(self) -> None:
        check_warm_up("continuous_steps", self.model.continuous_steps, self.loop.steps)

    def train(self, resume: bool = False, resume_command: str = "") -> P2TActionVQ:
        """Train as every recipe does. In a mixture each dataset's chunks are normalised in the batch, by its own
        normaliser; the model's is the identity meanwhile."""
        out, sources, horizon = self.folder(resume), self.open(), self.model.horizon
        datasets = [source.dataset for source in sources]
        spaces = spaces_of(datasets, self.data.action_key)
        note_rates(datasets, horizon)
        episodes = [episode for dataset in datasets for episode in select_episodes(dataset, self.data.episodes)]
        check_horizon(horizon, episodes)
        parts = [known_windows(dataset, horizon, self.data.action_key, self.data.episodes) for dataset in datasets]
        torch.manual_seed(self.loop.seed)
        several = tuple(dataset.name for dataset in datasets) if self.data.mix else ()
        names, width = parts[0].action_names, max(len(part.action_names) for part in parts)
        own = {"spaces": spaces} if spaces else {"action_names": names}
        config = self.config(action_dim=width, normalizers=several, **own)
        model, size, seed = P2TActionVQ(config), self.loop.batch_size, self.loop.seed
        normalizers = [module for module in model.normalizers if isinstance(module, Normalizer)] or [model.normalizer]
        for dataset, part, normalizer in zip(datasets, parts, normalizers, strict=True):
            kinds = (config.of_dataset(dataset.name) if several else config).action_kinds
            normalizer.fit(part.actions_at(part.sampled.nonzero()[:, 0]), kinds)
        if several:
            windows = MixedWindows(parts, normalizers)
            order = [Passes(n, derive_seed(seed, i)) if n else None for i, n in enumerate(windows.sizes)]
            draw = BatchSampler(order, size, [source.weight for source in sources])
            model.use_normalizers(model.normalizers.fresh())
        else:
            windows, draw = parts[0], BatchSampler([Passes(len(parts[0]), seed)], size)

        def batches(step: int, process: int, processes: int) -> ActionBatch:
            return windows.batch(draw(step)[process::processes])

        with self.begin(resume, sources, resume_command=resume_command) as contents:
            model.trained_on = self.trained_on(sources, size, contents)
            weights = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            if several:
                model.use_normalizers(model.normalizers.in_use())
            if first_process():
                say_summaries(model.cpu(), datasets, parts)
            return finish({"": model}, out)[""]
