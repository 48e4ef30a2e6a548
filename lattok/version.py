"""Version of this package, and of others."""

from collections.abc import Iterable

__version__ = "0.1.0"


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed, without importing any."""
    from importlib import metadata

    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
