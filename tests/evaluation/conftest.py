"""What tests of the evaluation share."""

from collections.abc import Iterator

import pytest

from lattok.evaluation.evidence import probes


@pytest.fixture(scope="module")
def short_mlps() -> Iterator[None]:
    """For tests of other things: what MLPs find is tested in test_mlp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "STEPS", 5)
        yield
