"""Recipes of the fitted tokenizers: the options of each family's fit."""

import pytest

from lattok.checks import LattokError
from lattok.recipes import FASTRecipe, FSQRecipe, ResidualVQRecipe, UniformBinsRecipe

RECIPES = (FASTRecipe, ResidualVQRecipe, FSQRecipe, UniformBinsRecipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_of_fit_are_options_of_the_recipe_and_no_others_of_the_loop(recipe):
    offered = recipe.option_types()
    assert "seed" in offered
    assert ("steps" in offered) == (recipe in (ResidualVQRecipe, FSQRecipe))
    assert ("synthetic" in offered) == (recipe in (ResidualVQRecipe, FSQRecipe))
    assert ("batch_size" in offered) == (recipe is FSQRecipe)
    assert not {"bits", "min_token", "max_token", "schedule", "precision", "action_dim"} & offered.keys()
    options = recipe.from_preset("data", "out").options()
    assert recipe.from_preset("data", "out", "default", **options).options() == options


def test_values_of_fit_keep_their_defaults_and_types():
    recipe = ResidualVQRecipe.from_preset("data", "out", steps=0, synthetic=10)
    assert (recipe.loop.steps, recipe.loop.synthetic, recipe.loop.seed) == (0, 10, 0)
    assert FSQRecipe.from_preset("data", "out", lr=1).loop.lr == 1.0
    with pytest.raises(LattokError, match="`synthetic`: expected a value of type int, got 'many'"):
        FSQRecipe.from_preset("data", "out", synthetic="many")
    with pytest.raises(LattokError, match="`options`: expected names among"):
        FSQRecipe.from_preset("data", "out", bits=(0, 1))
