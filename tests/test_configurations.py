"""Every number, word and switch of a configuration that is saved is checked where it is made, by its flat name."""

import math
from functools import cache
from typing import Any, Literal, get_origin

import pytest

from lattok.utils.options import flat, options_of, replaced
from tests.action_vq.families import cases, fitted
from tests.errors import refused
from tests.fuzz_artefacts import small_models
from tests.image_lam.clips.fakes import clip_lam

OTHERS = ("image-lam", "moto-lam", "idm", "proprio-map", "policy", "clip-lam")
SIGNED = ("min_token", "max_token")  # of FAST: any whole number
WRONG: dict[type, tuple[Any, ...]] = {  # by the type of what is right
    bool: (2, "yes"),
    int: (-1, 2.5, "4"),
    float: (math.nan, math.inf, -1.0, "x"),
}


@cache
def others() -> dict[str, Any]:
    return {**small_models(3), "clip-lam": clip_lam()}


@pytest.mark.parametrize("family", [*cases(False), *OTHERS])
def test_what_no_option_can_be_is_refused_by_name(family: str):
    config = others()[family].config if family in OTHERS else fitted(family).config
    values = flat(config)
    for option in options_of(type(config)):
        wrong = WRONG.get(type(values[option.name]), ())
        if get_origin(option.kind) is Literal:
            wrong = ("nonsense",)
        for value in wrong:
            if not (option.name in SIGNED and value == -1):
                refused(rf"`\S*{option.name}\b", replaced, config, **{option.name: value})
