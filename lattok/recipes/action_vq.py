"""Recipe of the P2T action tokenizer: dataset, windows, model and loop put together."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq.config import QUICK_MODEL
from lattok.data import ActionWindows, open_dataset
from lattok.recipes.common import Recipe, finish
from lattok.training import SeededBatches, fit
from lattok.types import ActionBatch

PAPER = {"steps": 50_000, "lr": 1e-4, "batch_size": 128, "mask_weight": 0.1, "log_every": 100}


@dataclass(frozen=True)
class ActionVQRecipe(Recipe):
    """`p2t`: appendix A.2 (Adam 1e-4, batch 128, 50,000 steps), at the horizons of the paper's robots `libero` (8),
    `robotwin` (25) and `jaka` (20). `quick`: one minute on two cores, mask loss off.

    Laid over either: `context`, a decoder over all codes; `p2t_code`, where the published code differs from the paper.
    """

    kind = "action-vq"
    model_class = ActionVQConfig
    from_dataset = ("action_dim", "action_names")
    default_preset = "p2t"
    presets = MappingProxyType(
        {
            "p2t": PAPER,
            "libero": {**PAPER, "horizon": 8},
            "robotwin": {**PAPER, "horizon": 25},
            "jaka": {**PAPER, "horizon": 20},
            "quick": {"steps": 1000, "lr": 2e-3, "schedule": "one_cycle", "batch_size": 128, **QUICK_MODEL},
            "context": {"decoder": "context"},
            "p2t_code": {"mask_weight": 1.0, "mask_passes": 1},
        }
    )


def train_action_vq(recipe: ActionVQRecipe, resume: bool = False, resume_command: str = "") -> P2TActionVQ:
    """Train as the recipe says and save the tokenizer into `recipe.out`."""
    out = recipe.folder(resume)
    dataset = open_dataset(recipe.dataset)
    horizon = recipe.model.get("horizon", ActionVQConfig.horizon)
    windows = ActionWindows(dataset, horizon, recipe.data.action_key, recipe.data.episodes)
    torch.manual_seed(recipe.loop.seed)
    names = tuple(windows.action_names)
    model = P2TActionVQ(ActionVQConfig(**recipe.model, action_dim=len(names), action_names=names))
    model.normalizer.fit(windows.actions, model.config.normalize_kinds)
    draw = SeededBatches(len(windows), recipe.loop.batch_size, recipe.loop.seed)

    def batches(step: int, process: int, processes: int) -> ActionBatch:
        return windows.batch(draw(step)[process::processes])

    model.trained_on = recipe.trained_on(dataset, recipe.loop.batch_size)
    recipe.begin(resume)
    weights = model.config.loss_weights
    fit(model, batches, recipe.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
    return finish(model, out)
