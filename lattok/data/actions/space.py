"""What the numbers of an action mean: an `ActionSpace` is a tuple of parts over consecutive dimensions.

    ActionSpace((Position(), Rotation("euler_xyz"), Gripper("open_is_1")))      in Python
    [{"part": "position"}, {"part": "rotation", "form": "euler_xyz"},           in JSON
     {"part": "gripper", "convention": "open_is_1"}]
    "bridge"                                                                    by name (`PRESETS`)

A dataset declares spaces by column, in `meta/action_space.json` or under `action_space` of a description file:
{"action": "bridge", "observation.state": [...]}. Nothing is guessed from numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate, chain
from typing import Any, ClassVar, Literal

from lattok.data.actions.rotations import SIZES, Form
from lattok.utils import checks
from lattok.utils.options import check_choices
from lattok.utils.untrusted import typed

# Number that stands for closed and for open.
GRIPPERS = {
    "open_is_1": (0.0, 1.0),
    "closed_is_1": (1.0, 0.0),
    "open_is_plus_1": (-1.0, 1.0),
    "closed_is_plus_1": (1.0, -1.0),
}
MAX_DIMENSIONS, MAX_PARTS = 1 << 16, 1000  # of a space: a declaration with more is a mistake or an attack
Mode = Literal["delta", "absolute"]
Frame = Literal["base", "tool"]
FINGERS = ("thumb", "index", "middle", "ring", "little")


@dataclass(frozen=True)
class Part:
    """Some of the dimensions of an action. `arm` tells parts of one kind apart, such as "left" and "right"."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_choices(self)
        checks.positive(scale=getattr(self, "scale", 1.0))
        checks.counts(1, MAX_DIMENSIONS, n=getattr(self, "n", 1))
        mode, frame = getattr(self, "mode", "delta"), getattr(self, "frame", "base")
        if mode != "delta" and frame != "base":
            checks.fail("frame", f"base with mode={mode}", repr(frame), "Only deltas can be along the tool's own axes.")

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the part in its space, and its counterpart in another one."""
        return self.kind, getattr(self, "arm", "")

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        arm = self.key[1]
        return tuple(f"{arm}_{name}" if arm else name for name in self.own_names())

    def own_names(self) -> Iterable[str]:
        return (self.kind,)

    @property
    def text(self) -> str:
        """The part in words, for messages."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        more = ", ".join(f"{name}={value!r}" for name, value, default in values if value != default)
        return f"{self.kind}({more})"


@dataclass(frozen=True)
class Position(Part):
    """Where the tool goes: by how much (`delta`), along the axes of the base or of the tool, or where to (`absolute`).

    `scale`: metres for one unit of the numbers. `axes`: what the numbers are, "-x" where the sign is turned around.
    """

    mode: Mode = "delta"
    frame: Frame = "base"
    scale: float = 1.0
    axes: tuple[str, ...] = ("x", "y", "z")
    arm: str = ""
    kind: ClassVar[str] = "position"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "axes", tuple(self.axes))
        plain = self.plain_axes
        if not plain or len(set(plain)) != len(plain) or not set(plain) <= {"x", "y", "z"}:
            checks.fail("axes", 'different ones of "x", "y", "z", each with or without "-"', repr(self.axes))
        if self.frame == "tool" and len(plain) != 3:
            checks.fail("axes", "all three in the frame of the tool", repr(self.axes))

    @property
    def plain_axes(self) -> list[str]:
        return [axis.removeprefix("-") for axis in self.axes]

    def own_names(self) -> Iterable[str]:
        return self.axes


@dataclass(frozen=True)
class Rotation(Part):
    """How the tool turns, in one of the forms of `rotations`, or which way it shall point (`absolute`).

    A `delta` is a rotation: about the axes of the base, new = delta @ old, or of the tool, new = old @ delta. An
    `increment` is what Euler angles grow by, which is no rotation of its own. `scale`: radians for one unit.
    """

    form: Form
    mode: Literal["delta", "absolute", "increment"] = "delta"
    frame: Frame = "base"
    scale: float = 1.0
    arm: str = ""
    kind: ClassVar[str] = "rotation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "increment" and self.form != "euler_xyz":
            checks.fail("form", "euler_xyz with increments", repr(self.form))
        if self.scale != 1 and SIZES[self.form] != 3:
            checks.fail("scale", f"1 for {self.form}, whose numbers are no angles", self.scale)

    def own_names(self) -> Iterable[str]:
        if self.form == "euler_xyz":
            return "roll", "pitch", "yaw"
        letters = {"axis_angle": "xyz", "quaternion_xyzw": "xyzw", "quaternion_wxyz": "wxyz"}
        return (f"r{end}" for end in letters.get(self.form, map(str, range(SIZES[self.form]))))


@dataclass(frozen=True)
class Joints(Part):
    """`n` joints: where to (`absolute`), by how much (`delta`), or how fast (`velocity`, per second).

    `scale`: radians (or metres) for one unit; pi / 180 for degrees.
    """

    n: int
    mode: Literal["absolute", "delta", "velocity"] = "absolute"
    scale: float = 1.0
    arm: str = ""
    kind: ClassVar[str] = "joints"

    def own_names(self) -> Iterable[str]:
        return (f"joint_{i}" for i in range(self.n))


@dataclass(frozen=True)
class Gripper(Part):
    """How far the gripper is open: 0 to 1 or -1 to 1, either way round, or its `width` in metres."""

    convention: Literal["open_is_1", "closed_is_1", "open_is_plus_1", "closed_is_plus_1", "width"]
    arm: str = ""
    kind: ClassVar[str] = "gripper"


@dataclass(frozen=True)
class Fingertips(Part):
    """Where the five tips of a hand go, from the thumb on: x, y and z of each along the axes of the base.

    `scale`: metres for one unit of the numbers.
    """

    mode: Mode = "delta"
    scale: float = 1.0
    arm: str = ""
    kind: ClassVar[str] = "fingertips"

    def own_names(self) -> Iterable[str]:
        return (f"{finger}_{axis}" for finger in FINGERS for axis in "xyz")


@dataclass(frozen=True)
class Other(Part):
    """`n` numbers whose meaning only matters to whoever reads them; they are passed on as they are."""

    n: int
    arm: str = ""
    kind: ClassVar[str] = "other"

    def own_names(self) -> Iterable[str]:
        return (f"other_{i}" for i in range(self.n))


KINDS: dict[str, type[Part]] = {part.kind: part for part in (Position, Rotation, Joints, Gripper, Other, Fingertips)}


@dataclass(frozen=True)
class ActionSpace:
    """Parts over consecutive dimensions."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            checks.fail("action_space", "at least one part", "none")
        keys = [part.key for part in self.parts]
        for kind, arm in keys:
            if keys.count((kind, arm)) > 1:
                checks.fail("action_space", "parts that differ in kind or `arm`", f"two of kind {kind!r}", "Name arms.")

    @classmethod
    def of(cls, value: "ActionSpace | str | Sequence[Any]", argument: str = "action_space") -> "ActionSpace":
        """A space from itself, the name of a preset, or a list of parts, each a `Part` or its JSON."""
        if isinstance(value, ActionSpace):
            return value
        if isinstance(value, str):
            checks.one_of(argument, value, PRESETS)
            return PRESETS[value]
        if not isinstance(value, list | tuple):
            checks.fail(argument, f"a list of parts, or one of {', '.join(PRESETS)}", type(value).__name__)
        if len(value) > MAX_PARTS:
            checks.fail(argument, f"at most {MAX_PARTS:,} parts", f"{len(value):,}")
        return cls(tuple(part if isinstance(part, Part) else _part(part, argument) for part in value))

    @property
    def is_unified(self) -> bool:
        """Whether it is one of the two unified spaces, of which a robot may have only some parts."""
        return self in (UNIFIED, UNIFIED_STATE)

    @property
    def dim(self) -> int:
        """Dimensions in all."""
        return sum(part.size for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each dimension."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def text(self) -> str:
        """The parts in words, for messages."""
        return ", ".join(part.text for part in self.parts)

    def spans(self) -> list[tuple[Part, slice]]:
        """Return every part with its dimensions."""
        ends = accumulate(part.size for part in self.parts)
        return [(part, slice(end - part.size, end)) for part, end in zip(self.parts, ends, strict=True)]

    def to_json(self) -> list[dict[str, Any]]:
        """Return JSON from which `of` makes an equal space."""
        values = ({"part": part.kind, **asdict(part)} for part in self.parts)
        return [{name: list(v) if isinstance(v, tuple) else v for name, v in value.items()} for value in values]


def _part(value: Any, argument: str) -> Part:
    if not isinstance(value, Mapping) or "part" not in value:
        checks.fail(argument, 'parts such as {"part": "gripper", "convention": "open_is_1"}', f"{value!r:.60}")
    checks.one_of(f"{argument}: part", value["part"], KINDS)
    given = {name: each for name, each in value.items() if name != "part"}
    return typed(given, KINDS[value["part"]], f"{argument}: {value['part']}")


_DELTA_EULER = ActionSpace((Position(), Rotation("euler_xyz"), Gripper("open_is_1")))
# robosuite's OSC_POSE: one unit is 5 cm, or half a radian
_OSC_POSE = ActionSpace((Position(scale=0.05), Rotation("axis_angle", scale=0.5), Gripper("closed_is_plus_1")))
ARMS = ("left", "right")


def _both_arms(mode: Mode, form: Form) -> ActionSpace:
    """What robots and hands have in common (LatBot, Li et al., 2025, section 6.1); see `convert.to_unified`."""
    arms = ((Position(mode, arm=arm), Rotation(form, mode, arm=arm), Gripper("open_is_1", arm=arm)) for arm in ARMS)
    return ActionSpace((*chain.from_iterable(arms), *(Fingertips(mode, arm=arm) for arm in ARMS)))


UNIFIED, UNIFIED_STATE = _both_arms("delta", "euler_xyz"), _both_arms("absolute", "quaternion_xyzw")
PRESETS: dict[str, ActionSpace] = {
    "bridge": _DELTA_EULER,
    "open_x": _DELTA_EULER,  # as Octo and OpenVLA lay out what they train on
    "libero": _OSC_POSE,
    "robomimic": _OSC_POSE,
    "metaworld": ActionSpace((Position(scale=0.01), Gripper("closed_is_plus_1"))),
    "aloha": ActionSpace(tuple(part for arm in ARMS for part in (Joints(6, arm=arm), Gripper("open_is_1", arm=arm)))),
    "franka_joints": ActionSpace((Joints(7), Gripper("open_is_1"))),
    "unified": UNIFIED,
    "unified_state": UNIFIED_STATE,
}
