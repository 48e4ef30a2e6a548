"""What a cell of the closed-loop study writes down."""

import json
import time
from types import SimpleNamespace

from benchmarks.closed_loop import cell, labels
from benchmarks.closed_loop.comparisons import won
from benchmarks.closed_loop.plan import FEW_STARTS, FOUR, REGIMES, STARTS, Cell
from lattok.sim.worlds.metaworld import PairedScenes


def test_a_cell_keeps_how_every_rollout_ended_from_which_start(monkeypatch, tmp_path):
    """Rows share their start states, so single rollouts can be compared; counts alone would lose which was which."""
    kinds = {0: (True, False), 1: (False, True), 2: (False, False)}  # success, the opposite

    def rollout(policy, tasks, episodes, **options):
        played = []
        asked.append(len(policy.predict_chunk([0, 1])))
        for task in cell.find_tasks(tasks):
            for seed in range(episodes):
                success, failure = kinds[seed % 3]
                played.append(SimpleNamespace(task=task, seed=seed, success=success, failure=failure, decisions=seed))
        return SimpleNamespace(episodes=played)

    def predict_chunk(self, observation, seed=0):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return observation

    asked: list[int] = []
    shown = {"config": SimpleNamespace(prompt="{task}"), "describe": lambda self: {"type": "latent-vla"}}
    policy = type("Policy", (), {**shown, "predict_chunk": predict_chunk})()
    monkeypatch.setattr(cell, "rollout", rollout)
    monkeypatch.setattr(cell, "trained", lambda *args: (policy, 3.0))
    found = json.loads(json.dumps(cell.run(Cell("plentiful", "baseline", 0), tmp_path)))
    ends = ("success", "failure", "none")
    assert set(found["outcomes"]) == {"own", "swapped", "blank"}
    for how, starts in {"own": STARTS, "swapped": FEW_STARTS, "blank": FEW_STARTS}.items():
        assert len(found["outcomes"][how]) == 8
        for task, rollouts in found["outcomes"][how].items():
            assert rollouts == [[seed, ends[seed % 3], seed] for seed in range(starts)]
            assert found[how][task] == [len(range(0, starts, 3)), len(range(1, starts, 3)), starts]
    assert sum(won(found).values()) == 8 * len(range(0, STARTS, 3))
    assert found["cpu_s"]["training"] == 3.0
    assert asked == [2, 2, 2]
    assert 10 <= found["cpu_ms_per_chunk"] < 15  # of two chunks at once
    assert "predict_chunk" not in vars(policy)


def test_actions_of_four_tasks_are_known_for_these_alone(monkeypatch, tmp_path):
    """The regime names tasks, the dataset their instructions."""
    tasks = PairedScenes.tasks()
    episodes = [SimpleNamespace(index=i, tasks=(text,)) for i, text in enumerate(tasks.values())]
    monkeypatch.setattr(labels.lattok, "open_dataset", lambda folder: episodes)
    monkeypatch.setattr(labels, "select_episodes", lambda dataset, chosen: dataset)
    known = labels.known_episodes(tmp_path, REGIMES["four-tasks"], 0)
    assert known is not None
    assert {list(tasks)[int(i)] for i in known.split(",")} == set(FOUR)
    assert labels.known_episodes(tmp_path, REGIMES["plentiful"], 0) is None


def test_a_control_sees_no_video_but_that_of_known_actions(monkeypatch, tmp_path):
    """It is trained as `idm-video` otherwise."""
    monkeypatch.setattr(labels, "known_episodes", lambda *args: "3,7")
    given = {}
    monkeypatch.setattr(labels.lattok, "train", lambda recipe: given.setdefault(recipe.out.rsplit("/")[-1], recipe))
    for name in ("idm-video", "idm-known_video"):
        labels.label_model(tmp_path, tmp_path / "demonstrations", name, REGIMES["four-tasks"], 5)
    every, alone = (recipe.options() for recipe in given.values())
    assert (every["episodes"], every["action_episodes"]) == ("train", "3,7")
    assert (alone["episodes"], alone["action_episodes"]) == ("3,7", None)
    assert {name for name in every if every[name] != alone[name]} == {"episodes", "action_episodes"}
    assert alone["loss_reversal"] == 0.5


def test_filled_rows_learn_from_the_episodes_of_all_other_rows(monkeypatch, tmp_path):
    """A dataset that says which actions were measured has another split: only measured ones are held out there."""
    episodes = {"demonstrations": range(5), "filled": range(2, 5)}
    monkeypatch.setattr(cell.lattok, "open_dataset", lambda folder: episodes[folder.name])
    monkeypatch.setattr(cell, "select_episodes", lambda dataset, chosen: [SimpleNamespace(index=i) for i in dataset])
    monkeypatch.setattr(cell, "known_episodes", lambda *args: "0,1")
    monkeypatch.setattr(cell, "filled_dataset", lambda folder, *args: folder / "filled")
    given = {}
    monkeypatch.setattr(cell.lattok.VLARecipe, "from_preset", lambda data, out, preset, **options: given | options)
    for row in ("idm", "idm-shuffled", "executed", "decoded"):
        recipe = cell.recipe_of(Cell("action-free", row, 0), tmp_path, tmp_path / "out")
        assert recipe["episodes"] == "0,1,2,3,4", row
