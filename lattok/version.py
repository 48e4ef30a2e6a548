"""Version of this package, and of others."""

import json
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

__version__ = "0.1.0"
INSTALL = "pip install lattok-*.whl"  # what cards and notebooks say; once it is on the index: "pip install lattok"
REPOSITORY = ""  # where it is public, such as "https://github.com/ORG/lattok": badges and Colab links point there
SIMULATORS = ("gymnasium", "mujoco", "metaworld", "ogbench")  # packages of the extra `sim` on which episodes depend
NO_WHEEL = {  # those that cannot be installed from some Python on, with what has no wheel there; `sim` leaves them out
    "metaworld": ((3, 14), "its mujoco 3.3.0"),
    "ogbench": ((3, 13), "labmaze, which its dm-control needs,"),
}


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed, without importing any."""
    from importlib import metadata

    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def no_wheel(package: str) -> tuple[str, str] | None:
    """Return what keeps a package of `sim` from this Python, and the newest Python without that; else None."""
    since, needed = NO_WHEEL.get(package, (None, ""))
    return None if since is None or sys.version_info < since else (needed, f"Python {since[0]}.{since[1] - 1}")


def install_extra(extra: str) -> str:
    """Return the command that adds an extra to this lattok, from where it came: a clone, a wheel, a repository.

    The name alone would ask an index, where it is not ours before the first release.
    """
    from importlib import metadata

    origin: dict[str, Any] = {}
    with suppress(metadata.PackageNotFoundError, ValueError):
        origin = json.loads(metadata.distribution("lattok").read_text("direct_url.json") or "{}")
    url, vcs, editable = str(origin.get("url", "")), origin.get("vcs_info"), ""
    path = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
    if vcs:
        what = f"lattok[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    elif path is not None and path.exists():
        what, editable = f"{path}[{extra}]", "-e " * bool(origin.get("dir_info", {}).get("editable"))
    elif INSTALL == "pip install lattok":
        what = f"lattok[{extra}]"
    else:
        return f"pip install '.[{extra}]' in a clone of lattok"
    return f"pip install {editable}{shlex.quote(what)}"
