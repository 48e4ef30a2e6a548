"""Actions of one space in the numbers of another one, where that is exact; everything else is an error that says why.

Exact are: forms of one rotation; scales, axes and signs; gripper conventions; deltas to absolute values and back, and
the tool's frame to the base's and back, both with the state that a delta starts from; velocities with `fps`.

Angles of Euler and axis-angle forms stay within (-pi, pi], so a series of absolute ones may jump by 2 pi where the
rotation does not; quaternions have w >= 0 and may change sign as a whole there. rot6d and matrix never jump.

Robots and hands have one space of actions and one of states in common (LatBot, Li et al., 2025, section 6.1):

    unified        [44]   left 0-6, right 7-13: changes of x y z, of Euler angles, gripper; 14-43: of ten fingertips
    unified_state  [46]   left 0-7, right 8-15: x y z, quaternion, gripper; 16-45: ten fingertips

What a robot lacks there is 0, and `known_dimensions` says which numbers mean something.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from lattok.data.actions.rotations import from_matrix, to_matrix, wrapped
from lattok.data.actions.space import ARMS, GRIPPERS, ActionSpace, Fingertips, Gripper, Joints, Part, Position, Rotation
from lattok.utils import checks

Space = ActionSpace | str | Sequence[Any]
P = TypeVar("P", bound=Part)


def convert_actions(
    actions: Any,
    source: Space,
    target: Space,
    *,
    state: Any = None,
    state_space: Space | None = None,
    fps: float | None = None,
    drop: Sequence[str] = (),
) -> np.ndarray:
    """Actions [..., m] of the space `source` as float32 [..., n] of the space `target`.

    `state` [..., s] of `state_space` is what deltas start from: measured states, or the targets of the step before.
    `drop` names kinds of parts, such as "rotation", that `target` leaves out. Parts that are the same in both keep
    their bits; the others are computed in float64.
    """
    source, target = ActionSpace.of(source, "source"), ActionSpace.of(target, "target")
    array = _checked("actions", actions, source)
    start = _start(array.shape[:-1], state, state_space, fps)
    _check_parts(source, target, drop)
    found = {part.key: (part, span) for part, span in source.spans()}
    result = np.empty((*array.shape[:-1], target.dim), dtype=np.float32)
    rows, flat = result.reshape(-1, target.dim), array.reshape(-1, source.dim)
    for part, span in target.spans():
        before, columns = found[part.key]
        if before == part:
            rows[:, span] = flat[:, columns]
            continue
        convert = CONVERSIONS.get(type(before))
        if convert is None or type(part) is not type(before):
            checks.fail("target", f"{before.text}, which is passed on as it is", part.text)
        rows[:, span] = convert(flat[:, columns].astype(np.float64), before, part, start)
    return result


@dataclass(frozen=True)
class _Start:
    """What deltas start from, and how long a step takes."""

    parts: dict[tuple[str, str], tuple[Part, np.ndarray]]
    fps: float | None

    def of(self, kind: type[P], arm: str, why: str) -> tuple[P, np.ndarray]:
        """Return the state's part of that kind and arm, with its numbers [N, k]."""
        part, numbers = self.parts.get((kind.kind, arm), (None, np.empty(0)))
        if not isinstance(part, kind):
            what = kind.kind + (f" of arm {arm!r}" if arm else "")
            expected = f"the {what} that a step starts from, for {why}"
            checks.fail("state", expected, "none", "Pass state and state_space.")
        return part, numbers


def _start(lead: tuple[int, ...], state: Any, space: Space | None, fps: float | None) -> _Start:
    if fps is not None:
        checks.frame_rate(fps=fps)
    if (state is None) != (space is None):
        checks.fail("state", "state and state_space together", "one of them")
    if state is None or space is None:
        return _Start({}, fps)
    space = ActionSpace.of(space, "state_space")
    array = _checked("state", state, space)
    if array.shape[:-1] != lead:
        checks.fail("state", f"one row for each of the actions {list(lead)}", f"{list(array.shape[:-1])}")
    flat = array.reshape(-1, space.dim).astype(np.float64)
    for part in space.parts:
        if getattr(part, "mode", "absolute") != "absolute":
            checks.fail("state_space", "absolute parts", part.text)
    return _Start({part.key: (part, flat[:, span]) for part, span in space.spans()}, fps)


def _checked(name: str, values: Any, space: ActionSpace) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim < 1:
        checks.fail(name, "an array of numbers", f"{array.dtype} of shape {list(array.shape)}")
    checks.size(name, f"dimensions ({', '.join(space.names)})", array.shape[-1], space.dim)
    if len(bad := np.argwhere(~np.isfinite(array))):
        *row, dim = bad[0].tolist()
        checks.fail(name, "finite numbers", f"{array[tuple(bad[0])]} in row {row}, dimension {space.names[dim]}")
    return array


def _check_parts(source: ActionSpace, target: ActionSpace, drop: Sequence[str]) -> None:
    """Check that every part of the target has a counterpart, and that others of the source are dropped by name."""
    kinds = {part.kind for part in source.parts}
    if not isinstance(drop, list | tuple):
        checks.fail("drop", "a list of kinds of parts", repr(drop))
    for name in drop:
        checks.one_of("drop", name, sorted(kinds))
    there, wanted = ({part.key for part in space.parts} for space in (source, target))
    for part in (part for part in target.parts if part.key not in there):
        if part.kind in ("position", "rotation") and "joints" in kinds:
            hint = "Where joints bring the tool is the robot's kinematics: convert with its own model, or keep joints."
        elif part.kind == "joints" and "position" in kinds:
            hint = "Which joints reach a pose is the robot's inverse kinematics: convert with its own model."
        else:
            hint = "Leave it out of the target, or give arms the same names in both."
        checks.fail("target", f"parts that the source has ({', '.join(p.text for p in source.parts)})", part.text, hint)
    for part in source.parts:
        if part.key not in wanted and part.kind not in drop:
            hint = f"Add it to the target, or drop it on purpose: drop=({part.kind!r},)."
            checks.fail("target", f"every part of the source, {part.text} among them", "a space without it", hint)


def _position(numbers: np.ndarray, before: Position, after: Position, start: _Start) -> np.ndarray:
    if {*before.plain_axes} != {*after.plain_axes}:
        checks.fail("target", f"the axes {', '.join(before.axes)} in any order", ", ".join(after.axes))
    vectors = _metres(numbers, before)
    if (before.mode, before.frame) != (after.mode, after.frame):
        why = f"{before.mode} ({before.frame}) to {after.mode} ({after.frame})"
        place = np.zeros(3)
        if "absolute" in (before.mode, after.mode):
            known, values = start.of(Position, before.arm, why)
            if not {*before.plain_axes} <= {*known.plain_axes}:
                checks.fail("state_space", f"a position with the axes {', '.join(before.plain_axes)}", known.text)
            place = _metres(values, known)
        turn = _orientation(before, start, why) if "tool" in (before.frame, after.frame) else np.eye(3)[None]
        # by way of deltas along the axes of the base
        if before.mode == "absolute":
            vectors = vectors - place
        elif before.frame == "tool":
            vectors = (turn @ vectors[..., None])[..., 0]
        if after.mode == "absolute":
            vectors = vectors + place
        elif after.frame == "tool":
            vectors = (np.swapaxes(turn, 1, 2) @ vectors[..., None])[..., 0]
    columns, signs = _columns(after)
    return vectors[:, columns] * signs / after.scale


def _columns(part: Position) -> tuple[list[int], list[float]]:
    """Return which of x, y and z the part has, and their signs."""
    signs = [-1.0 if axis.startswith("-") else 1.0 for axis in part.axes]
    return ["xyz".index(axis) for axis in part.plain_axes], signs


def _metres(numbers: np.ndarray, part: Position) -> np.ndarray:
    """Return metres along x, y and z [N, 3]; 0 for axes that the part does not have."""
    vectors, (columns, signs) = np.zeros((len(numbers), 3)), _columns(part)
    vectors[:, columns] = numbers * signs * part.scale
    return vectors


def _orientation(part: Position | Rotation, start: _Start, why: str) -> np.ndarray:
    """Return the tool's rotation at the start of each step, [N, 3, 3]."""
    known, values = start.of(Rotation, part.arm, why)
    return to_matrix(values * known.scale, known.form)


def _rotation(numbers: np.ndarray, before: Rotation, after: Rotation, start: _Start) -> np.ndarray:
    same = (before.mode, before.frame) == (after.mode, after.frame)
    if same and before.form == after.form:
        return numbers * (before.scale / after.scale)
    if same:
        return from_matrix(to_matrix(numbers * before.scale, before.form), after.form) / after.scale
    why = f"{before.mode} ({before.frame}) to {after.mode} ({after.frame})"
    old = _orientation(before, start, why)
    # by way of where the tool shall point
    if before.mode == "increment":
        new = to_matrix(_euler(before, start, why) + numbers * before.scale, "euler_xyz")
    else:
        given = to_matrix(numbers * before.scale, before.form)
        new = given if before.mode == "absolute" else given @ old if before.frame == "base" else old @ given
    if after.mode == "increment":
        found, before_it = from_matrix(new, "euler_xyz"), _euler(after, start, why)
        ways = [wrapped(angles - before_it) for angles in (found, found * [1, -1, 1] + np.pi)]  # both are this rotation
        nearer = np.abs(ways[1]).sum(-1, keepdims=True) < np.abs(ways[0]).sum(-1, keepdims=True)
        return np.where(nearer, ways[1], ways[0]) / after.scale
    back = np.swapaxes(old, 1, 2)
    turned = new if after.mode == "absolute" else new @ back if after.frame == "base" else back @ new
    return from_matrix(turned, after.form) / after.scale


def _euler(part: Rotation, start: _Start, why: str) -> np.ndarray:
    """Return the angles that increments are added to, as the state has them: another form does not say which."""
    known, values = start.of(Rotation, part.arm, why)
    if known.form != "euler_xyz":
        checks.fail("state_space", "a rotation as euler_xyz, which increments are added to", known.text)
    return values * known.scale


def _points(numbers: np.ndarray, before: Joints | Fingertips, after: Joints | Fingertips, start: _Start) -> np.ndarray:
    """Convert joints or fingertips, by way of deltas."""
    kind = before.kind
    checks.size("target", kind, after.size, before.size)
    values = numbers * before.scale
    if before.mode == after.mode:
        return values / after.scale
    why = f"{kind} from {before.mode} to {after.mode}"
    if "velocity" in (before.mode, after.mode) and start.fps is None:
        checks.fail("fps", f"frames per second, for {why}", "none", "A velocity is held for one frame.")
    place = np.zeros(1)
    if "absolute" in (before.mode, after.mode):
        known, place = start.of(type(before), before.arm, why)
        checks.size("state_space", kind, known.size, before.size)
        place = place * known.scale
    if before.mode == "absolute":
        values = values - place
    elif before.mode == "velocity":
        values = values / (start.fps or 1)
    if after.mode == "absolute":
        values = values + place
    elif after.mode == "velocity":
        values = values * (start.fps or 1)
    return values / after.scale


def _gripper(numbers: np.ndarray, before: Gripper, after: Gripper, start: _Start) -> np.ndarray:
    if not {before.convention, after.convention} <= GRIPPERS.keys():
        hint = "A width in metres does not say when a gripper counts as open. Keep it, or make the column yourself."
        checks.fail("target", f"a gripper of the convention {before.convention}", after.convention, hint)
    closed, opened = GRIPPERS[before.convention]
    least, most = GRIPPERS[after.convention]
    return least + (numbers - closed) / (opened - closed) * (most - least)


# of numbers [N, k] float64 of one part into those of its counterpart
CONVERSIONS: Any = {Position: _position, Rotation: _rotation, Joints: _points, Gripper: _gripper, Fingertips: _points}


def to_unified(
    values: Any, source: Space, unified: Space = "unified", *, arm: str = "right", drop: Sequence[str] = (), **more: Any
) -> np.ndarray:
    """Actions [..., m] of the space `source` as float32 [..., 44], or states [..., 46] with `unified="unified_state"`.

    Parts without an arm are those of `arm`. `drop` and `more` (state, state_space, fps) are as in `convert_actions`,
    and so is what cannot be converted.
    """
    mine, shared, columns, width = _in_common(source, "source", unified, arm, drop)
    found = convert_actions(values, mine, shared, drop=drop, **_with_arm(more, arm))
    result = np.zeros((*found.shape[:-1], width), dtype=np.float32)
    result[..., columns] = found
    return result


def from_unified(
    values: Any, target: Space, unified: Space = "unified", *, arm: str = "right", **more: Any
) -> np.ndarray:
    """Actions [..., 44] (or states [..., 46]) as float32 [..., m] of the space `target`: the way back of `to_unified`.

    Dimensions that `target` has no part for are ignored.
    """
    mine, shared, columns, width = _in_common(target, "target", unified, arm)
    array = np.asarray(values)
    checks.size("values", "numbers of the unified space", array.shape[-1], width)
    return convert_actions(array[..., columns], shared, mine, **_with_arm(more, arm))


def known_dimensions(
    source: Space, unified: Space = "unified", *, arm: str = "right", drop: Sequence[str] = ()
) -> np.ndarray:
    """Return which unified dimensions a robot with the space `source` has, bool [44] or [46]."""
    _, _, columns, width = _in_common(source, "source", unified, arm, drop)
    return np.isin(np.arange(width), columns)


def of_arm(space: Space, argument: str, arm: str) -> ActionSpace:
    """Return the space with an arm for every part."""
    checks.one_of("arm", arm, ARMS)
    parts = ActionSpace.of(space, argument).parts
    named: list[Any] = [part if getattr(part, "arm", "") else replace(part, arm=arm) for part in parts]
    return ActionSpace(tuple(named))


def _in_common(
    space: Space, argument: str, unified: Space, arm: str, drop: Sequence[str] = ()
) -> tuple[ActionSpace, ActionSpace, list[int], int]:
    """Return the space with arms, the parts (of a position the axes) that the unified one shares, and their columns."""
    mine, whole = of_arm(space, argument, arm), ActionSpace.of(unified, "unified")
    if not whole.is_unified:
        checks.fail("unified", "unified or unified_state", whole.text)
    own: dict[tuple[str, str], Any] = {part.key: part for part in mine.parts if part.kind not in drop}
    found = []
    for part in (part for part in whole.parts if part.key in own):
        if isinstance(part, Position):
            part = replace(part, axes=tuple(axis for axis in part.axes if axis in own[part.key].plain_axes))
        found.append(part)
    if not found:
        checks.fail("source", "a position, rotation, gripper or fingertips of the left or right arm", mine.text)
    shared = ActionSpace(tuple(found))
    return mine, shared, [whole.names.index(name) for name in shared.names], whole.dim


def _with_arm(given: dict[str, Any], arm: str) -> dict[str, Any]:
    space = given.get("state_space")
    return given if space is None else given | {"state_space": of_arm(space, "state_space", arm)}
