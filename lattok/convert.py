"""Published checkpoints as lattok models: `lattok.convert.lapa_laq(path)`. Each importer stands with its model.

Each raises `LattokError` that lists every tensor that is missing, unexpected or mis-shaped. `lattok.hub.checkpoint`
says how one registers itself; a name here is that of the command, with _ for -.
"""

from collections.abc import Callable
from typing import Any

from lattok.hub.checkpoint import IMPORTERS


def __getattr__(name: str) -> Callable[..., Any]:
    importer = IMPORTERS.get(name.replace("_", "-")) if not name.startswith("_") else None
    if importer is None:
        raise AttributeError(f"lattok.convert has {', '.join(__dir__())}, not {name!r}")
    return importer.read


def __dir__() -> list[str]:
    return [name.replace("-", "_") for name in IMPORTERS]
