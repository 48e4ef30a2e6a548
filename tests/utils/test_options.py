"""Options in nested dataclasses, under flat names and back."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from lattok.action_vq import ActionVQConfig, UniformBins
from lattok.action_vq.bins import UniformBinsConfig
from lattok.hub import parse_config
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.clips import ClipLAMConfig
from lattok.utils.options import (
    GROUP,
    check_choices,
    knows_data,
    options_of,
    required,
)
from lattok.vla import VLAConfig
from tests.errors import refused


@dataclass(frozen=True)
class Inner:
    name: str = "compact"
    depth: int = 8


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
    said = refused(None, lambda: check_choices(Chosen(**changes), group))
    assert said == text
    assert [option.kind for option in options_of(Chosen)][2:] == [str, int]


@pytest.mark.parametrize("config", [ActionVQConfig, ImageLAMConfig, VLAConfig, ClipLAMConfig])
def test_families_say_what_they_need_of_the_data(config):
    assert not knows_data(config())
    needed = [each.name for each in required(config)]
    assert needed
    refused(f"expected the fields of {config.__name__}, got none", parse_config, config, {"type": "x"}, "config.json")


def test_models_are_not_made_before_the_data_is_known():
    for make in (lambda: UniformBins(UniformBinsConfig()), lambda: ImageLAM(ImageLAMConfig())):
        refused("A recipe's has no data yet", make)
