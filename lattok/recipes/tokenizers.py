"""Recipes of the action tokenizers that are fitted to all windows at once, without a run that could be resumed."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

import torch

from lattok.action_vq import FAST, FSQ, ResidualVQ, UniformBins
from lattok.action_vq.base import ChunkTokenizer
from lattok.action_vq.config import ChunkConfig
from lattok.data import select_episodes
from lattok.data.episodes import check_horizon
from lattok.loading import load
from lattok.recipes.common import RECIPES, Recipe, finish, first_process, wait_for_all
from lattok.recipes.options import types_of
from lattok.samples import ActionWindows

Tokenizer = TypeVar("Tokenizer", bound=ChunkTokenizer)
SAMPLED = 2048  # chunks that the summary after fitting looks at


@dataclass(frozen=True)
class FitRecipe(Recipe[Tokenizer]):
    """A tokenizer that is fitted with `family.fit` to the windows of a dataset; `loop` are the options of `fit`.

    Every family of action tokenizers has one, see `recipe_for`.
    """

    family: ClassVar[type[ChunkTokenizer]]
    presets = MappingProxyType({"default": MappingProxyType({})})
    default_preset = "default"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the family, since its recipe may be made at run time."""
        return _unpickled, (self.family, self.dataset, self.out, self.preset, self.options())

    def train(self, resume: bool = False, resume_command: str = "") -> Tokenizer:
        """Fit the tokenizer and save it into `out`; `resume` begins again in the same folder.

        Of several processes the first one checks, fits and saves, the others load; FSQ's training they share.
        """
        out, first = self.folder(resume), first_process()
        shared = "batch_size" in {field.name for field in fields(self.loop_class)}
        if first or shared:
            return cast(Tokenizer, _fit(self, resume, out, resume_command))
        wait_for_all()
        return cast(Tokenizer, load(out))


def recipe_for(family: type[Tokenizer]) -> type[FitRecipe[Tokenizer]]:
    """The recipe of a family of action tokenizers: its configuration's fields and what its `fit` takes by name."""
    types, parameters = get_type_hints(family.fit), inspect.signature(family.fit).parameters.values()
    named = [(p.name, types[p.name], p.default) for p in parameters if p.kind is p.KEYWORD_ONLY]
    own = [f.name for f in fields(family.config_class) if f.name not in types_of(ChunkConfig)]
    what = (family.__doc__ or "").strip().partition("\n")[0].partition(":")[0].rstrip(".")
    facts = {
        "__doc__": f"Fit {family.__name__}: {what[:1].lower()}{what[1:]}.",
        "__module__": family.__module__,
        "kind": family.type,
        "family": family,
        "model_class": family.config_class,
        "loop_class": make_dataclass(f"{family.__name__}FitOptions", named, frozen=True),
        "common": ("horizon", *own, *Recipe.common),
    }
    return type(f"{family.__name__}Recipe", (FitRecipe,), facts)


def _unpickled(family: type[ChunkTokenizer], *facts: Any) -> FitRecipe[Any]:
    return cast(Any, RECIPES.get(family.type) or recipe_for(family))._of(*facts)


FASTRecipe = recipe_for(FAST)
FSQRecipe = recipe_for(FSQ)
ResidualVQRecipe = recipe_for(ResidualVQ)
UniformBinsRecipe = recipe_for(UniformBins)


def _fit(recipe: FitRecipe[Any], resume: bool, out: Path, resume_command: str) -> ChunkTokenizer:
    sources = recipe.open()
    horizon = recipe.model.horizon
    check_horizon(horizon, select_episodes(sources[0].dataset, recipe.data.episodes))
    windows = ActionWindows(sources[0].dataset, horizon, recipe.data.action_key, recipe.data.episodes)
    names = tuple(windows.action_names)
    with recipe.begin(resume, sources, resume_command=resume_command) as begun:
        model = recipe.family.fit(*windows.all(), action_names=names, **vars(recipe.loop), **vars(recipe.model))
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
