"""What an editor knows about recipes and about the results of `train`: pyright checks the body, no test runs it."""

from typing import TYPE_CHECKING, get_type_hints

from typing_extensions import assert_type

import lattok
from lattok.recipes import FitRecipe, kinds, recipe_of

if TYPE_CHECKING:
    from lattok.loading import Loaded

    assert_type(lattok.load("model"), Loaded)
    assert_type(lattok.train(lattok.ActionVQRecipe.from_preset("d", "o")), lattok.P2TActionVQ)
    assert_type(lattok.train(lattok.ImageLAMRecipe.from_preset("d", "o")), lattok.ImageLAM)
    assert_type(lattok.train(lattok.ClipLAMRecipe.from_preset("d", "o")), lattok.ClipLAM)
    assert_type(lattok.train(lattok.VLARecipe.from_preset("d", "o")), lattok.LatentVLA)
    assert_type(lattok.train(lattok.FASTRecipe.from_preset("d", "o")), lattok.FAST)
    assert_type(lattok.train(lattok.FSQRecipe.from_preset("d", "o")), lattok.FSQ)
    assert_type(lattok.train(lattok.ResidualVQRecipe.from_preset("d", "o")), lattok.ResidualVQ)
    assert_type(lattok.train(lattok.UniformBinsRecipe.from_preset("d", "o")), lattok.UniformBins)
    assert_type(lattok.VLARecipe.from_preset("d", "o").model.horizon, int)
    assert_type(lattok.ImageLAMRecipe.from_preset("d", "o").data.labelled_fraction, float)


def test_a_recipe_declares_the_groups_of_options_that_it_has():
    for kind in kinds():
        recipe = recipe_of(kind)
        if recipe is not None and not issubclass(recipe, FitRecipe):
            hints = get_type_hints(recipe)
            declared = (hints["data"], hints["loop"], hints["model"])
            assert declared == (recipe.data_class, recipe.loop_class, recipe.model_class)
