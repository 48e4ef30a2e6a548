"""Recipes: data, model, losses and the loop put together, one for each word that follows `lattok train`."""

from typing import Any

from lattok.action_vq.base import ChunkTokenizer, families
from lattok.hub import FAMILIES
from lattok.recipes.action_vq import ActionVQRecipe as ActionVQRecipe
from lattok.recipes.action_vq import FASTRecipe as FASTRecipe
from lattok.recipes.action_vq import FitRecipe as FitRecipe
from lattok.recipes.action_vq import FSQRecipe as FSQRecipe
from lattok.recipes.action_vq import ResidualVQRecipe as ResidualVQRecipe
from lattok.recipes.action_vq import TOASTRecipe as TOASTRecipe
from lattok.recipes.action_vq import UniformBinsRecipe as UniformBinsRecipe
from lattok.recipes.action_vq import recipe_for as recipe_for
from lattok.recipes.clips import ClipLAMRecipe as ClipLAMRecipe
from lattok.recipes.clips import InverseDynamicsRecipe as InverseDynamicsRecipe
from lattok.recipes.common import RECIPES
from lattok.recipes.common import Recipe as Recipe
from lattok.recipes.image_lam import ImageLAMRecipe as ImageLAMRecipe
from lattok.recipes.image_lam import MotoLAMRecipe as MotoLAMRecipe
from lattok.recipes.lara import LARARecipe as LARARecipe
from lattok.recipes.lara import LatBotRecipe as LatBotRecipe
from lattok.recipes.run_folder import Model
from lattok.recipes.vla import VLARecipe as VLARecipe
from lattok.utils import checks


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
