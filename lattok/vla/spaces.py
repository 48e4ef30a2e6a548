"""What the numbers of a policy mean, and those of the robot that it acts on, where they are others."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.data import ActionSpace, convert_actions, from_unified, known_dimensions, to_unified
from lattok.data.actions.space import UNIFIED, UNIFIED_STATE
from lattok.utils import checks
from lattok.vla.model import LatentVLA


def robot_spaces(policy: LatentVLA) -> dict[str, ActionSpace]:
    """Return what the numbers of its dataset's robot mean, of those ("actions", "state") that the policy has unified.
    Of a mixture only `for_dataset` tells."""
    said = (policy.trained_on or {}).get("robot_spaces", {})
    return {part: ActionSpace.of(space, f"training.json: {part}") for part, space in said.items()}


def to_robot(policy: LatentVLA, own: ActionSpace, space: ActionSpace) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns a policy's actions [..., m] of the space `own` into [..., n] of `space`, those of a robot.
    Parts without an arm are of the arm that a unified policy has."""
    if not own.is_unified or space.is_unified:
        return partial(convert_actions, source=own, target=space)
    return partial(from_unified, target=space, unified=own, arm=_arm_of(policy))


def from_robot(policy: LatentVLA, given: Any, argument: str) -> tuple[int, Callable[[Tensor], Tensor]]:
    """Return how many numbers a robot's state has, and what makes the policy's proprio of them, [s] to [k]. `given` is
    the space of that state, for policies of the unified one; `argument` is what errors call it. Numbers of the unified
    state that were 0 in all demonstrations stay 0."""
    config, maps = policy.config, policy.proprio_normalizer
    if maps is None or tuple(config.proprio_names) != UNIFIED_STATE.names:
        if given is not None:
            hint = "Leave it out: the state is given as it is."
            checks.fail(argument, "none unless the policy has the unified state", f"{given!r:.60}", hint)
        return config.proprio_dim, lambda state: state
    if given is None:
        hint = 'Give a list of parts, such as [{"part": "position", "mode": "absolute"}].'
        checks.fail(argument, "what the state's numbers mean, for a policy of the unified state", "none", hint)
    space = ActionSpace.of(given, argument)
    moved = ((maps.shift != 0) | (maps.scale != 1)).numpy(force=True)
    kinds = {part.kind for part, span in UNIFIED_STATE.spans() if moved[span].any()}
    options: dict[str, Any] = {"unified": UNIFIED_STATE, "arm": _arm_of(policy)}
    options["drop"] = [kind for kind in dict.fromkeys(part.kind for part in space.parts) if kind not in kinds]
    lacking = np.flatnonzero(moved & ~known_dimensions(space, **options))
    if len(lacking):
        names = checks.listed(UNIFIED_STATE.names[dim] for dim in lacking)
        checks.fail(argument, f"{names} too, as in the policy's training", space.text)
    convert = partial(to_unified, source=space, **options)
    convert(np.empty((0, space.dim)))  # raises where it cannot

    def read(state: Tensor) -> Tensor:
        checks.size("state", f"numbers ({', '.join(space.names)})", state.numel(), space.dim)
        if not torch.isfinite(state).all():
            checks.fail("state", "finite numbers", str(state.tolist()))
        return torch.from_numpy(convert(state.flatten().numpy()) * moved)

    return space.dim, read


def _arm_of(policy: LatentVLA) -> str:
    """Return the arm of a unified policy that parts without one are of."""
    absent = policy.config.absent[0] if policy.config.absent else ()
    right = [dim for dim, name in enumerate(UNIFIED.names) if name.startswith("right_")]
    return "left" if {*right} <= {*absent} else "right"
