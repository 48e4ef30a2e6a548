"""What a cell of the closed-loop study writes down."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from lattok.sim.worlds.metaworld import PairedScenes
from studies import cell, labels
from studies.comparisons import won
from studies.plan import FEW_STARTS, FOUR, REGIMES, STARTS, Cell
from tests.vla.fakes import observation
from tests.vla.test_tokens import policy


def test_a_cell_keeps_how_every_rollout_ended_from_which_start(monkeypatch, tmp_path):
    """Rows share their start states, so single rollouts can be compared; counts alone would lose which was which."""
    kinds = {0: (True, False), 1: (False, True), 2: (False, False)}  # success, the opposite

    def rollout(policy, tasks, episodes, **options):
        played = []
        seen = {"task": ["one", "two"], "state": torch.arange(2)}
        asked.append(len(policy.predict_chunk(seen)))
        for task in cell.find_tasks(tasks):
            for seed in range(episodes):
                success, failure = kinds[seed % 3]
                played.append(SimpleNamespace(task=task, seed=seed, success=success, failure=failure, decisions=seed))
        return SimpleNamespace(episodes=played)

    def predict_chunk(self, observation, seed=0):
        shown.append(observation)
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return self.head.sample(len(observation["task"]))

    asked, shown = list[int](), list[dict]()
    head = type("Head", (), {"sample": lambda self, count: torch.zeros(count, 1)})()
    said = {"config": SimpleNamespace(prompt="{task}"), "describe": lambda self: {"type": "latent-vla"}}
    made = type("Policy", (), {**said, "head": head, "predict_chunk": predict_chunk})()
    monkeypatch.setattr(cell, "rollout", rollout)
    monkeypatch.setattr(cell, "trained", lambda *args: (made, 3.0))
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
    assert 20 <= found["decision"]["cpu_ms"] < 30
    assert found["decision"]["codes"] is None  # no policy that acts by tokens
    assert shown[-1] == {"task": ["one"], "state": torch.zeros(1, dtype=torch.long)}  # a decision alone
    assert "predict_chunk" not in vars(made)


@pytest.mark.parametrize(("kind", "draws"), [("fast", 1), ("fast", 3), ("residual", 1)])
def test_codes_of_decisions_are_counted_and_some_are_asked_for_again_alone(kind, draws):
    """Where the number of codes varies; of the mean of several chunks, those of all of them."""
    model = policy(kind, head_temperature=2.0, head_draws=draws).eval()
    seen = {**observation(model.config), "task": list("abcd")}
    shown, codes, chosen = list[dict](), list[int](), list[torch.Tensor]()
    sample = type(model.head).sample
    model.head.sample = lambda *given: chosen.append(sample(model.head, *given)) or chosen[-1]
    with cell.noted_decisions(model, shown, codes):
        for _ in range(3):
            model.predict_chunk(seen)
    rows = [row for each in chosen for row in each.tolist()]
    counts = [sum(code >= 0 for code in row) for row in rows]
    assert codes == [sum(counts[i : i + draws]) for i in range(0, len(counts), draws)]
    assert len(codes) == 3 * 4
    assert [each["task"] for each in shown] == [["a"], ["b"], ["c"]]
    assert len(cell.latencies(model, shown)) == 3


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
