"""Options in nested dataclasses, under flat names and back."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest

from lattok.utils.checks import LattokError
from lattok.utils.options import GROUP, built, check_choices, defaults_of, flat, options_of


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
    assert defaults_of(Outer) == {"decoder": "compact", "decoder_depth": 2, "last": None}


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
    assert [option.kind for option in options_of(Chosen)] == [str, str, str, int]
