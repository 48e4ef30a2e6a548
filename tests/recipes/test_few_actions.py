"""The study of few actions: hides, infers, trains and compares; killed and continued, it ends with the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from lattok.recipes.few_actions import FewActions, _answer, try_few_actions
from lattok.samples.batches import PolicyBatches
from tests.conftest import write_dataset
from tests.errors import refused
from tests.recipes.policies import SIZES, stopped

IDM = {"steps": 2, "batch_size": 4, "image_size": 32, "device": "cpu"}
POLICY = {**SIZES, "steps": 2, "batch_size": 4, "device": "cpu"}


def study(data: Path, out: Path, **options) -> FewActions:
    return try_few_actions(data, out, "2 per task", seeds=2, idm=IDM, policy=POLICY, **options)


def test_a_study_that_is_killed_ends_with_the_same_numbers(tmp_path):
    data = write_dataset(tmp_path / "data", [14, 12, 13, 12, 15, 11, 12, 13])
    found = study(data, tmp_path / "whole")
    assert {arm: values.shape for arm, values in found.errors.items()} == dict.fromkeys(
        ("known", "video", "proprio", "all"), (2, 2)
    )
    assert "Unclear from 2 held-out episodes" in found.answer
    assert not np.array_equal(found.errors["known"], found.errors["all"])
    assert (tmp_path / "whole/few_actions.md").read_text().startswith("| the policy learns from |")
    for step in (0, 1):  # of the inverse model, then of the first policy
        with stopped(PolicyBatches, step):
            study(data, tmp_path / "killed")
    again = study(data, tmp_path / "killed")
    for arm, values in found.errors.items():
        np.testing.assert_array_equal(again.errors[arm], values)
    refused(
        "`out`: expected a study with the same settings",
        study,
        data,
        tmp_path / "whole",
        action_key="observation.state",
    )
    assert json.loads((tmp_path / "whole/few_actions.json").read_text())["settings"]["seeds"] == 2


@pytest.mark.parametrize(
    ("shift", "noise", "says"),
    [
        (0.4, 0.01, "is worth it here: the error is 40% lower"),
        (-0.4, 0.01, "is not worth it here"),
        (0.0, 0.5, "not shown"),
    ],
)
def test_the_answer_follows_the_interval_over_episodes(shift, noise, says):
    rng = np.random.default_rng(0)
    known = np.ones((3, 8))
    inferred = 1 - shift + noise * rng.standard_normal((3, 8))
    found = _answer({"known": known, "video": inferred, "all": known})
    assert says in found.answer
    assert found.route == "video"
    gains = (known - inferred).mean(0)
    half = 2.364624 * gains.std(ddof=1) / np.sqrt(8)  # t of 7 degrees of freedom
    assert found.gain is not None
    np.testing.assert_allclose(found.gain, (gains.mean() - half, gains.mean() + half), rtol=1e-5)


def test_the_best_of_several_routes_needs_a_wider_interval():
    rng = np.random.default_rng(0)
    known, noise = np.ones((3, 8)), 0.2 * rng.standard_normal((3, 8))
    errors = {"known": known, "video": known + noise, "proprio": known - 0.3 + noise, "all": known}
    found = _answer(errors)
    assert found.route == "proprio"
    assert "(from the robot's state)" in found.answer
    gains = (known - errors["proprio"]).mean(0)
    half = 2.841244 * gains.std(ddof=1) / np.sqrt(8)  # t of 7 degrees of freedom at 1 - .05 / 4
    assert found.gain is not None
    np.testing.assert_allclose(found.gain, (gains.mean() - half, gains.mean() + half), rtol=1e-5)


def test_routes_are_those_asked_for(tmp_path):
    data = write_dataset(tmp_path / "data", [14, 12, 13, 12, 15, 11, 12, 13])
    refused("`routes`: expected one of video, proprio, both", try_few_actions, data, tmp_path / "out", routes=["films"])
    options = {"seeds": 1, "routes": ["proprio"], "idm": {"device": "cpu"}, "policy": POLICY}
    found = try_few_actions(data, tmp_path / "out", "1 per task", **options)
    assert [*found.errors] == ["known", "proprio", "all"]
    assert not (tmp_path / "out/models/video").exists()
