"""Actions from changes of the robot's state: against least squares by numpy, and through every verb that uses them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.annotation import annotate, verify
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.data.lags import Lag
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, ProprioMap, ProprioMapConfig, proprio_map
from lattok.image_lam.inverse.proprio_map import folds_of, proposed_anchors, proposed_offsets
from lattok.utils import checks
from tests.errors import refused

CAMERA = "observation.images.top"
NAMES = ("x", "y")
TINY = {"features": "pixels", "image_size": 16, "channels": (8,), "latent_dim": 4, "hidden": 8, "members": 2}
LAG = 3


def motion(rng: np.random.Generator, length: int, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    """Actions and states of an arm that follows commands after `LAG` steps: of where to go, or of how far."""
    goal = np.cumsum(np.repeat(rng.normal(size=(length // 4 + 4, 2)), 4, 0), 0)[: length + LAG]
    states = np.concatenate([np.repeat(goal[:1], LAG, 0), goal])[:length]
    commands = goal[:length] if absolute else np.diff(goal, axis=0)[:length]
    return commands, states


def write(root: Path, absolute: bool = False, known: int = 4, video: bool = True, shown: float = 0.0) -> Path:
    """Six episodes; the actions after `known` are NaN. `shown`: a part of the action that pictures alone show."""
    rng, length = np.random.default_rng(0), 48
    features = {"action": Feature("float32", (2,), NAMES), "observation.state": Feature("float32", (2,), NAMES)}
    features |= {CAMERA: Feature("video", (16, 16, 3), None)} if video else {}
    with LeRobotWriter.create(root, 10.0, features, video_codec="h264", encoder_threads=1) as writer:
        for episode in range(6):
            actions, states = motion(rng, length, absolute)
            light = rng.choice([-1.0, 1.0], length)
            frames = np.full((length, 16, 16, 3), 128, np.uint8) + (60 * light[:, None, None, None]).astype(np.uint8)
            actions = actions + shown * light[:, None]
            told = actions if episode < known else np.full_like(actions, np.nan)
            writer.add_episode({"action": told, "observation.state": states}, {CAMERA: frames} if video else {}, "go")
    return root


def train(data: Path, out: Path, **options: Any) -> Any:
    given = {**TINY, "steps": 2, "batch_size": 8, "device": "cpu", "episodes": "0:", **options}
    return lattok.train(lattok.InverseDynamicsRecipe.from_preset(data, out, "tiny", **given))


@pytest.mark.parametrize("absolute", [False, True])
def test_known_motion_is_read_and_the_map_is_that_of_numpy(absolute: bool):
    rng = np.random.default_rng(1)
    actions, states = (list(each) for each in zip(*(motion(rng, 60, absolute) for _ in range(5)), strict=True))
    config = ProprioMapConfig(2, NAMES, 2, NAMES, (0, 1), (-1, 0, 1, 2, 3, 4))
    found = ProprioMap.fit(config, *([torch.from_numpy(each) for each in part[:4]] for part in (actions, states)))
    assert torch.equal(ProprioMap.fit(config, actions[:4], states[:4]).left_out, found.left_out)
    assert found.model.config.anchors == ((0, 1) if absolute else ())
    assert float(found.r2.min()) > 0.9
    read = found.model.infer_actions(None, 1, states=states[4].astype(np.float32)).actions
    inside = slice(4, -4)  # beyond the ends nothing moves
    assert (
        np.square(read - actions[4])[inside].mean() < 0.1 * np.square(actions[4] - states[4] * absolute)[inside].mean()
    )
    rows = (np.arange(60)[:, None] + np.array([-1, 1, 2, 3, 4])).clip(0, 59)
    changes = (states[4][rows] - states[4][:, None]).reshape(60, -1)
    weight, bias = found.model.weight.numpy(), found.model.bias.numpy()
    by_hand = changes @ weight.T + bias
    target = np.concatenate([a - s * absolute for a, s in zip(actions[:4], states[:4], strict=True)])
    low, high = (each.numpy() for each in (found.model.low, found.model.high))
    for room in (target.min(0) - low, high - target.max(0)):
        np.testing.assert_allclose(room, found.r2 / (1 - found.r2) * np.ptp(target, 0), rtol=0.1)
    by_hand = by_hand.clip(low, high) + states[4] * absolute
    np.testing.assert_allclose(read, by_hand, atol=1e-4)


def left_out_choice(x: np.ndarray, y: np.ndarray, folds: list[np.ndarray], sets: list[list[int]]) -> Any:
    """Least error of one number y [N] on rows left out, with what it was read from, by one solve for each strength."""
    tried = []
    for columns in sets:
        for ridge in 10.0 ** np.arange(-6, 3):
            read = np.zeros_like(y)
            for out in folds:
                shift, scale, mean, spread = (
                    f(part) for part in (x[~out], y[~out]) for f in (lambda z: z.mean(0), lambda z: z.std(0))
                )
                inputs = ((x[~out] - shift) / scale)[:, columns]
                square = inputs.T @ inputs + ridge * len(inputs) * np.eye(len(columns))
                weight = np.linalg.solve(square, inputs.T @ ((y[~out] - mean) / spread))
                read[out] = ((x[out] - shift) / scale)[:, columns] @ weight * spread + mean
            tried.append((np.square(read - y).sum(), columns, ridge, read))
    return min(tried, key=lambda each: each[0])


def test_left_out_episodes_choose_what_each_number_is_read_from_and_how_strongly():
    rng, offsets, lengths = np.random.default_rng(6), (-2, -1, 0, 1, 2, 3, 4), [23, 31, 17, 26, 20, 29]
    states = [np.cumsum(rng.normal(size=(length, 2)), 0) for length in lengths]
    x, actions = [], []
    for each in states:
        rows = (np.arange(len(each))[:, None] + np.array([-2, -1, 1, 2, 3, 4])).clip(0, len(each) - 1)
        changes = each[rows] - each[:, None]  # T, offsets but 0, 2
        near, far, past = changes[:, 2, 0], changes[:, 5, 1], changes[:, 1, 1]
        noise = rng.normal(size=(3, len(each)))
        actions.append(np.stack([near + noise[0], far + 2 * noise[1], past + 0.5 * near + 0.1 * noise[2]], 1))
        x.append(changes.reshape(len(each), -1))
    tensors = ([torch.from_numpy(each) for each in part] for part in (actions, states))
    found = ProprioMap.fit(ProprioMapConfig(3, state_dim=2, offsets=offsets), *tensors)
    every, target = np.concatenate(x), np.concatenate(actions)
    fold = np.repeat(np.arange(6) % 5, lengths)  # the sixth episode is left out with the first
    folds, sets = [fold == number for number in range(5)], [list(range(4, 8)), list(range(4, 12)), list(range(12))]
    chosen = [left_out_choice(every, target[:, dim], folds, sets) for dim in range(3)]
    assert [len(columns) for _, columns, _, _ in chosen] == [4, 8, 12]
    for dim, (error, columns, ridge, read) in enumerate(chosen):
        shift, scale, y = every.mean(0), every.std(0), target[:, dim]
        inputs = ((every - shift) / scale)[:, columns]
        square = inputs.T @ inputs + ridge * len(y) * np.eye(len(columns))
        weight = np.zeros(12)
        weight[columns] = np.linalg.solve(square, inputs.T @ (y - y.mean())) / scale[columns]
        np.testing.assert_allclose(found.model.weight[dim], weight, atol=1e-5)
        np.testing.assert_allclose(found.model.bias[dim], y.mean() - shift @ weight, atol=1e-5)
        right = 1 - error / np.square(y - y.mean()).sum()
        room = right / (1 - right) * np.ptp(y)
        low, high = y.min() - room, y.max() + room
        np.testing.assert_allclose([found.model.low[dim], found.model.high[dim]], [low, high], rtol=1e-5)
        np.testing.assert_allclose(found.left_out[:, dim], read.clip(low, high), atol=1e-5)
        np.testing.assert_allclose(
            found.r2[dim], 1 - np.square(read.clip(low, high) - y).sum() / np.square(y - y.mean()).sum()
        )


def test_whole_episodes_are_left_out_and_thirds_of_a_single_one():
    assert [fold.nonzero().flatten().tolist() for fold in folds_of([7])] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [fold.nonzero().flatten().tolist() for fold in folds_of([2, 1])] == [[0, 1], [2]]
    expected = [[0, 1, 7], [2], [3, 4], [5], [6]]
    assert [fold.nonzero().flatten().tolist() for fold in folds_of([2, 1, 2, 1, 1, 1])] == expected


@pytest.mark.parametrize(
    ("lag", "length", "expected"),
    [
        (None, 120, (-2, -1, 0, 1, 2, 3, 4)),  # nothing found: four frames
        (2, 120, (-2, -1, 0, 1, 2, 3, 4)),
        (4, 120, (-2, -1, 0, 1, 2, 3, 4, 5, 6)),
        (8, 120, (-4, -2, 0, 2, 4, 6, 8, 10, 12)),
        (8, 21, (-4, -2, 0, 2, 3, 5, 7, 8, 10)),  # half of the shortest episode
        (8, 3, (-2, -1, 0, 1)),
    ],
)
def test_offsets_reach_half_as_far_again_as_the_longest_lag(
    monkeypatch: pytest.MonkeyPatch, lag: int | None, length: int, expected: tuple[int, ...]
):
    told = None if lag is None else Lag(1, 1, 1, 0.9, (None, lag), False, {})
    monkeypatch.setattr(proprio_map, "estimate_lag", lambda actions, moves, fps: told)
    series = [np.zeros((length, 2)), np.zeros((length + 9, 2))]
    assert proposed_offsets(series, series, 10.0) == expected


@pytest.mark.parametrize("episodes", [1, 3])
def test_of_what_never_moves_nothing_is_said(episodes: int):
    rng = np.random.default_rng(5)
    pairs = [motion(rng, 60, False) for _ in range(episodes)]
    actions, states = ([torch.from_numpy(each) for each in part] for part in zip(*pairs, strict=True))
    held = [torch.cat([each, torch.full((len(each), 1), -5.0)], 1) for each in actions]
    found = ProprioMap.fit(ProprioMapConfig(3, state_dim=2, offsets=(0, 1, LAG + 1)), held, states)
    assert found.r2.isnan().tolist() == [False, False, True]
    assert (found.model.low[2], found.model.high[2]) == (-5, -5)


def test_commands_that_hardly_move_in_known_episodes_stay_commands():
    rng = np.random.default_rng(2)
    pairs = [motion(rng, 60, True) for _ in range(4)]
    still = [(np.c_[a, np.full(60, 0.5)], np.c_[s, np.full(60, 0.5) + 0.01 * rng.normal(size=60)]) for a, s in pairs]
    config = ProprioMapConfig(3, state_dim=3, anchors=(0, 1, 2), offsets=(0, 1, 2, 3))
    actions, states = ([torch.from_numpy(each) for each in part] for part in zip(*still, strict=True))
    found = ProprioMap.fit(config, actions, states).model
    assert found.config.anchors == (0, 1, 2)  # of the third they say nothing: it never moved


@pytest.mark.parametrize(
    ("actions", "kept"),
    [
        ("cc-", (0, 1, 2)),
        ("dd-", ()),
        ("c--", (0, 1, 2)),
        ("d--", ()),
        ("cd-", (0, -1, -1)),
        ("ccd", (0, 1, -1)),
        ("---", ()),
    ],
)
def test_undecided_numbers_are_what_most_others_are(actions: str, kept: tuple[int, ...]):
    """Commands (c), changes (d), and what either may be (-): known episodes tell noise from neither."""
    rng, pairs = np.random.default_rng(8), []
    for _ in range(4):
        commands, states = motion(rng, 60, True)
        states = np.c_[states, states[:, :1]]
        goal = np.c_[commands, commands[:, :1]]
        changes = np.diff(goal, axis=0, append=goal[-1:])
        of_kind = {"c": goal, "d": changes, "-": rng.normal(size=goal.shape)}
        told = np.stack([of_kind[kind][:, i] for i, kind in enumerate(actions)], 1)
        still = [i for i, kind in enumerate(actions) if kind == "-"]
        states[:, still] = 0.01 * rng.normal(size=(60, len(still)))
        pairs.append((told, states))
    config = ProprioMapConfig(3, state_dim=3, anchors=(0, 1, 2), offsets=(-1, 0, 1, 2, 3, 4))
    series = ([torch.from_numpy(each) for each in part] for part in zip(*pairs, strict=True))
    assert ProprioMap.fit(config, *series).model.config.anchors == kept


def test_offsets_reach_as_far_as_the_state_lags_and_anchors_go_by_name():
    rng = np.random.default_rng(3)
    actions, states = zip(*(motion(rng, 120, True) for _ in range(4)), strict=True)
    offsets = proposed_offsets(actions, states, 10.0)
    assert 0 in offsets
    assert LAG + 1 <= offsets[-1] <= 2 * LAG + 1
    changes = zip(*(motion(rng, 120, False) for _ in range(4)), strict=True)
    acts, moves = ([torch.as_tensor(each) for each in series] for series in changes)
    assert proposed_anchors(("x", "grip"), ("grip", "z"), acts, moves) == (-1, 0)
    assert proposed_anchors(("a", "b"), ("c", "d"), acts, moves) == (0, 1)
    assert proposed_anchors(("a", "b"), ("c", "d", "e"), acts, [each[:, [0, 1, 1]] for each in moves]) == ()


@pytest.mark.parametrize("names", [("shoulder", "elbow"), ("j2", "elbow")])
def test_a_command_belongs_to_the_number_of_the_state_that_it_is_near(names: tuple[str, str]):
    """Names of a leader and its follower differ; the follower has more numbers. A name that is the same decides."""
    rng = np.random.default_rng(1)
    acts, moves = zip(*(motion(rng, 60, absolute=True) for _ in range(4)), strict=True)
    states = [np.stack([each[:, 1], rng.normal(size=60), each[:, 0]], 1) for each in moves]
    tensors = [[torch.as_tensor(each) for each in series] for series in (acts, states)]
    found = proposed_anchors(names, ("j1", "j2", "j3"), *tensors)
    assert found == ((2, 0) if names[0] == "shoulder" else (1, 0))


@pytest.mark.parametrize("known", [1, 4])
def test_a_map_that_reads_other_episodes_may_go_beyond_the_range_of_known_ones(known: int):
    rng = np.random.default_rng(4)
    acts, states = zip(*(motion(rng, 60, absolute=True) for _ in range(known)), strict=True)
    config = ProprioMapConfig(2, state_dim=2, anchors=(0, 1), offsets=(0, LAG))
    found = ProprioMap.fit(config, *([torch.from_numpy(each) for each in part] for part in (acts, states)))
    told, moved = motion(rng, 60, absolute=True)
    wide = [told[0] + 2 * (each - told[0]) for each in (told, moved)]
    errors = np.abs(found.model.infer_actions(None, 1, states=wide[1]).actions - wide[0])[:-LAG]
    assert (errors.max() < 0.5) == (known > 1)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_one_episode_that_is_read_exactly_is_enough_to_go_beyond_it(noise: float):
    """Commands that are the state of the next step, as a leader's that is recorded so."""
    rng = np.random.default_rng(9)
    walks = [np.cumsum(rng.normal(size=(61, 2)), 0) for _ in range(2)]
    told = [walk[1:] + noise * rng.normal(size=(60, 2)) for walk in walks]
    config = ProprioMapConfig(2, state_dim=2, anchors=(0, 1), offsets=(0, 1))
    found = ProprioMap.fit(config, [torch.from_numpy(told[0])], [torch.from_numpy(walks[0][:-1])]).model
    read = found.infer_actions(None, 1, states=10 * walks[1][:-1]).actions[:-1]
    assert (np.abs(read - 10 * walks[1][1:-1]).max() < 1) == (noise == 0)


@pytest.mark.parametrize("video", [True, False])
def test_from_proprio_it_is_saved_fills_and_is_verified(tmp_path: Path, video: bool):
    data = write(tmp_path / "data", absolute=True, video=video)
    model = train(data, tmp_path / "map", from_="proprio")
    again: Any = lattok.load(tmp_path / "map")
    states = open_dataset(data).columns(5, ["observation.state"])["observation.state"]
    read = model.infer_actions(None, 1, states=states)
    assert isinstance(again, ProprioMap)
    np.testing.assert_array_equal(read.actions, again.infer_actions(None, 1, states=states).actions)
    out = open_dataset(annotate(data, tmp_path / "map", tmp_path / "out", fill=True))
    np.testing.assert_allclose(out.columns(5, ["action"])["action"], read.actions, atol=1e-6)
    assert verify(out.root, {"inferred": str(tmp_path / "map")}).holds
    assert "inferred.confidence" not in out.features
    refused("states", model.infer_actions, None, 1)


def test_video_learns_what_commands_add_to_the_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(tmp_path / "data", absolute=True)
    model = train(data, tmp_path / "idm")
    assert model.config.anchors == (0, 1)
    said = capsys.readouterr().err
    assert "--out my-map --from proprio" in said
    assert "--out my-both --from both" in said
    columns, frames = open_dataset(data).columns(5, ["observation.state"]), open_dataset(data).frames(5)
    states = columns["observation.state"]
    read, far = (model.infer_actions(frames, 1, states=each).actions for each in (states, states + 10))
    np.testing.assert_allclose(far - read, 10, atol=1e-4)
    refused("states", model.infer_actions, frames, 1)
    train(data, tmp_path / "some", action_episodes="0:3", add_state=False)
    assert "--out my-both --from both --preset tiny --episodes 0: --action-episodes 0:3" in capsys.readouterr().err
    assert train(data, tmp_path / "plain", add_state=False).config.anchors == ()
    changes = train(write(tmp_path / "delta"), tmp_path / "delta-idm")
    assert changes.config.anchors == ()
    assert changes.state_key is None


@pytest.mark.parametrize("shown", [0.0, 3.0])
def test_both_is_the_map_and_what_video_adds_to_it(tmp_path: Path, shown: float):
    data = write(tmp_path / "data", shown=shown)
    options = {"from_": "both", "steps": 150 if shown else 2, "batch_size": 32, "shift": 0.0, "brightness": 0.0}
    model = train(data, tmp_path / "both", **options, contrast=0.0)
    gain, own = model.gain.numpy(), model.proprio_map
    assert (gain > 0.5).all() if shown else (gain < 0.5).all()
    dataset = open_dataset(data)
    states, frames = dataset.columns(5, ["observation.state"])["observation.state"], dataset.frames(5)
    alone = own.infer_actions(None, 1, states=states).actions
    said = model.beyond_map(frames, 1, "go").numpy()
    both = (alone + gain * said).clip(own.low.numpy(), own.high.numpy())
    again: Any = lattok.load(tmp_path / "both")
    np.testing.assert_allclose(again.infer_actions(frames, 1, states=states).actions, both, atol=1e-4)
    if shown:
        refused("two episodes with known actions", train, write(tmp_path / "one", known=1), tmp_path / "x", **options)


def test_video_that_says_nothing_has_no_weight():
    rng = torch.Generator().manual_seed(0)
    known = ProprioMapConfig(3, state_dim=2)
    model: Any = InverseDynamics(InverseDynamicsConfig(("front",), 3, state_dim=2, proprio_map=known, **TINY))
    left = torch.randn(400, 3, generator=rng)
    before, after = model.weigh_video(torch.randn(400, 3, generator=rng), left)
    assert after == before
    assert not model.gain.any()
    before, after = model.weigh_video(0.5 * left + 0.1 * torch.randn(400, 3, generator=rng), left)
    assert after < 0.6 * before
    assert float(model.gain.min()) == 1.0  # never more than video says


def test_it_says_what_it_reads_how_far_and_what_it_adds():
    plain = ProprioMap(ProprioMapConfig(2, state_dim=3, offsets=(-3, 0, 2), stride="0.1s"))
    assert "2 numbers" in plain.summary()
    assert "-3, 0, +2 (x 0.1s)" in plain.summary()
    assert "added" not in plain.summary()
    assert [plain.unit_frames(20), plain.stride_frames(20), plain.later_frames(20)] == [2, 6, 4]
    assert ProprioMap(ProprioMapConfig(1, state_dim=1, offsets=(-1, 0, 5))).stride_frames(30) == 5
    added = ProprioMap(ProprioMapConfig(2, NAMES, state_dim=3, anchors=(0, -1)))
    assert "x, y" in added.summary()
    assert "; 1 of 2 are added to the state" in added.summary()
    names: dict[str, Any] = {"model": added}
    exec("\n".join(added.usage()), names)
    assert names["read"].actions.shape == (20, 2)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    for options, text in (
        ({"offsets": (1, 2)}, "0 and others in order"),
        ({"offsets": (0,)}, "0 and others in order"),
        ({"offsets": (0, 1, 1)}, "0 and others in order"),
        ({"offsets": (0, checks.MOST_STRIDE + 1)}, "0 and others in order"),
        ({"offsets": tuple(range(65))}, "2 to 64 of them, got"),
        ({"anchors": (0, -2)}, "2 numbers from -1 to 1"),
        ({"anchors": (0, 0.0)}, "2 numbers from -1 to 1"),
        ({"state_names": ("x",)}, "state_names"),
        ({"stride": "x"}, "stride"),
        ({"state_dim": 0}, "state_dim"),
        ({"anchors": (0,)}, "2 numbers from -1 to 1"),
        ({"anchors": (0, 2)}, "2 numbers from -1 to 1"),
        ({"action_names": ("x",)}, "action_names"),
    ):
        refused(text, lambda given: ProprioMapConfig(2, **{"state_dim": 2, **given}), options)
    ProprioMapConfig(2, state_dim=2, offsets=tuple(range(64)), anchors=(-1, 1))
    known, seen = ProprioMapConfig(3, state_dim=2), {**TINY, "cameras": ("front",), "action_dim": 3, "state_dim": 2}
    refused("none beside proprio_map", lambda: InverseDynamicsConfig(**seen, proprio_map=known, proprio=True))
    refused("proprio_map.state_dim", lambda: InverseDynamicsConfig(**{**seen, "state_dim": 3}, proprio_map=known))
    refused("labels video alone", ProprioMap(known).label_video, None)
    refused("from_", train, write(tmp_path / "data", video=False), tmp_path / "out", from_="sound")
