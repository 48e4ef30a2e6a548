"""RLDS' last step, whose action is none by its convention: recognised, said, and learned from by nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from lattok import annotate, export
from lattok.action_vq import UniformBins
from lattok.data import LeRobotV3, inspect_dataset, open_dataset
from lattok.labels import with_labels
from lattok.recipes import recipe_for
from lattok.samples import ActionWindows, FramePairs, PairLabels
from tests.data.rlds_sample import describe, episode, example, open_rlds, record, shard_path, write_rlds
from tests.errors import refused

LENGTHS = (9, 12, 7, 10)
NAN = np.float32(np.nan)


def write_ends(root: Path, end: str, lengths=LENGTHS, marked: bool = True) -> list[dict]:
    """Absolute actions about .5, the last of each episode as `end` says; returns what the records hold."""
    episodes = [episode(i, length) for i, length in enumerate(lengths)]
    for i, steps in enumerate(episodes):
        actions = steps["steps/action"] = (0.5 + 0.1 * steps["steps/action"]).astype("f4")
        before = actions[-2].copy() if len(actions) > 1 else actions[-1]
        usual = np.array([0.25, -1, 1], "f4")
        rest = {"zeros": 0, "copy": before, "NaN": NAN, "gripper held": [0, 0, before[2]], "same": usual}
        if end == "at rest":
            actions[-4:] = 0
        elif end == "three of four":
            actions[-1] = actions[-1] if i == 3 else 0
        elif end != "real":
            actions[-1] = rest[end]
        steps["steps/is_last"] *= marked
    describe(root, [len(lengths)])
    shard_path(root, 0, 1).write_bytes(b"".join(record(example(steps)) for steps in episodes))
    return episodes


@pytest.mark.parametrize("end", ["zeros", "copy", "NaN", "gripper held"])
def test_an_action_that_fills_its_row_is_left_out(tmp_path, end):
    episodes = write_ends(tmp_path / "toy", end)
    dataset = open_rlds(tmp_path / "toy")
    assert [each.length for each in dataset.episodes] == [length - 1 for length in LENGTHS]
    keys = [key for key in dataset.features if key not in dataset.cameras]
    for index, steps in enumerate(episodes):
        columns, count = dataset.columns(index, keys), LENGTHS[index] - 1
        np.testing.assert_array_equal(columns["action"], steps["steps/action"][:-1])
        np.testing.assert_array_equal(columns["observation.state"], steps["steps/observation/state"][:-1])
        np.testing.assert_array_equal(columns["frame_index"], np.arange(count))
        assert columns["is_last"].tolist() == [False] * (count - 1) + [True]
        assert {len(values) for values in columns.values()} == {count}
        images = dataset.encoded_images(index, "observation.images.image")
        assert images == steps["steps/observation/image"][:-1]
        assert len(dataset.frames(index, ["image"])) == count
        refused("frame indices from 0", dataset.frames, index, ["image"], [count])
    found = [finding for finding in inspect_dataset(dataset).findings if "is_last" in finding.what]
    assert [finding.severity for finding in found] == ["warning"]
    assert '"last_action": "keep"' in found[0].advice


@pytest.mark.parametrize("end", ["real", "at rest", "three of four"])
def test_an_action_that_may_be_one_is_kept(tmp_path, end):
    write_ends(tmp_path / "toy", end)
    dataset = open_rlds(tmp_path / "toy")
    assert ([each.length for each in dataset.episodes], dataset.findings) == ([*LENGTHS], ())


def test_episodes_that_were_cut_have_no_last_step(tmp_path):
    write_ends(tmp_path / "toy", "zeros", marked=False)
    assert [each.length for each in open_rlds(tmp_path / "toy").episodes] == [*LENGTHS]


def test_equal_last_actions_are_said(tmp_path):
    write_ends(tmp_path / "toy", "same")
    dataset = open_rlds(tmp_path / "toy")
    assert [each.length for each in dataset.episodes] == [*LENGTHS]
    assert ["all the same" in finding.what for finding in dataset.findings] == [True]


@pytest.mark.parametrize("end", ["zeros", "real"])
def test_the_description_file_decides(tmp_path, end):
    write_ends(tmp_path / "toy", end)
    for choice, less in (("keep", 0), ("drop", 1)):
        (tmp_path / "toy.json").write_text(json.dumps({"dataset": "toy", "fps": 5, "last_action": choice}))
        dataset = open_dataset(tmp_path / "toy.json")
        assert [each.length for each in dataset.episodes] == [length - less for length in LENGTHS]
        assert dataset.findings == ()
    refused("`last_action`: expected one of drop, keep, got 'never'", open_rlds, tmp_path / "toy", last_action="never")


def test_an_episode_of_one_step_has_no_action(tmp_path):
    write_ends(tmp_path / "toy", "zeros", (5, 1, 6))
    dataset = open_rlds(tmp_path / "toy")
    assert [(each.index, each.length) for each in dataset.episodes] == [(0, 4), (2, 5)]
    refused("episode 1: its only step is the last one, which has no action", dataset.columns, 1, ["action"])


def test_nothing_learns_from_it(tmp_path, capsys):
    """Chunks, normalisers, pairs with their actions, labels, and what is exported, in both formats."""
    write_ends(tmp_path / "toy", "zeros")
    (tmp_path / "toy.json").write_text(json.dumps({"dataset": "toy", "fps": 5, "cameras": ["image"]}))
    dataset = open_dataset(tmp_path / "toy.json")
    chunks, valid = ActionWindows(dataset, 4).all()
    assert len(chunks) == sum(LENGTHS) - len(LENGTHS)
    assert (chunks[valid] != 0).all()
    for target in ("mean", "first"):
        pairs = FramePairs(dataset, 2, labels=PairLabels(action_target=target, labelled_fraction=1.0))
        assert (pairs.actions != 0).all()
    options = {"horizon": 4, "normalize": "min_max", "episodes": "0:"}
    model = recipe_for(UniformBins).from_preset(tmp_path / "toy.json", tmp_path / "bins", **options).train()
    assert "warning: toy_arm: The action of the step with `is_last`" in capsys.readouterr().err
    assert (model.normalizer.shift - model.normalizer.scale > 0.01).all()  # the smallest action that it has seen
    labelled = with_labels(dataset, annotate(dataset, {"tok": model}, tmp_path / "labels"))
    for format_, root in (("lerobot", tmp_path / "out"), ("rlds", tmp_path / "out_rlds")):
        export(labelled, root, format=format_)
        again = open_dataset(root)
        assert [each.length for each in again.episodes] == [length - 1 for length in LENGTHS]
        assert again.findings == ()
        for each in again.episodes:
            for key in ("action", "tok.codes"):
                expected = labelled.columns(each.index, [key])[key]
                np.testing.assert_array_equal(again.columns(each.index, [key])[key], expected, err_msg=key)
    assert isinstance(open_dataset(tmp_path / "out"), LeRobotV3)


def test_what_lattok_exported_is_taken_as_it_is(tmp_path):
    write_rlds(tmp_path / "toy", LENGTHS)
    write_ends(tmp_path / "ends", "zeros")
    kept = open_rlds(tmp_path / "ends", last_action="keep", cameras=["image"])
    export(kept, tmp_path / "again", format="rlds")
    assert [each.length for each in open_dataset(tmp_path / "again").episodes] == [*LENGTHS]
