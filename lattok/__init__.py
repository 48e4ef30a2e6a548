"""Latent-action tokenizers for robot learning. Names load lazily, so that `import lattok` stays light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "LattokError": "lattok.checks",
    "open_dataset": "lattok.data",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from lattok.checks import LattokError as LattokError
    from lattok.data import open_dataset as open_dataset


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lattok' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
