"""Damaged datasets give an error of one line or the right values: never a crash, a hang or wrong numbers unnoticed."""

import random
from pathlib import Path

import pytest

from tests.data import fuzz
from tests.data.damage import damage_one
from tests.data.specimens import WRITERS

pytest.importorskip("h5py")


def report(outcomes: list[fuzz.Outcome]) -> str:
    return "\n" + fuzz.summary(outcomes, 0)


@pytest.mark.ci
def test_some_damaged_datasets(tmp_path: Path):
    outcomes = list(fuzz.run(42, 9000, tmp_path))
    assert not [o for o in outcomes if o.verdict in fuzz.FAILURES], report(outcomes)
    assert {o.case.format for o in outcomes} == WRITERS.keys()


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


def test_crashes_and_hangs_are_told_and_the_next_case_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = """import sys, time, os
for line in sys.stdin:
    if "crash" in line: os.kill(os.getpid(), 11)
    if "hang" in line: time.sleep(60)
    print('{"found": {}}', flush=True)
"""
    monkeypatch.setattr(fuzz, "CHILD", program)
    with fuzz.Reader() as reader:
        assert reader.read(Path("fine"), {}) == {"found": {}}
        assert reader.read(Path("crash"), {}) == {"crash": "exit status -11"}
        monkeypatch.setattr(fuzz, "LIMIT_S", 0.5)
        monkeypatch.setattr(fuzz, "START_S", 0.0)
        assert reader.read(Path("hang"), {}) == {"hang": "no answer in 0.5 s"}
        monkeypatch.setattr(fuzz, "LIMIT_S", 30.0)
        assert reader.read(Path("fine"), {}) == {"found": {}}


@pytest.mark.parametrize("seed", range(20))
def test_damage_depends_on_the_seed_only(tmp_path: Path, seed: int):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text('{"a": 1, "b": [2, 3]}')
        (tmp_path / name / "y.json").write_text('{"c": 1}')
        (tmp_path / name / "z.bin").write_bytes(bytes(range(200)))
        damage_one(tmp_path / name, random.Random(seed))
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert first == second
