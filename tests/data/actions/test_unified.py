"""LatBot's unified spaces: where each number stands by the paper's list, scipy's rotations, and the way back."""

import json
import pickle

import numpy as np
import pytest

from lattok.data import export, from_unified, open_dataset, to_unified
from lattok.data.actions.space import (
    UNIFIED,
    UNIFIED_STATE,
    ActionSpace,
    Fingertips,
    Gripper,
    Joints,
    Position,
    Rotation,
)
from tests.conftest import write_dataset
from tests.errors import refused

LIBERO = [Position(scale=0.05), Rotation("axis_angle", scale=0.5), Gripper("closed_is_plus_1")]
HANDS = [
    part
    for arm in ("left", "right")
    for part in (Position("absolute", arm=arm), Rotation("rot6d", "absolute", arm=arm), Fingertips("absolute", arm=arm))
]  # EgoDex: 48 numbers


def test_numbers_stand_where_the_paper_says():
    """Section 6.1 counts from 1: 1-7 left, 8-14 right, 15-44 fingertips; states 1-8, 9-16, 17-46."""
    assert (UNIFIED.dim, UNIFIED_STATE.dim, ActionSpace.of(HANDS).dim) == (44, 46, 48)
    spans = {part.key: (span.start + 1, span.stop) for part, span in UNIFIED.spans()}
    assert spans["position", "left"] == (1, 3)
    assert spans["gripper", "left"] == (7, 7)
    assert (spans["position", "right"][0], spans["gripper", "right"][1]) == (8, 14)
    assert (spans["fingertips", "left"][0], spans["fingertips", "right"][1]) == (15, 44)
    states = {part.key: (span.start + 1, span.stop) for part, span in UNIFIED_STATE.spans()}
    assert states["rotation", "left"] == (4, 7)
    assert (states["gripper", "right"][1], states["fingertips", "right"][1]) == (16, 46)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: to_unified(np.zeros((1, 8)), "franka_joints"), r"`target`: expected every part of the source, joints"),
        (lambda: to_unified(np.zeros((1, 2)), [Joints(2)], drop=("joints",)), "`source`: expected a position"),
        (lambda: to_unified(np.zeros((1, 7)), LIBERO, arm="third"), "`arm`: expected one of left, right"),
        (lambda: to_unified(np.zeros((1, 7)), LIBERO, "bridge"), "`unified`: expected unified or unified_state"),
        (lambda: from_unified(np.zeros((1, 7)), LIBERO), "`values`: expected 44 numbers of the unified space"),
        (lambda: to_unified(np.zeros((1, 1)), [Gripper("width")]), "a gripper of the convention width, got open_is_1"),
        (lambda: to_unified(np.zeros((1, 48)), HANDS), "`state`: expected the position of arm 'left' that a step"),
    ],
)
def test_what_has_no_place_is_refused(make, text):
    refused(text, make)


def test_a_description_of_three_lines_converts_actions_and_state(tmp_path):
    write_dataset(tmp_path / "arm", [12, 9])
    spaces = {
        "action": [{"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}],
        "observation.state": [{"part": "position", "mode": "absolute", "axes": ["y", "-x"]}],
    }
    described = {"dataset": "arm", "action_space": spaces, "actions": {"as": "unified", "arm": "left"}}
    (tmp_path / "arm.json").write_text(json.dumps(described))
    dataset, raw = open_dataset(tmp_path / "arm.json"), open_dataset(tmp_path / "arm")
    keys = ["action", "observation.state"]
    found, plain = dataset.columns(1, keys), raw.columns(1, keys)
    assert [found[key].shape for key in keys] == [(9, 44), (9, 46)]
    np.testing.assert_array_equal(found["action"][:, [0, 1, 6]], plain["action"])
    np.testing.assert_array_equal(found["observation.state"][:, [1, 0]], plain["observation.state"] * [1, -1])
    absent = {key: set(range(found[key].shape[1])) - set(dataset.absent[key]) for key in keys}
    assert absent == {"action": {0, 1, 6}, "observation.state": {0, 1}}
    assert not any(found[key][:, list(dataset.absent[key])].any() for key in keys)
    assert dataset.features["action"].names == UNIFIED.names
    assert dataset.actions_as["action"][-1]["absent"][0] == "left_z"
    again = pickle.loads(pickle.dumps(dataset)).columns(1, keys)
    assert all(np.array_equal(again[key], found[key]) for key in keys)
    refused("`dataset`: expected one whose columns are all there, got `action` in", export, dataset, tmp_path / "out")
