"""A few of the trials of scripts/kill_annotation.py; the script itself does a hundred."""

import pytest

from scripts.kill_annotation import full_disk, kill_study, read_only

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["copy", "beside"])
def test_killed_at_random_moments(tmp_path, mode):
    outcome = kill_study(tmp_path, mode, kills=8, seed=1)
    assert outcome["identical"] == outcome["source_untouched"] == outcome["kills"] == 8
    assert not outcome["left_over"]


def test_a_full_disk(tmp_path):
    outcome = full_disk(tmp_path)
    if "skipped" in outcome:
        pytest.skip(outcome["skipped"])
    assert outcome["identical_after_making_room"] == outcome["sizes"]
    assert "No space left on device" in outcome["first_line"]


def test_a_read_only_target(tmp_path):
    outcome = read_only(tmp_path)
    if "skipped" in outcome:
        pytest.skip(outcome["skipped"])
    assert outcome["source_untouched"]
    assert "Read-only file system" in outcome["line"]
