"""One dataclass per verb of `lattok train`: data, model, losses and the loop put together."""

from __future__ import annotations

from typing import Any

from typing_extensions import overload

from lattok import checks
from lattok.action_vq import FAST, FSQ, P2TActionVQ, ResidualVQ, UniformBins
from lattok.action_vq.base import ChunkTokenizer
from lattok.image_lam import ImageLAM
from lattok.recipes.action_vq import ActionVQRecipe, train_action_vq
from lattok.recipes.common import Recipe
from lattok.recipes.image_lam import ImageLAMRecipe, train_image_lam
from lattok.recipes.tokenizers import (
    FASTRecipe,
    FitRecipe,
    FSQRecipe,
    ResidualVQRecipe,
    UniformBinsRecipe,
    train_by_fitting,
)
from lattok.recipes.vla import VLARecipe, train_vla
from lattok.vla import LatentVLA

__all__ = [
    "ActionVQRecipe",
    "FASTRecipe",
    "FSQRecipe",
    "ImageLAMRecipe",
    "Recipe",
    "ResidualVQRecipe",
    "UniformBinsRecipe",
    "VLARecipe",
    "train",
]


@overload
def train(recipe: ActionVQRecipe, resume: bool = False, **options: Any) -> P2TActionVQ: ...
@overload
def train(recipe: ImageLAMRecipe, resume: bool = False, **options: Any) -> ImageLAM: ...
@overload
def train(recipe: VLARecipe, resume: bool = False, **options: Any) -> LatentVLA: ...
@overload
def train(recipe: FASTRecipe, resume: bool = False, **options: Any) -> FAST: ...
@overload
def train(recipe: FSQRecipe, resume: bool = False, **options: Any) -> FSQ: ...
@overload
def train(recipe: ResidualVQRecipe, resume: bool = False, **options: Any) -> ResidualVQ: ...
@overload
def train(recipe: UniformBinsRecipe, resume: bool = False, **options: Any) -> UniformBins: ...
@overload
def train(recipe: Recipe, resume: bool = False, **options: Any) -> ChunkTokenizer | ImageLAM | LatentVLA: ...
def train(recipe: Recipe, resume: bool = False, **options: Any) -> ChunkTokenizer | ImageLAM | LatentVLA:
    """Train as the recipe says; returns the model, saved in `recipe.out`.

    >>> lattok.train(lattok.ActionVQRecipe.from_preset("my_dataset", "my_tokenizer", "quick"))
    """
    if isinstance(recipe, ActionVQRecipe):
        return train_action_vq(recipe, resume, **options)
    if isinstance(recipe, ImageLAMRecipe):
        return train_image_lam(recipe, resume, **options)
    if isinstance(recipe, VLARecipe):
        return train_vla(recipe, resume, **options)
    if isinstance(recipe, FitRecipe):
        return train_by_fitting(recipe, resume, **options)
    return checks.fail("recipe", "one of lattok's recipes", type(recipe).__name__)
