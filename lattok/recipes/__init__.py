"""Recipes: data, model, losses and the loop put together, one for each word that follows `lattok train`."""

from typing import Any

from lattok.action_vq.base import ChunkTokenizer, families
from lattok.hub import FAMILIES
from lattok.recipes.action_vq import ActionVQRecipe
from lattok.recipes.clip_lam import ClipLAMRecipe
from lattok.recipes.common import RECIPES, Recipe
from lattok.recipes.idm import InverseDynamicsRecipe
from lattok.recipes.image_lam import ImageLAMRecipe
from lattok.recipes.lara import LARARecipe
from lattok.recipes.latbot import LatBotRecipe
from lattok.recipes.moto_lam import MotoLAMRecipe
from lattok.recipes.run_folder import Model
from lattok.recipes.tokenizers import FitRecipe, recipe_for
from lattok.recipes.vla import VLARecipe
from lattok.utils import checks

__all__ = ["ActionVQRecipe", "ClipLAMRecipe", "FitRecipe", "ImageLAMRecipe", "InverseDynamicsRecipe", "LARARecipe"]
__all__ += ["LatBotRecipe", "MotoLAMRecipe", "Recipe", "VLARecipe", "recipe_for"]


def train(recipe: Recipe[Model], resume: bool = False, resume_command: str = "") -> Model:
    """Train as the recipe says; returns the model, saved in `recipe.out`.

    >>> lattok.train(lattok.ActionVQRecipe.from_preset("my_dataset", "my_tokenizer", "quick"))
    """
    if not isinstance(recipe, Recipe):
        checks.fail("recipe", "a recipe, such as lattok.ActionVQRecipe", type(recipe).__name__)
    return recipe.train(resume, resume_command)


def kinds() -> list[str]:
    """Return what can be trained: all recipes by kind, and families of action tokenizers, each of which has one."""
    return sorted({*RECIPES, *families()})


def recipe_of(kind: str) -> type[Recipe[Any]] | None:
    """Return the class of recipes of a kind; None where there is none."""
    family = None if kind in RECIPES else FAMILIES.get(kind)
    if family is not None and issubclass(family, ChunkTokenizer):
        return recipe_for(family)
    return RECIPES.get(kind)
