"""Policies of robots with other actions and states: a head for each, of its own numbers in its own units."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.samples import PolicyWindows, WindowOptions
from tests.conftest import CAMERAS, moving_square
from tests.errors import refused
from tests.recipes.policies import SIZES

WIDTHS = {"arm": (3, 2), "hand": (5, 4)}  # of actions and states
NAMES = {"arm": ("x", "y", "gripper"), "hand": ("x", "y", "z", "roll", "gripper")}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("robots"), np.random.default_rng(0)
    for place, (name, (actions, states)) in enumerate(WIDTHS.items()):
        features = {"action": Feature("float32", (actions,), NAMES[name])}
        features["observation.state"] = Feature("float32", (states,), None)
        features |= {key: Feature("image", (32, 32, 3), None) for key in CAMERAS}
        with LeRobotWriter.create(folder / name, 10, features) as writer:
            for length in (9, 8, 7):
                row = {"action": 30.0 * place + rng.standard_normal((length, actions))}
                row["observation.state"] = rng.standard_normal((length, states))
                writer.add_episode(row, {key: moving_square(rng, length) for key in CAMERAS}, "lift")
    return {name: folder / name for name in WIDTHS}


def recipe(roots, out: Path, **options) -> lattok.VLARecipe:
    mix = tuple(f"{root}:1.0" for root in roots.values())
    given = {"backbone": "scratch", "steps": 3, "batch_size": 6, "mix": mix, "heads": "each", **SIZES, **options}
    return lattok.VLARecipe.from_preset(None, out, **given)


def observation(states: int) -> dict:
    rng = torch.Generator().manual_seed(states)
    seen: dict = {key: torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=rng) for key in CAMERAS}
    return seen | {"observation.state": torch.randn(2, states, generator=rng), "task": ["lift", "lift"]}


@pytest.mark.parametrize("head", ["regression", "flow"])
def test_each_acts_in_its_own_numbers(head, roots, tmp_path):
    out = tmp_path / "p"
    lattok.train(recipe(roots, out, head=head))
    policy = lattok.load(out)
    assert (policy.datasets, policy.config.action_widths, policy.config.proprio_widths) == (
        ("arm", "hand"),
        (3, 5),
        (2, 4),
    )
    assert {*json.loads((out / "held_out.json").read_text())["mixture"]} == {*WIDTHS}
    for name, (actions, states) in WIDTHS.items():
        chosen, seen = policy.for_dataset(name), observation(states)
        found = chosen.predict_chunk(seen)
        assert found.shape == (2, SIZES["horizon"], actions)
        assert chosen.config.action_names == NAMES[name]
        windows = PolicyWindows(open_dataset(roots[name]), WindowOptions(4, size=16, episodes="train"))
        low, high = windows.actions.quantile(torch.tensor([0.01, 0.99]), 0)
        torch.testing.assert_close(chosen.action_normalizer.shift, (low + high) / 2, rtol=1e-4, atol=1e-4)
        alone = lattok.load(chosen.save_pretrained(tmp_path / name))
        assert alone.datasets == ()
        assert torch.equal(alone.predict_chunk(seen), found)
        place = policy.datasets.index(name)
        if head == "regression":
            assert torch.equal(alone.select_action(seen), found[:, 0])
            # the whole policy says the same where this one's numbers are
            wide = policy.for_dataset(name)
            wide.config, wide.head = policy.config, policy.head
            wide.use_normalizers(policy.normalizers.of(name))
            padded = torch.zeros(2, 6)
            padded[:, slice(0, 2) if place == 0 else slice(2, 6)] = seen["observation.state"]
            every = wide.predict_chunk({**seen, "observation.state": padded})
            torch.testing.assert_close(
                every[..., slice(0, 3) if place == 0 else slice(3, 8)], found, rtol=1e-4, atol=1e-4
            )
    assert main(["evaluate", str(out), str(roots["hand"]), "--device", "cpu"]) == 0


def test_a_robot_teaches_its_own_head_alone(roots, tmp_path):
    made = recipe(roots, tmp_path / "p")
    data = made.policy_data(made.open())
    policy = made.learner(data).policy
    samples = data.normalised(policy, data.parts(lambda fps: (), False))
    batch = samples.batch(torch.arange(4))  # of the first one
    assert batch.source is not None
    assert not batch.source.any()
    policy.train()(batch)["action"].backward()
    assert policy.head.out.weight.grad[:3].any(1).all()
    assert not policy.head.out.weight.grad[3:].any()


def test_what_they_do_not_share_is_said(roots, tmp_path):
    shared = recipe(roots, tmp_path / "p", heads="shared")
    assert "Or give each robot a head: heads=each." in refused("mix", lattok.train, shared)
    refused("`heads`", recipe, {"arm": roots["arm"]}, tmp_path / "p")
    for others in ({"tokenizer": "tok"}, {"strategy": "la_direct", "stages": "pretrain,finetune"}):
        refused("`heads`", recipe, roots, tmp_path / "p", **others)
