"""Recipes: data, model, losses and the loop put together, one for each word that follows `lattok train`."""

from pathlib import Path
from typing import Any, overload

from lattok.action_vq.base import ChunkTokenizer, families
from lattok.data import RobotDataset
from lattok.data.views import unwrap
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


@overload
def train(recipe: Recipe[Model], *, resume: bool = False, resume_command: str = "") -> Model: ...
@overload
def train(
    recipe: str,
    dataset: str | Path | RobotDataset | None = None,
    *,
    out: str | Path,
    preset: str | None = None,
    resume: bool = False,
    **options: Any,
) -> Any: ...
def train(
    recipe: Any,
    dataset: str | Path | RobotDataset | None = None,
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    resume: bool = False,
    resume_command: str = "",
    **options: Any,
) -> Any:
    """Train as `lattok train KIND` does, or by a recipe; returns the model, which is also saved in `out`.

    >>> lattok.train("image-lam", "path/to/dataset", out="my-lam", preset="tiny", steps=1000)
    >>> lattok.train(lattok.ActionVQRecipe.from_preset("my_dataset", "my_tokenizer", "quick"))

    `recipe` is one of `kinds()`. Flags of the command line have underscores here. A mixture is `mix=[...]` without a
    dataset. With `resume` the run in `out` continues.
    """
    if isinstance(recipe, Recipe):
        if dataset is not None or out is not None or preset is not None or options:
            hint = "Put the options into Recipe.from_preset(...)."
            checks.fail("recipe", 'a kind such as "image-lam", if options follow', type(recipe).__name__, hint)
        try:
            return recipe.train(resume, resume_command)
        except checks.Unreachable as error:
            raise checks.LattokError(f"{error} {recipe.without_download(error.argument)}".rstrip()) from error
    if isinstance(recipe, type) and issubclass(recipe, Recipe):
        hint = f"Make one: lattok.{recipe.__name__}.from_preset(DATASET, FOLDER)."
        checks.fail("recipe", "a recipe, or its kind", f"the class {recipe.__name__}", hint)
    named = recipe.replace("_", "-") if isinstance(recipe, str) else ""
    if (found := recipe_of(named) if named in kinds() else None) is None:
        got = repr(recipe) if isinstance(recipe, str) else type(recipe).__name__
        meant = checks.did_you_mean(recipe, kinds())
        checks.fail("recipe", f"one of {', '.join(kinds())}, or a recipe, such as lattok.ActionVQRecipe", got, meant)
    if out is None:
        checks.fail(
            "out", "a new folder for the model", "none", f'Such as lattok.train("{named}", DATASET, out="my-model").'
        )
    if isinstance(dataset, RobotDataset):  # the run's record names it by an address that opens the same again
        if not dataset.address or unwrap(dataset) is not dataset or dataset.labels is not None or dataset.files.commit:
            hint = "What was changed in Python goes into a description file."
            checks.fail("dataset", "a path, a Hub id or a description file", repr(dataset), hint)
        dataset = dataset.address
    if resume:
        return train(found.resumed(dataset, out, preset, options), resume=True, resume_command=resume_command)
    return train(found.from_preset(dataset, out, preset, **options), resume_command=resume_command)


def kinds() -> list[str]:
    """Return what can be trained: all recipes by kind, and families of action tokenizers, each of which has one."""
    return sorted({*RECIPES, *families()})


def recipe_of(kind: str) -> type[Recipe[Any]] | None:
    """Return the class of recipes of a kind; None where there is none."""
    family = None if kind in RECIPES else FAMILIES.get(kind)
    if family is not None and issubclass(family, ChunkTokenizer):
        return recipe_for(family)
    return RECIPES.get(kind)
