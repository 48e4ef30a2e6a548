"""Recipes of the action tokenizers that are fitted to all windows at once, without a run that could be resumed."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast, get_type_hints

import torch

from lattok.action_vq import (
    FAST,
    FSQ,
    FASTConfig,
    FSQConfig,
    ResidualVQ,
    ResidualVQConfig,
    UniformBins,
    UniformBinsConfig,
)
from lattok.action_vq.base import ChunkTokenizer
from lattok.data import ActionWindows, select_episodes
from lattok.data.episodes import check_horizon
from lattok.loading import load
from lattok.recipes.common import Recipe, finish, first_process, wait_for_all

SAMPLED = 2048  # chunks that the summary after fitting looks at


def fit_options(family: type[ChunkTokenizer]) -> Any:
    """A dataclass of what `family.fit` takes by name, with its types and defaults."""
    types, parameters = get_type_hints(family.fit), inspect.signature(family.fit).parameters.values()
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return make_dataclass("FitOptions", [(p.name, types[p.name], p.default) for p in named], frozen=True)


@dataclass(frozen=True)
class FitRecipe(Recipe):
    """A tokenizer fitted with `family.fit` to the windows of a dataset; `loop` are the options of `fit`."""

    family: ClassVar[type[ChunkTokenizer]]
    from_dataset = ("action_dim", "action_names", "normalizers")
    presets = MappingProxyType({"default": MappingProxyType({})})
    default_preset = "default"


@dataclass(frozen=True)
class FASTRecipe(FitRecipe):
    """Frequencies in byte-pair codes, of different lengths."""

    kind = "fast"
    family, model_class, loop_class = FAST, FASTConfig, fit_options(FAST)
    from_dataset = (*FitRecipe.from_dataset, "min_token", "max_token")


@dataclass(frozen=True)
class ResidualVQRecipe(FitRecipe):
    """Residual codes of whole chunks, coarse to fine."""

    kind = "residual-vq"
    family, model_class, loop_class = ResidualVQ, ResidualVQConfig, fit_options(ResidualVQ)


@dataclass(frozen=True)
class FSQRecipe(FitRecipe):
    """Finite-scalar codes of whole chunks, coarse to fine."""

    kind = "fsq"
    family, model_class, loop_class = FSQ, FSQConfig, fit_options(FSQ)
    from_dataset = (*FitRecipe.from_dataset, "bits")


@dataclass(frozen=True)
class UniformBinsRecipe(FitRecipe):
    """Uniform bins over the 1st to 99th percentile of every dimension."""

    kind = "uniform-bins"
    family, model_class, loop_class = UniformBins, UniformBinsConfig, fit_options(UniformBins)


def train_by_fitting(recipe: FitRecipe, resume: bool = False, resume_command: str = "") -> ChunkTokenizer:
    """Fit the tokenizer and save it into `recipe.out`; `resume` begins again in the same folder.

    Of several processes the first one checks, fits and saves, the others load; FSQ's training they share.
    """
    out, first = recipe.folder(resume), first_process()
    shared = "batch_size" in {field.name for field in fields(recipe.loop_class)}
    if first or shared:
        return _fit(recipe, resume, out, resume_command)
    wait_for_all()
    return cast(ChunkTokenizer, load(out))


def _fit(recipe: FitRecipe, resume: bool, out: Path, resume_command: str) -> ChunkTokenizer:
    sources = recipe.open()
    horizon = recipe.model.get("horizon", recipe.model_class.horizon)
    check_horizon(horizon, select_episodes(sources[0].dataset, recipe.data.episodes))
    windows = ActionWindows(sources[0].dataset, horizon, recipe.data.action_key, recipe.data.episodes)
    names = tuple(windows.action_names)
    with recipe.begin(resume, sources, resume_command=resume_command) as begun:
        model = recipe.family.fit(*windows.all(), action_names=names, **asdict(recipe.loop), **recipe.model)
        model.trained_on = recipe.trained_on(sources, len(windows), begun)
        if first_process():
            print(fit_summary(model, windows), file=sys.stderr)
        return finish(model, out)


def fit_summary(model: ChunkTokenizer, windows: ActionWindows) -> str:
    """One line: tokens of a chunk, and how well some of the chunks that it was fitted to come back."""
    rows = torch.linspace(0, len(windows) - 1, min(SAMPLED, len(windows))).long()
    chunks, valid = windows.batch(rows)
    codes = model.encode(chunks, valid)
    used, steps = (codes >= 0).sum(1).float(), chunks[valid].double()
    gap = (model.decode(codes)[:, : chunks.shape[1]] - chunks)[valid].double()
    varies = steps.var(0, correction=0) > 0
    error = float((gap.square().mean(0) / steps.var(0, correction=0))[varies].mean()) if bool(varies.any()) else 0.0
    tokens = f"{used.mean():.3g} tokens" if model.fixed_length else f"{used.mean():.3g} tokens on average"
    return f"{model.type}: {tokens} for a chunk; {100 * error:.2g} % of the training actions' variance is lost"
