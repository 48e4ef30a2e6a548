"""Recipes of the fitted tokenizers: the options of each family's fit."""

import re

import pytest
import torch

import lattok
from lattok.action_vq import FAST, FSQ, TOAST, ResidualVQ, UniformBins
from lattok.annotation.hiding import hide
from lattok.recipes import recipe_for, recipe_of
from lattok.utils import checks
from tests.errors import refused

RECIPES = [recipe_for(family) for family in (FAST, TOAST, ResidualVQ, FSQ, UniformBins)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_of_fit_are_options_of_the_recipe_and_no_others_of_the_loop(recipe):
    offered = {name for group in recipe.option_groups().values() for name in group}
    assert "seed" in offered
    assert ("steps" in offered) == (recipe.family in (ResidualVQ, FSQ))
    assert ("synthetic" in offered) == (recipe.family in (ResidualVQ, FSQ))
    assert ("batch_size" in offered) == (recipe.family is FSQ)
    assert not {"bits", "min_token", "max_token", "schedule", "precision", "action_dim"} & offered
    options = recipe.from_preset("data", "out").options()
    assert recipe.from_preset("data", "out", "default", **options).options() == options


def test_values_of_fit_keep_their_defaults_and_types():
    recipe = recipe_for(ResidualVQ).from_preset("data", "out", steps=0, synthetic=10)
    assert (recipe.loop.steps, recipe.loop.synthetic, recipe.loop.seed) == (0, 10, 0)
    assert recipe_for(FSQ).from_preset("data", "out", lr=1).loop.lr == 1.0
    refused("`synthetic`", lambda: recipe_for(FSQ).from_preset("data", "out", synthetic="many"))
    refused("`options`", lambda: recipe_for(FSQ).from_preset("data", "out", bits=(0, 1)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_of_a_recipe_are_those_of_fit_in_python(recipe):
    assert type(recipe.from_preset("d", "o").loop) is recipe.family.fit_options


SMALL = {
    FAST: {"vocab_size": 300},
    TOAST: {"vocab_size": 300},
    ResidualVQ: {"tokens": 2, "codebook_size": 4, "synthetic": 50, "steps": 2},
    FSQ: {"tokens": 2, "codebook_size": 4, "synthetic": 50, "steps": 2, "hidden": 8},
    UniformBins: {"bins": 8},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_fitting_says_where_it_is_and_what_came_out(recipe, make_dataset, tmp_path, capsys):
    dataset = make_dataset([12, 15, 11, 14], cameras=False)
    lattok.train(recipe.from_preset(dataset.root, tmp_path / "out", horizon=4, **SMALL[recipe.family]))
    said = capsys.readouterr().err.splitlines()
    last = rf"{recipe.kind}: [\d.]+ tokens( on average)? for a chunk; [\d.e+-]+ % of .* variance is lost"
    assert re.fullmatch(last, said[-2]), said
    names = [re.escape(name) for name in lattok.open_dataset(dataset.root).features["action"].names]
    each = ", ".join(rf"{name} [\d.e+-]+" for name in names)
    assert re.fullmatch(rf"typical error \(RMS, in the dataset's units\): {each}", said[-1])
    assert said[0].startswith(
        "note: tiny: 2 of 4 episodes for evaluation (1, 3), the others for training; too few for intervals: record"
    )


@pytest.mark.parametrize("kind", ["action-vq", *(recipe.kind for recipe in RECIPES)])
def test_tokenizers_learn_from_known_actions_alone(kind, make_dataset, tmp_path, capsys):
    """Episodes of NaN are unknown: the same comes out as where those of known actions are named."""
    checks.note.cache_clear()
    root = make_dataset([12, 15, 11, 14, 9, 13], cameras=False).root
    few, options = hide(root, tmp_path / "few", [1, 2]).path, {"horizon": 4, "episodes": "0:"}
    recipe = recipe_of(kind)
    options |= SMALL.get(getattr(recipe, "family", None), {"preset": "quick", "steps": 2, "batch_size": 4})
    made = [
        lattok.train(recipe.from_preset(few, tmp_path / f"out{number}", **{**options, **more}))
        for number, more in enumerate(({}, {"episodes": "1,2"}))
    ]
    for name, tensor in made[0].saved_tensors().items():
        assert torch.equal(tensor, made[1].saved_tensors()[name]), name
    assert capsys.readouterr().err.count("2 of 6 episodes have known actions") == 1
    options["episodes"] = "3,4"
    refused("`action_key`: expected known actions", lattok.train, recipe.from_preset(few, tmp_path / "none", **options))


@pytest.mark.parametrize("family", ["fast", lattok.ImageLAM, None])
def test_what_is_no_family_of_tokenizers_has_no_recipe_of_one(family):
    refused("`family`", recipe_for, family)
