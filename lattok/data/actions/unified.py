"""Robots and hands in one space of actions and one of states (LatBot, Li et al., 2025, section 6.1).

    unified        [44]   left 0-6, right 7-13: changes of x y z, of Euler angles, gripper; 14-43: of ten fingertips
    unified_state  [46]   left 0-7, right 8-15: x y z, quaternion, gripper; 16-45: ten fingertips

What a robot lacks is 0, and `known_dimensions` says which numbers mean something. All else is `convert_actions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lattok.data.actions.convert import Space, convert_actions
from lattok.data.actions.space import ARMS, UNIFIED, UNIFIED_STATE, ActionSpace, Part, Position
from lattok.utils import checks


def is_unified(space: ActionSpace) -> bool:
    """Tell whether it is one of the two spaces that a robot may have some parts of."""
    return space in (UNIFIED, UNIFIED_STATE)


def to_unified(
    values: Any,
    source: Space,
    unified: Space = "unified",
    *,
    arm: str = "right",
    drop: Sequence[str] = (),
    **start: Any,
) -> np.ndarray:
    """Actions [..., m] of the space `source` as float32 [..., 44], or states [..., 46] with `unified="unified_state"`.

    Parts without an arm are those of `arm`. `drop` and `start` (state, state_space, fps) are as in `convert_actions`,
    and so is what cannot be converted.
    """
    mine, whole = of_arm(source, "source", arm), _one_of_both(unified)
    shared = _shared(mine, whole, drop)
    found = convert_actions(values, mine, shared, drop=drop, **_start(start, arm))
    result = np.zeros((*found.shape[:-1], whole.dim), dtype=np.float32)
    result[..., _columns(shared, whole)] = found
    return result


def from_unified(
    values: Any, target: Space, unified: Space = "unified", *, arm: str = "right", **start: Any
) -> np.ndarray:
    """Actions [..., 44] (or states [..., 46]) as float32 [..., m] of the space `target`: the way back of `to_unified`.

    Numbers that `target` has no part for are not looked at.
    """
    mine, whole = of_arm(target, "target", arm), _one_of_both(unified)
    shared, array = _shared(mine, whole), np.asarray(values)
    checks.size("values", "numbers of the unified space", array.shape[-1], whole.dim)
    return convert_actions(array[..., _columns(shared, whole)], shared, mine, **_start(start, arm))


def known_dimensions(
    source: Space, unified: Space = "unified", *, arm: str = "right", drop: Sequence[str] = ()
) -> np.ndarray:
    """Tell which of the unified numbers a robot with the space `source` has, bool [44] or [46]."""
    whole = _one_of_both(unified)
    known = np.zeros(whole.dim, dtype=bool)
    known[_columns(_shared(of_arm(source, "source", arm), whole, drop), whole)] = True
    return known


def _one_of_both(unified: Space) -> ActionSpace:
    space = ActionSpace.of(unified, "unified")
    if not is_unified(space):
        checks.fail("unified", "unified or unified_state", space.text)
    return space


def of_arm(space: Space, argument: str, arm: str) -> ActionSpace:
    """Return the space with an arm for every part."""
    checks.one_of("arm", arm, ARMS)
    parts = ActionSpace.of(space, argument).parts
    return ActionSpace(tuple(part if getattr(part, "arm", "") else _replaced(part, arm=arm) for part in parts))


def _replaced(part: Any, **changes: Any) -> Part:
    return replace(part, **changes)


def _shared(mine: ActionSpace, whole: ActionSpace, drop: Sequence[str] = ()) -> ActionSpace:
    """Return the parts of the whole that there are here; of a position the axes."""
    own: dict[tuple[str, str], Any] = {part.key: part for part in mine.parts if part.kind not in drop}
    found = []
    for part in (part for part in whole.parts if part.key in own):
        if isinstance(part, Position):
            there = {axis.removeprefix("-") for axis in own[part.key].axes}
            part = replace(part, axes=tuple(axis for axis in part.axes if axis in there))
        found.append(part)
    if not found:
        checks.fail("source", "a position, rotation, gripper or fingertips of the left or right arm", mine.text)
    return ActionSpace(tuple(found))


def _columns(shared: ActionSpace, whole: ActionSpace) -> list[int]:
    return [whole.names.index(name) for name in shared.names]


def _start(given: dict[str, Any], arm: str) -> dict[str, Any]:
    space = given.get("state_space")
    return given if space is None else given | {"state_space": of_arm(space, "state_space", arm)}
