"""The study of several robots: its languages, what is known, how it judges, and its tables against scipy."""

import numpy as np
import pytest
from scipy import stats

import lattok
from studies import several_robots
from studies.labels import EXECUTED
from studies.several_robots import (
    COMPARED,
    ROBOTS,
    SIDE,
    SPACE,
    TAUGHT,
    WIDE,
    Cell,
    Recordings,
    Worlds,
    languages,
    page,
)


@pytest.fixture
def recordings():
    rng = np.random.default_rng(0)
    lengths = [[3 + (robot + place) % 3 for place in range(TAUGHT + 2)] for robot in ROBOTS]
    shape = (1, SIDE, SIDE, 3)
    frames = [[rng.integers(0, 255, (n, *shape), np.uint8) for n in own] for own in lengths]
    motions = [[rng.normal(size=(n, SPACE + 1)).astype(np.float32) for n in own] for own in lengths]
    return Recordings(("observation.images.front",), tuple(f"task {r}" for r in ROBOTS), frames, motions, 20.0)


def test_each_language_says_every_motion_and_no_two_are_the_same():
    motions = np.random.default_rng(1).normal(size=(50, SPACE + 1))
    for seed in range(3):
        drawn = languages(seed)
        assert sorted(len(each.matrix) for each in drawn) == [SPACE + 1] * 6 + [WIDE] * 2
        for each in drawn:
            assert np.allclose(each.meant(each.said(motions)), motions, atol=1e-5)
            assert np.allclose(each.said(motions)[:, -1], motions[:, -1], atol=1e-6)  # the gripper
        signed = [np.count_nonzero(each.matrix) == SPACE + 1 for each in drawn]
        assert sum(signed) == 4
        assert len({each.matrix.tobytes() for each in drawn}) == len(ROBOTS)


def test_what_nobody_knows_is_nan_and_what_is_known_is_in_the_robots_own_numbers(recordings, tmp_path):
    cell, robots = Cell(recordings, tmp_path, 0), (1, 2)
    known = {1: recordings.known(1, 7, 0), 2: recordings.demonstrated(2, 1, 0)}
    dataset = lattok.open_dataset(cell.dataset("some", robots, known))
    width = max(len(cell.languages[robot].matrix) for robot in robots)
    for place, episode in enumerate(dataset.episodes):
        robot, number = robots[place // TAUGHT], place % TAUGHT
        said, mask = cell.languages[robot].said(recordings.motions[robot][number]), known[robot][number]
        actions = dataset.columns(episode.index, [EXECUTED])[EXECUTED]
        assert actions.shape == (len(said), width)
        assert np.isnan(actions[~mask]).all()
        assert np.array_equal(actions[mask][:, : said.shape[1]], said[mask])
        assert not actions[mask][:, said.shape[1] :].any()
        assert np.array_equal(dataset.frames(episode.index), recordings.frames[robot][number])
    assert sum(int(mask.sum()) for mask in known[1]) == 7
    assert sum(bool(mask.all()) for mask in known[2]) == 1


def test_a_model_is_judged_by_the_motion_that_it_means(recordings):
    language = languages(0)[3]
    truth = np.concatenate(recordings.motions[3][TAUGHT:])

    class Says:
        def __init__(self, change):
            self.change, self.at = change, 0

        def unit_frames(self, fps):
            return 1

        def infer_actions(self, frames, unit):
            meant = self.change(truth[self.at : self.at + len(frames)])
            self.at += len(frames)
            return type("Said", (), {"actions": np.pad(language.said(meant), ((0, 0), (0, 2)))})  # beyond its own

    assert recordings.judge(Says(lambda motions: motions), language, [3]) == pytest.approx(1)
    mean = recordings.judge(Says(lambda motions: np.broadcast_to(truth.mean(0), motions.shape)), language, [3])
    assert mean == pytest.approx(0, abs=1e-6)
    half = recordings.judge(Says(lambda motions: truth.mean(0) + (motions - truth.mean(0)) / 2), language, [3])
    assert half == pytest.approx(0.75, abs=1e-6)


def test_robots_of_two_worlds_are_judged_in_their_own_tasks_and_numbers(recordings, tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    turning = [[rng.normal(size=(len(each), SPACE + 2)) for each in own] for own in recordings.motions]
    both = recordings._replace(
        tasks=recordings.tasks + tuple(f"other {task}" for task in recordings.tasks),
        frames=recordings.frames * 2,
        motions=recordings.motions + turning,
    )
    for options in (several_robots.JOINT, several_robots.ALONE):
        monkeypatch.setitem(options, "steps", 1)
    cell = Worlds(both, tmp_path, 0)
    asked = []
    monkeypatch.setattr(cell, "judged", lambda model, robot, tasks: asked.append((model, robot, tasks)) or len(asked))
    found = cell.worlds()
    assert found["shared"] == [found["shared (Meta-World)"][0], found["shared (OGBench)"][0]]
    assert [(robot, tasks) for _, robot, tasks in asked] == [(0, range(8)), (8, range(8, 16))] * 3
    assert [model.config.action_dim for model, _, _ in asked] == [4, 5, 5, 5, 4, 5]
    monkeypatch.setattr(several_robots, "NEW_KNOWN", (32,))
    asked.clear()
    assert {*cell.new_world()} == {"idm-own.32", "shared.32", "shared-untrained.32", "shared-trained_on.32"}
    assert {(robot, tasks) for _, robot, tasks in asked} <= {(8, range(8, 16))}
    written = lattok.open_dataset(tmp_path / "data/new.32")
    actions = np.concatenate([written.columns(episode.index, [EXECUTED])[EXECUTED] for episode in written.episodes])
    assert int(np.isfinite(actions).all(1).sum()) == 32


def test_planned_differences_are_paired_by_seed_and_corrected_by_part():
    rng = np.random.default_rng(0)
    rows = ("idm-own", "idm-padded", "shared", "shared-shuffled", "oracle")
    cells = {f"own.{seed}": {row: rng.random(len(ROBOTS)).tolist() for row in rows} for seed in range(8)}
    text = page(cells)
    gains = {
        pair: [np.mean(cell[pair[0]]) - np.mean(cell[pair[1]]) for cell in cells.values()] for pair in COMPARED["own"]
    }
    p = {pair: float(stats.ttest_1samp(gain, 0)[1]) for pair, gain in gains.items()}
    least = min(p, key=p.__getitem__)
    line = next(line for line in text.splitlines() if line.startswith(f"| {least[0]} | {least[1]} |"))
    assert f"{np.mean(gains[least]):+.3f} ± " in line
    assert line.endswith(f"| p {p[least]:.3f} | p {min(1, len(p) * p[least]):.3f} |")
    assert f"| shared | 8 | {np.mean([np.mean(cell['shared']) for cell in cells.values()]):.3f} ± " in text
    assert "new robot" not in text
