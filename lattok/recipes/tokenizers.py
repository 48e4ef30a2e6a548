"""Recipes of the action tokenizers that are fitted to all windows at once, without a run that could be resumed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from lattok import files
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
from lattok.data import ActionWindows, open_dataset
from lattok.recipes.common import Recipe
from lattok.training import LoopOptions


def fit_options(family: type[ChunkTokenizer]) -> dict[str, Any]:
    """Options of the loop that `family.fit` takes, with its defaults."""
    known = {field.name for field in fields(LoopOptions)}
    parameters = inspect.signature(family.fit).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name in known}


def _presets(family: type[ChunkTokenizer]) -> Mapping[str, Mapping[str, Any]]:
    return MappingProxyType({"default": fit_options(family)})


@dataclass(frozen=True)
class FitRecipe(Recipe):
    """A tokenizer fitted with `family.fit` to the windows of a dataset."""

    family: ClassVar[type[ChunkTokenizer]]
    from_dataset = ("action_dim", "action_names")
    default_preset = "default"

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Every option by name with its type; of the loop only what the family uses."""
        loop = {field.name for field in fields(LoopOptions)} - fit_options(cls.family).keys()
        return {name: kind for name, kind in super().option_types().items() if name not in loop}


@dataclass(frozen=True)
class FASTRecipe(FitRecipe):
    """Frequencies in byte-pair codes, of different lengths."""

    kind = "fast"
    family, model_class = FAST, FASTConfig
    presets = _presets(FAST)


@dataclass(frozen=True)
class ResidualVQRecipe(FitRecipe):
    """Residual codes of whole chunks, coarse to fine."""

    kind = "residual-vq"
    family, model_class = ResidualVQ, ResidualVQConfig
    presets = _presets(ResidualVQ)


@dataclass(frozen=True)
class FSQRecipe(FitRecipe):
    """Finite-scalar codes of whole chunks, coarse to fine."""

    kind = "fsq"
    family, model_class = FSQ, FSQConfig
    presets = _presets(FSQ)


@dataclass(frozen=True)
class UniformBinsRecipe(FitRecipe):
    """Uniform bins over the 1st to 99th percentile of every dimension."""

    kind = "uniform-bins"
    family, model_class = UniformBins, UniformBinsConfig
    presets = _presets(UniformBins)


def train_by_fitting(recipe: FitRecipe, resume: bool = False, resume_command: str = "") -> ChunkTokenizer:
    """Fit the tokenizer and save it into `recipe.out`; `resume` begins again in the same folder."""
    out = recipe.folder(resume)
    dataset = open_dataset(recipe.dataset)
    horizon = recipe.model.get("horizon", recipe.model_class.horizon)
    windows = ActionWindows(dataset, horizon, recipe.data.action_key, recipe.data.episodes)
    files.check_writable(out)
    recipe.save()
    loop = {name: value for name, value in asdict(recipe.loop).items() if name in fit_options(recipe.family)}
    model = recipe.family.fit(*windows.all(), action_names=tuple(windows.action_names), **loop, **recipe.model)
    model.trained_on = {**recipe.trained_on(dataset, len(windows)), "loop": loop}
    model.save_pretrained(out)
    model.source = out.name
    return model.cpu().eval()
