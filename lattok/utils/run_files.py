"""The folder of a training inside the folder of its model, and what it says of itself."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from lattok.utils import checks, files

RUN, CHECKPOINT, RECIPE = "run", "checkpoint.pt", "recipe.json"


def recorded(folder: Path, *names: str) -> str | None:
    """Return a text in the recipe.json of a run; None where there is no run in this folder, or a damaged one."""
    with suppress(checks.LattokError):
        found: Any = files.read_json(folder / RUN / RECIPE)
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) else None
    return None
