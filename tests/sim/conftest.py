"""What tests of simulators share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def images() -> None:
    """Skip where there is no OpenGL."""
    from lattok.sim import make
    from lattok.utils.checks import LattokError

    env = make("metaworld-pairs/drawer-open", size=32)
    try:
        env.start(0)
        env.render()
    except LattokError as error:
        pytest.skip(str(error))
    finally:
        env.close()


def marked(mark: str) -> list[int]:
    """Processes whose environment holds `mark`, NAME=VALUE."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
