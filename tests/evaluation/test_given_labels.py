"""Labels that are there already are judged without a model: as it is through one, at any rate, beside one another."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import open_dataset
from lattok.evaluation import compare, evaluate
from lattok.labels import LatentSpec, given, given_labels, latent_spec
from tests.annotation.fakes import FakeLAM
from tests.annotation.test_fill import write as write_actions
from tests.conftest import write_dataset
from tests.errors import refused
from tests.evaluation.worlds import STRIDE, Oracle, World, answer_of, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")
HELD_OUT: dict[str, Any] = {"episodes": [1, 2, 3, 6, 7]}


@pytest.fixture(scope="module")
def world() -> World:
    return World(tasks=2)


@pytest.fixture(scope="module")
def oracle(world) -> Any:
    return tiny_lam(Oracle, world, tokens=3)


@pytest.fixture(scope="module")
def codes(world, oracle) -> np.ndarray:
    """Codes of all frames [F, 3], as whoever has the model makes them."""
    later = np.arange(40).clip(max=35) + STRIDE
    pairs = (torch.from_numpy(np.stack([video, video[later]], 1)) for video in world.video)
    with torch.no_grad():
        return np.concatenate([oracle.encode_features(oracle.frame_features(each)).codes.numpy() for each in pairs])


def clockwork() -> World:
    """Every episode of a task does the same at the same moment, but for a little."""
    world = World(episodes=16, length=40, tasks=2)
    rng = np.random.default_rng(0)
    plan = np.repeat(rng.standard_normal((2, 11, 3)), 4, axis=1)[:, :40]
    world.actions = (plan[np.arange(16) % 2] + 0.3 * rng.standard_normal((16, 40, 3))).astype(np.float32)
    return world


FOOLING = {  # labels of 16 episodes of 40 frames, of their actions: whether they may be learned from, and why not
    "true": (lambda actions: [*actions + np.random.default_rng(2).normal(0, 0.1, actions.shape)], True, "Yes: "),
    "the actions": (lambda actions: [*actions], None, "With care: the labels hold the actions themselves: R² 1.00 "),
    "constant": (lambda actions: [np.zeros((40, 1), int)] * 16, False, "No: the codes have collapsed."),
    "constant vectors": (lambda actions: [np.ones((40, 2))] * 16, False, "No: the labels say next to nothing"),
    "of another task": (lambda actions: [*np.roll(actions, 1, 0)], None, "With care: "),
    "shuffled rows": (lambda actions: [np.random.default_rng(1).permutation(each) for each in actions], False, "No: "),
    "the episode": (lambda actions: [np.full((40, 1), i) for i in range(16)], False, "No: "),
    "the clock": (lambda actions: [np.arange(40)[:, None] + 40 * (i % 2) for i in range(16)], None, "With care: "),
}


@pytest.mark.parametrize("kind", FOOLING)
def test_labels_that_say_nothing_of_the_motion_are_told_apart(kind: str):
    make, expected, begins = FOOLING[kind]
    world = clockwork()
    found = answer_of(evaluate(world, labels=make(world.actions), episodes="10:16"))
    assert (found.holds, found.text[: len(begins)]) == (expected, begins)


def gliding() -> World:
    """Actions change slowly, so that those of other moments say something, too; the last dimension is a gripper."""
    world, taps = World(episodes=16, length=60, names=("x", "y", "z", "gripper"), tasks=2), np.hanning(17)[1:-1]
    noise = np.random.default_rng(0).standard_normal((16, 74, 4))
    smooth = np.apply_along_axis(np.convolve, 1, noise, taps, "valid")
    world.actions = (smooth / smooth.std()).astype(np.float32)
    return world


def over_gap(actions: np.ndarray, ahead: int = 0) -> list[np.ndarray]:
    """Mean actions of the gap from each frame on, `ahead` of it, with some noise."""
    rows = (np.arange(60)[:, None] + ahead + np.arange(STRIDE)).clip(0, 59)
    return [*(actions[:, rows].mean(2) + np.random.default_rng(1).normal(scale=0.2, size=actions.shape))]


def with_one_far(rows: list[np.ndarray]) -> list[np.ndarray]:
    rows[3][7, 0] = 1e6
    return rows


def shuffled_codes(rows: list[np.ndarray]) -> list[np.ndarray]:
    """Codes of the signs, without an order."""
    order = np.random.default_rng(2).permutation(16)
    return [order[((each > 0) * [1, 2, 4, 8]).sum(1, keepdims=True)] for each in rows]


MISLEADING = {  # labels of slow actions: whether they may be learned from, and what the answer says
    "own": (lambda actions: over_gap(actions), True, "^Yes: "),
    "before": (
        lambda actions: over_gap(actions, -STRIDE),
        None,
        "^With care: labels say more about the action 4 .*before",
    ),
    "later": (
        lambda actions: over_gap(actions, 2 * STRIDE),
        None,
        "^With care: labels say more about the action 8 .*later",
    ),
    "codes": (lambda actions: shuffled_codes(over_gap(actions)), True, "^Yes: "),
    "codes as floats": (
        lambda actions: [1.0 * each for each in shuffled_codes(over_gap(actions))],
        None,
        r"^Unclear: .* stored as floats, and were read as vectors. If they are codes, give integers",
    ),
    "one far off": (
        lambda actions: with_one_far(over_gap(actions)),
        None,
        "^Unclear: 1 training pair .first: episode 3, frame 7",
    ),
    "gripper": (
        lambda actions: [each[:, 3:] for each in over_gap(actions)],
        None,
        "^With care: .* nothing about x, y and z.$",
    ),
    "two of four": (
        lambda actions: [each[:, :2] for each in over_gap(actions)],
        True,
        "^Yes: .* nothing about .*z",
    ),
    "still": (lambda actions: [*actions], None, "^Unclear: where actions never change"),
}


@pytest.mark.parametrize("kind", MISLEADING)
def test_labels_that_would_mislead_are_explained(kind: str):
    (make, expected, says), world = MISLEADING[kind], gliding()
    labels = make(world.actions)
    if kind == "still":
        world.actions = np.zeros_like(world.actions)
    found = answer_of(evaluate(world, labels=labels, stride=STRIDE, episodes="10:16"))
    assert found.holds is expected
    assert re.search(says, found.text), found.text


def test_labels_that_may_be_better_than_they_look_leave_a_comparison_open():
    world = gliding()
    kinds = {name: MISLEADING[name][0](world.actions) for name in ("own", "before", "codes as floats", "one far off")}
    asked: dict[str, Any] = {"stride": STRIDE, "episodes": "10:16"}
    pair = {"first": kinds["own"], "other": [0.5 * each for each in kinds["own"]]}
    assert "may be better" not in answer_of(compare(world, labels=pair, **asked)).text
    found = answer_of(compare(world, labels=kinds, **asked))
    assert found.holds is None
    for name in ("before", "codes as floats", "one far off"):
        assert f"{name} may be better: " in found.text


@pytest.mark.parametrize("kind", ["codes", "vectors"])
def test_what_a_report_proposes_trains_a_policy_on_given_labels(kind, make_dataset, tmp_path, monkeypatch, capsys):
    """Labels that another program wrote say what the robot did: the commands of the page end in a policy."""
    monkeypatch.chdir(tmp_path)
    data = make_dataset([24] * 14, "data")
    Path("codes").mkdir()
    wanted = dict[int, np.ndarray]()
    for episode in data.episodes:
        rows = data.columns(episode.index, ["action"])["action"]
        noisy = rows + 0.1 * np.random.default_rng(episode.index).standard_normal(rows.shape).astype(np.float32)
        wanted[episode.index] = (rows > 0) @ [1, 2, 4] if kind == "codes" else noisy
        np.save(f"codes/episode_{episode.index}.npy", wanted[episode.index].reshape(len(rows), -1))
    report = evaluate("data", labels="codes", stride=1, episodes="6:")
    assert answer_of(report).holds, report
    taken, train = (command.words for command in report.steps[0].commands)
    assert main(["import-labels", *taken]) == 0
    assert main(["train", *train, "--steps", "2", "--batch-size", "4", "--backbone", "scratch"]) == 0
    capsys.readouterr()
    main(["inspect", "my-labels"])
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "lattok train vla my-labels" in line)
    assert said.endswith(f"--strategy {train[3]}")
    labelled = open_dataset("my-labels")
    assert latent_spec(labelled, "latent", "steps", 4).stride == 1
    end = "codes" if kind == "codes" else "embedding"
    for index, rows in wanted.items():
        found = labelled.columns(index, [f"latent.{end}", "latent.valid"])
        np.testing.assert_array_equal(found[f"latent.{end}"].reshape(rows.shape), rows)
        assert found["latent.valid"].all()
    assert main(["import-labels", "my-labels", "--from", "latent", "--as", "latents", "--out", "twice"]) == 2
    assert "expected labels of another program" in capsys.readouterr().err
    assert main(["import-labels", "data", "--from", "codes", "--as", "latents", "--fps", "2", "--out", "no"]) == 2
    assert main(["import-labels", "data", "--from", "codes", "--stride", "2", "--out", "no"]) == 2
    with pytest.raises(lattok.LattokError, match="import-labels DATASET --from codes --as latents"):
        open_dataset("data", labels="codes")


def test_the_way_out_holds_out_others(world, codes):
    found = answer_of(evaluate(world, labels=codes, stride=STRIDE, episodes=[1]))
    assert found.way_out.commands == ()  # of 10 episodes too few can be held out
    world = World(episodes=40, length=12, tasks=2)
    found = answer_of(evaluate(world, labels=[*world.actions], stride=3, episodes=[1]))
    assert [command.words[-2:] for command in found.way_out.commands] == [("--stride", "3")]


def test_codes_are_judged_as_they_are_through_their_model(world, oracle, codes):
    through, alone = evaluate(oracle, world, **HELD_OUT), evaluate(world, labels=codes, stride=STRIDE, **HELD_OUT)
    same = [
        key
        for key in alone.figures
        if key.endswith(("/codes", "/model", "/ceiling", "/other_episode", "/label_before"))
    ]
    assert len(same) >= 18
    assert {key: alone.figures[key] for key in same} == {key: through.figures[key] for key in same}
    assert answer_of(alone).question == "May a policy learn from these labels?"
    assert answer_of(alone).holds is answer_of(through).holds is True
    assert {*alone.provenance["not_asked"]} == {"dependence", "distractor", "transfer"}
    assert not any("latents" in key for key in alone.figures)


def test_controls_of_labels_are_those_of_numpy(world, codes):
    """The labels of another episode hold nothing of this one, and those before nothing of what follows."""
    figures = evaluate(world, labels=codes, stride=STRIDE, **HELD_OUT).figures
    assert figures["r2_from_codes/codes"] > 0.4
    assert max(figures["r2_from_codes/other_episode"], figures["r2_from_codes/label_before"]) < 0.1
    states = evaluate(world, labels=[*world.actions.cumsum(1)], stride=STRIDE, **HELD_OUT).figures
    assert states["r2_from_latents/latents"] < 0.1


@pytest.mark.parametrize(
    ("rows_of", "expected"),
    [
        (lambda rows: rows, lambda rows: rows),
        (lambda rows: rows[:-3], lambda rows: rows[:-3]),
        (lambda rows: rows[::4], lambda rows: rows[np.arange(len(rows)) // 4 * 4]),
        (lambda rows: rows[: len(rows) // 3 * 3 : 3], lambda rows: rows[np.arange(len(rows)) // 3 * 3]),
        (lambda rows: np.repeat(rows, 2, axis=0), lambda rows: np.concatenate([rows, rows], 1)),
    ],
)
def test_rows_of_any_rate_are_those_of_their_frames(world, rows_of, expected):
    every = [np.random.default_rng(i).normal(size=(40, 2)).astype(np.float32) for i in range(10)]
    given = given_labels(world, {i: rows_of(rows) for i, rows in enumerate(every)})
    for i, rows in enumerate(every):
        known, wanted = given.labelled(i), expected(rows)
        assert known.sum() in (len(wanted), 39)  # of 40 frames, the last of which begins no third
        np.testing.assert_array_equal(given.labels_of(i).latents[known, 0], wanted[: known.sum()])


def test_actions_of_a_foreign_script_stand_beside_others_in_one_table(world, codes, tmp_path):
    noise = np.random.default_rng(0).normal(scale=0.3, size=world.actions.shape)
    for i, rows in enumerate(world.actions + noise):
        np.save(tmp_path / f"episode_{i:06d}.npy", rows)
    labels = {"theirs": tmp_path, "ours": world.actions + noise[::-1] / 2, "codes": codes}
    report = compare(
        world,
        labels={k: v if k == "theirs" else list(v.reshape(10, 40, -1)) for k, v in labels.items()},
        stride=1,
        **HELD_OUT,
    )
    judged = HELD_OUT["episodes"]
    train = np.delete(world.actions, judged, 0)[:, :-1].reshape(-1, 3)
    true, off = (each[judged, :-1].reshape(-1, 3) for each in (world.actions, noise))
    wanted = 1 - (off**2).sum(0) / ((true - train.mean(0, dtype=np.float64)) ** 2).sum(0)
    assert report.figures["theirs/r2_from_latents/as_actions"] == pytest.approx(wanted.mean(), abs=1e-6)
    table = json.loads(report.to_json())["sections"][0]["tables"][0]
    assert [row["key"] for row in table["rows"]] == ["ours", "theirs", "codes"]
    assert table["rows"][1]["intervals"]["difference to ours"][1] < 0
    assert answer_of(report).text.startswith("ours, whose latents say most")


def test_labels_as_wide_as_actions_codes_of_tokenizers_and_other_frames_are_told(world):
    noisy = world.actions + np.random.default_rng(0).normal(scale=0.3, size=world.actions.shape)
    alone = evaluate(world, labels=[*noisy], stride=1, **HELD_OUT)
    tables = [table["title"] for section in json.loads(alone.to_json())["sections"] for table in section["tables"]]
    assert any("held-out tasks" in title for title in tables)
    tokens = given_labels(world, [*noisy])
    tokens.spec = LatentSpec("chunk", horizon=4)
    assert "codes of an action tokenizer" in answer_of(evaluate(world, labels=tokens, stride=1, **HELD_OUT)).text
    few = noisy.copy()
    few[:, 10:] = np.nan
    found = compare(world, labels={"all": [*noisy], "few": [*few]}, stride=1, **HELD_OUT)
    assert "judged on different frames" in answer_of(found).text


def test_labels_of_other_episodes_are_refused(tmp_path):
    lengths, lam = [12, 7, 9, 25], FakeLAM()
    lam.cameras = ("front", "wrist")
    theirs = lattok.annotate(write_dataset(tmp_path / "theirs", lengths), lam, tmp_path / "labelled")
    assert given_labels(open_dataset(tmp_path / "theirs"), theirs).labels_of(1).latents.shape[0] == 7
    ours = open_dataset(write_actions(tmp_path / "ours", {*range(4)}))
    refused("labelled, whose episode 0 has other actions", given_labels, ours, theirs)
    for index, length in enumerate(lengths):
        np.save(tmp_path / f"episode_{index}.npy", np.zeros((length, 2)))
    np.save(tmp_path / "other_3.npy", np.zeros((25, 2)))
    refused("one file for each episode, got episode_3.npy and other_3.npy", given_labels, ours, tmp_path)
    (tmp_path / "other_3.npy").rename(tmp_path / "episode_4.npy")
    refused("labels of the 4 episodes of ours, got some of 4", given_labels, ours, tmp_path)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("actoin", "a column of planted, or a folder of labels"),
        ("action", "others than the actions that they are compared with"),
        (np.zeros((3, 2)), r"400 rows, one for each frame of planted"),
        ([np.zeros((n, 2)) for n in (40, 39, *[40] * 8)], "a row for each frame"),
        ({0: np.zeros((40, 2))}, "labels of all 10 episodes"),
        (np.full((400, 2), np.nan), "labels in one of the episodes"),
        (np.tile([3, -1], (400, 1)), "as many codes in every row"),
        (np.full((400, 1), "a"), "an array of real numbers"),
        (np.arange(400)[:, None] * 10**9, "at most 50 different codes"),
    ],
)
def test_what_is_no_label_is_refused_by_name(world, labels, says, monkeypatch):
    monkeypatch.setattr(given, "MOST_DIFFERENT", 50)
    refused(says, evaluate, world, labels=labels, **HELD_OUT)


def test_missing_labels_are_left_out_and_said(world, codes, capsys):
    known = codes.astype(float)
    known[:40] = np.nan
    report = evaluate(world, labels=known, stride=STRIDE, **HELD_OUT)
    assert "36 of 180 pairs have no label" in capsys.readouterr().err
    assert report.provenance["training_pairs"] == "144 of 180"


@pytest.mark.ci
def test_from_the_command_line(make_dataset, tmp_path, capsys):
    root = make_dataset([12, 15, 11, 14]).root
    tiny_lam(stride="3").save_pretrained(tmp_path / "lam")
    assert main(["annotate", str(root), "--model", str(tmp_path / "lam"), "--out", str(tmp_path / "labelled")]) == 0
    assert main(["evaluate", str(root), "--labels", str(tmp_path / "labelled"), "--out", str(tmp_path / "report")]) == 0
    assert "May a policy learn from these labels?" in capsys.readouterr().out
    assert Path(tmp_path / "report" / "report.html").is_file()
    words = ["compare", str(root), "--models", str(tmp_path / "lam"), "--labels", "observation.state"]
    assert main([*words, "--stride", "3", "--out", str(tmp_path / "both")]) == 0
    figures = json.loads((tmp_path / "both" / "report.json").read_text())["figures"]
    assert figures["observation.state/latent_width"] > 0 < figures["lam/parameters"]
    assert main(["evaluate", str(tmp_path / "lam"), str(root), "--labels", "latent"]) == 2
    assert main(["evaluate", str(tmp_path / "lam")]) == 2
