"""Published checkpoints as lattok models: `lattok.convert.lapa_laq(path)`. Each importer is beside its model.

Each raises a `LattokError` that lists every tensor that is missing, unexpected or of another shape. Names are those of
the command, with _ for -; `lattok.hub.checkpoint` says how an importer registers itself.
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
