"""What an editor knows about the results of `train`: the class that each recipe trains."""

from typing import Any, get_type_hints

from typing_extensions import get_overloads

from lattok.recipes import Recipe, train


def test_every_recipe_names_the_class_that_it_trains():
    said = {}
    for overload in get_overloads(train):
        hints = get_type_hints(overload)
        said[hints["recipe"]] = hints["return"]
        assert hints["return"] is not Any
    for recipe in leaves(Recipe):
        assert said[recipe] is (getattr(recipe, "family", None) or trained_by(recipe))


def leaves(kind):
    below = [leaf for part in kind.__subclasses__() for leaf in leaves(part)]
    return below or [kind]


def trained_by(recipe):
    from lattok.hub import FAMILIES

    return next(model for model in FAMILIES.values() if getattr(model, "config_class", None) is recipe.model_class)
