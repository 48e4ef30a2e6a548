"""Version of this package, and of others."""

from collections.abc import Iterable
from contextlib import suppress

__version__ = "0.1.0"
INSTALL = "pip install lattok-*.whl"  # what cards and notebooks say; once it is on the index: "pip install lattok"
REPOSITORY = ""  # where it is public, such as "https://github.com/ORG/lattok": badges and Colab links point there
SIMULATORS = ("gymnasium", "mujoco", "metaworld", "ogbench")  # packages of the extra `sim` on which episodes depend


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed, without importing any."""
    from importlib import metadata

    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
