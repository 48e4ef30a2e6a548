"""Recipes of the fitted tokenizers: the options of each family's fit, and several processes that share a folder."""

import os

import pytest
import torch

import lattok
from lattok.checks import LattokError
from lattok.recipes import FASTRecipe, FSQRecipe, ResidualVQRecipe, UniformBinsRecipe
from lattok.recipes.tokenizers import train_by_fitting

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


SMALL = {
    FSQRecipe: {"tokens": 2, "codebook_size": 8, "hidden": 8, "steps": 2, "synthetic": 20, "device": "cpu"},
    ResidualVQRecipe: {"tokens": 2, "codebook_size": 8, "steps": 1, "synthetic": 20},
}


def _worker(rank, dataset, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    for recipe, options in SMALL.items():
        fits = []
        with pytest.MonkeyPatch.context() as patch:
            fit = recipe.family.fit
            patch.setattr(recipe.family, "fit", lambda *a, fit=fit, fits=fits, **k: fits.append(a) or fit(*a, **k))
            model = train_by_fitting(recipe.from_preset(dataset, out / recipe.kind, horizon=4, **options))
        torch.save((len(fits), model.describe()["weights_sha256"]), out / f"{recipe.kind}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_of_two_processes_the_first_one_fits_and_saves(make_dataset, tmp_path):
    dataset = make_dataset([12, 15], cameras=False).root
    torch.multiprocessing.spawn(_worker, args=(dataset, tmp_path), nprocs=2)
    for kind, expected in {"fsq": [1, 1], "residual-vq": [1, 0]}.items():
        fits, hashes = zip(*(torch.load(tmp_path / f"{kind}-{rank}.pt") for rank in (0, 1)), strict=True)
        saved = lattok.load(tmp_path / kind).describe()["weights_sha256"]
        assert list(fits) == expected  # FSQ's training is shared
        assert set(hashes) == {saved}
