"""Damaged datasets give an error of one line or the right values: never a crash, a hang or wrong numbers unnoticed."""

from pathlib import Path

import pytest

from tests.data import fuzz

pytest.importorskip("h5py")


def report(outcomes: list[fuzz.Outcome]) -> str:
    return "\n" + fuzz.summary(outcomes, 0)


@pytest.mark.ci
def test_some_damaged_datasets(tmp_path: Path):
    outcomes = list(fuzz.run(42, 7000, tmp_path))
    assert not [o for o in outcomes if o.verdict in fuzz.FAILURES], report(outcomes)
    assert len({o.case.format for o in outcomes}) == 12


@pytest.mark.slow
def test_five_hundred_damaged_datasets(tmp_path: Path):
    outcomes = list(fuzz.run(500, 0, tmp_path))
    assert not [o for o in outcomes if o.verdict in fuzz.FAILURES], report(outcomes)
    assert sum(o.verdict in ("refused", "right") for o in outcomes) > 350, report(outcomes)


def test_the_comparison_sees_wrong_values():
    """What the verdicts rest on: other values are found where a checksum should have told."""
    case = fuzz.Case("rlds", "toy.tfrecord-00000-of-00001", "flip", 0)
    expected = {"facts": "x", "episode 0": "y", "0 action": "1", "1 action": "2"}
    assert fuzz.judge(case, {"found": dict(expected)}, expected).verdict == "right"
    assert fuzz.judge(case, {"found": expected | {"0 action": "3"}}, expected).verdict == "different"
    assert fuzz.judge(case, {"found": expected | {"0 action": "error: x"}}, expected).verdict == "refused"
    assert fuzz.judge(case, {"found": {"facts": "x"}}, expected).verdict == "different"
    assert fuzz.judge(case, {"found": {"open": "error: x"}}, expected).verdict == "refused"
    refused = expected | {"episode 0": "z", "0 action": "error: x"}
    assert fuzz.judge(case, {"found": refused}, expected).verdict == "refused"
    assert fuzz.judge(case, {"found": expected | {"episode 0": "z"}}, expected).verdict == "different"
    listed = {"facts": "x", "damaged 0": "error: x", "1 action": "2"}
    assert fuzz.judge(case, {"found": listed}, expected).verdict == "refused"
    video = case._replace(format="video", file="a.mp4")
    assert fuzz.judge(video, {"found": expected | {"0 action": "3"}}, expected).verdict == "unchecked"
    moved = video._replace(damage="swap")
    swapped = expected | {"0 action": "2", "1 action": "1"}
    assert fuzz.judge(moved, {"found": swapped}, expected).verdict == "renumbered"
    assert fuzz.judge(moved, {"crash": "exit status -11"}, expected).verdict == "crash"
