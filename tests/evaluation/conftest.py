"""What tests of the evaluation share."""

from collections.abc import Iterator

import pytest

from lattok.evaluation.evidence import probes
from tests.evaluation.worlds import World


@pytest.fixture(scope="module")
def short_mlps() -> Iterator[None]:
    """For tests of other things: what MLPs find is tested in test_probes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "STEPS", 5)
        yield


@pytest.fixture(scope="session")
def black_world() -> World:
    """Two tasks, and nothing to be seen but the numbers of frames."""
    return World(episodes=16, length=24, black=True, tasks=2)
