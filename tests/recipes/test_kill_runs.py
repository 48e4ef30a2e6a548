"""A few of the trials of scripts/kill_runs.py; the script itself does more, and some as users start them."""

import pytest

from scripts.kill_runs import JOBS, kill_study, write_sources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    write_sources(folder / "sources")
    return folder


@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_killed_at_random_moments(place, job):
    outcome = kill_study(place, job, kills=3, seed=1)
    assert outcome["kills"] == outcome["identical"] == outcome["source_untouched"] > 0
    assert not outcome["left_over"]
    assert not outcome["dead_ends"]
