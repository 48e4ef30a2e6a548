"""Policies of several robots: what stands in place of unknown actions, and which episodes teach."""

import numpy as np
import pytest
from scipy import stats

import lattok
from lattok.data import LeRobotWriter
from lattok.data.schema import Feature
from studies import recount, robots_act
from studies.labels import ACTION
from studies.robots_act import filled, known, page
from studies.several_robots import DEMONSTRATED, ROBOTS, TAUGHT, Recordings, places


@pytest.fixture
def recordings():
    rng = np.random.default_rng(0)
    motions = [[rng.normal(size=(3 + (r + p) % 3, 4)).astype(np.float32) for p in range(TAUGHT + 1)] for r in ROBOTS]
    return Recordings((), tuple(f"task {robot}" for robot in ROBOTS), [[] for _ in ROBOTS], motions, 20.0)


def test_unknown_actions_of_taught_episodes_alone_are_read(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(robots_act, "RESULTS", tmp_path)
    data = tmp_path / "demonstrations"
    with LeRobotWriter.create(data, 20.0, {ACTION: Feature("float32", (4,), None)}) as writer:
        for place in range(TAUGHT + 1):  # robots in turn, as nobody promises another order
            for robot in ROBOTS:
                writer.add_episode({ACTION: recordings.motions[robot][place]}, {}, f"task {robot}")
    read = [own + 1 for robot in ROBOTS for own in recordings.motions[robot][:TAUGHT]]
    np.savez(tmp_path / "own.3.npz", shared=np.concatenate(read).astype(np.float16))
    there, kept = places(lattok.open_dataset(data)), known(recordings, 3)
    assert len(kept) == len(ROBOTS) * DEMONSTRATED
    made = lattok.open_dataset(filled(data, tmp_path / "filled", recordings, "shared", 3))
    for episode, (robot, place) in enumerate(there):
        change = place < TAUGHT and (robot, place) not in kept
        assert recordings.tasks[robot] == made.episodes[episode].tasks[0]
        truth = recordings.motions[robot][place]
        assert np.allclose(made.columns(episode, [ACTION])[ACTION], truth + change, atol=0.01)


def test_differences_are_paired_by_seed():
    wins = {"shared": (8, 9, 7), "idm-padded": (4, 7, 5)}
    own = {f"{row}.{seed}": won for row, each in wins.items() for seed, won in enumerate(each)}
    text = page({key: {"own": {"a task": [won, 0, 10]}} for key, won in own.items()})
    assert f"| shared | idm-padded | +{np.mean([0.4, 0.2, 0.2]):.3f} ± " in text
    p = stats.ttest_1samp([0.4, 0.2, 0.2], 0)[1]
    assert text.rstrip().endswith(f"| p {p:.3f} | p {p:.3f} |")
    counted = {row: {seed: won / 10 for seed, won in enumerate(each)} for row, each in wins.items()}
    assert recount.check(recount.robots(counted, recount.columns(text)), "")[1] == 0
    counted["shared"][2] += 0.1
    assert recount.check(recount.robots(counted, recount.columns(text)), "")[1] > 2
