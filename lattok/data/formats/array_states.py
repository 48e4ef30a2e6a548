"""The state of robots whose position, rotation and gripper are arrays of their own."""

import re
from collections.abc import Mapping

from lattok.data.formats.array_layouts import STATES
from lattok.data.formats.array_rows import Stored, StoredArray


def state_of(parts_of: Mapping[str, Stored]) -> tuple[Stored, tuple[str, ...]] | None:
    """Return what a state is made of, with its dimensions; of several robots or arms of robosuite those of all, right
    before left."""
    for owner, names, known in STATES:
        first = (re.fullmatch(rf"observation\.({owner}){names[0]}", key) for key in parts_of)
        owners = sorted((each[1] for each in first if each), key=lambda own: (own[:7], "left" in own))
        found, dimensions = list[StoredArray](), list[str]()
        for own, (place, name) in ((own, each) for own in owners for each in enumerate(names)):
            for part in parts_of.get(f"observation.{own}{name}", ()):
                width = part.shape[0] if len(part.shape) == 1 else 0
                told = known[place] if place < len(known) else tuple(f"gripper_{i}" for i in range(width))
                if width and len(told) == width:
                    found.append(part)
                    dimensions += [f"{own if len(owners) > 1 else ''}{each}" for each in told]
        if found and len(found) == len(owners) * len(names):
            return tuple(found), tuple(dimensions)
    return None
