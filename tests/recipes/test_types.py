"""What an editor knows about recipes and about the results of `train`: pyright checks the body, no test runs it."""

from typing import TYPE_CHECKING

from typing_extensions import assert_type

import lattok

if TYPE_CHECKING:
    from lattok.loading import Loaded

    assert_type(lattok.load("model"), Loaded)
    assert_type(lattok.train(lattok.ActionVQRecipe.from_preset("d", "o")), lattok.P2TActionVQ)
    assert_type(lattok.train(lattok.ImageLAMRecipe.from_preset("d", "o")), lattok.ImageLAM)
    assert_type(lattok.train(lattok.MotoLAMRecipe.from_preset("d", "o")), lattok.MotoLAM)
    assert_type(lattok.train(lattok.ClipLAMRecipe.from_preset("d", "o")), lattok.ClipLAM)
    assert_type(lattok.train(lattok.VLARecipe.from_preset("d", "o")), lattok.LatentVLA)
    assert_type(lattok.train(lattok.recipe_for(lattok.FAST).from_preset("d", "o")), lattok.FAST)
    assert_type(lattok.train(lattok.recipe_for(lattok.FSQ).from_preset("d", "o")), lattok.FSQ)
    assert_type(lattok.train(lattok.recipe_for(lattok.ResidualVQ).from_preset("d", "o")), lattok.ResidualVQ)
    assert_type(lattok.train(lattok.recipe_for(lattok.UniformBins).from_preset("d", "o")), lattok.UniformBins)
    assert_type(lattok.VLARecipe.from_preset("d", "o").model.horizon, int)
    assert_type(lattok.ImageLAMRecipe.from_preset("d", "o").data.labelled_fraction, float)
