"""Options in nested dataclasses, under flat names and back."""

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest

from lattok.action_vq import ActionVQConfig, UniformBins
from lattok.action_vq.bins import UniformBinsConfig
from lattok.hub import parse_config
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.clips import ClipLAMConfig
from lattok.utils.checks import LattokError
from lattok.utils.options import (
    FROM_DATA,
    GROUP,
    REQUIRED,
    built,
    check_choices,
    check_knows_data,
    flat,
    knows_data,
    options_of,
    required,
)
from lattok.vla import VLAConfig


@dataclass(frozen=True)
class Inner:
    name: str = "compact"
    depth: int = 8


@dataclass(frozen=True)
class Outer:
    size: int
    decoder: Inner = field(default_factory=partial(Inner, depth=2), metadata=GROUP)
    last: float | None = None


def test_names_are_paths_and_a_groups_name_is_its_own():
    assert [option.name for option in options_of(Outer)] == ["size", "decoder", "decoder_depth", "last"]
    assert [option.path for option in options_of(Outer)][1:3] == [("decoder", "name"), ("decoder", "depth")]


def test_flat_and_back_keep_everything_and_what_is_left_out_is_the_default_of_its_place():
    made = Outer(3, Inner("sana", 5), 0.5)
    assert flat(made) == {"size": 3, "decoder": "sana", "decoder_depth": 5, "last": 0.5}
    assert built(Outer, flat(made)) == made
    assert built(Outer, {"size": 1, "decoder": "sana"}) == Outer(1, Inner("sana", 2))


@dataclass(frozen=True)
class Chosen:
    name: Literal["tall", "wide"] = "tall"
    side: Literal["left", "right"] = "left"
    inner: Inner = field(default_factory=Inner, metadata=GROUP)


@pytest.mark.parametrize(
    ("changes", "group", "text"),
    [
        ({"name": "flat"}, "", "`name`: expected one of tall, wide, got 'flat'."),
        ({"name": "flat"}, "shape", "`shape`: expected one of tall, wide, got 'flat'."),
        ({"side": 3}, "shape", "`shape_side`: expected one of left, right, got 3."),
        ({"inner": "sana"}, "", "`inner`: expected an object of Inner, got 'sana'."),
    ],
)
def test_words_are_those_of_their_type_and_groups_their_dataclass(changes: dict[str, Any], group: str, text: str):
    check_choices(Chosen())
    with pytest.raises(LattokError) as error:
        check_choices(Chosen(**changes), group)
    assert str(error.value) == text
    assert [option.kind for option in options_of(Chosen)][2:] == [str, int]


@dataclass(frozen=True)
class Config:
    dims: int = field(default=0, metadata=REQUIRED)
    cameras: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    width: int = 8


def test_a_configuration_knows_the_data_once_one_of_the_required_fields_does():
    assert not knows_data(Config(width=3, names=("a",)))
    assert knows_data(Config(dims=2))
    assert knows_data(Config(cameras=("front",)))
    assert knows_data(Inner())  # needs nothing
    check_knows_data(Config(dims=2))
    text = "`config`: expected one with dims, cameras, got a Config without. A recipe's has no data yet."
    with pytest.raises(LattokError, match=re.escape(text)):
        check_knows_data(Config())


@pytest.mark.parametrize("config", [ActionVQConfig, ImageLAMConfig, VLAConfig, ClipLAMConfig])
def test_families_say_what_they_need_of_the_data(config):
    assert not knows_data(config())
    needed = [each.name for each in required(config)]
    assert needed
    with pytest.raises(LattokError, match=f"expected the fields of {config.__name__}, got none of {', '.join(needed)}"):
        parse_config(config, {"type": "x"}, "config.json")


def test_models_are_not_made_before_the_data_is_known():
    for make in (lambda: UniformBins(UniformBinsConfig()), lambda: ImageLAM(ImageLAMConfig())):
        with pytest.raises(LattokError, match="A recipe's has no data yet"):
            make()
