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
from lattok.samples.batches import PolicyBatches
from lattok.utils import checks
from tests.conftest import CAMERAS, moving_square
from tests.errors import refused
from tests.recipes.policies import SIZES, stopped

WIDTHS = {"arm": (3, 2), "bare": (2, 0), "hand": (5, 4)}  # of actions and states
NAMES = {"arm": ("x", "y", "gripper"), "bare": ("x", "z"), "hand": ("x", "y", "z", "roll", "gripper")}
SEEN = {"arm": CAMERAS, "bare": ("observation.images.eye",), "hand": CAMERAS}
SIDE = {"arm": 32, "bare": 20, "hand": 32}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("robots"), np.random.default_rng(0)
    for place, (name, (actions, states)) in enumerate(WIDTHS.items()):
        features = {"action": Feature("float32", (actions,), NAMES[name])}
        features |= {"observation.state": Feature("float32", (states,), None)} if states else {}
        features |= {key: Feature("image", (SIDE[name], SIDE[name], 3), None) for key in SEEN[name]}
        with LeRobotWriter.create(folder / name, 10, features) as writer:
            for length in (9, 8, 7):
                row = {"action": 30.0 * place + rng.standard_normal((length, actions))}
                row |= {"observation.state": rng.standard_normal((length, states))} if states else {}
                writer.add_episode(row, {key: moving_square(rng, length, SIDE[name]) for key in SEEN[name]}, "lift")
    return {name: folder / name for name in WIDTHS}


@pytest.fixture(scope="module")
def tokenizers(roots, tmp_path_factory) -> dict[str, str]:
    folder, robots = tmp_path_factory.mktemp("tokenizers"), [str(root) for root in roots.values()]
    kinds = {"fast": ["--vocab-size", "300"], "residual-vq": ["--tokens", "3", "--codebook-size", "8"]}
    for kind, more in kinds.items():
        options = ["--horizon", str(SIZES["horizon"]), *more]
        assert main(["train", kind, *robots, "--out", str(folder / kind), *options]) == 0
    return {kind: str(folder / kind) for kind in kinds}


def recipe(roots, out: Path, **options) -> lattok.VLARecipe:
    mix = tuple(f"{root}:1.0" for root in roots.values())
    given = {"backbone": "scratch", "steps": 3, "batch_size": 6, "mix": mix, "heads": "each", **SIZES, **options}
    return lattok.VLARecipe.from_preset(None, out, **given)


def observation(name: str) -> dict:
    rng, side, states = torch.Generator().manual_seed(1), SIDE[name], WIDTHS[name][1]
    seen: dict = {k: torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=rng) for k in SEEN[name]}
    seen |= {"observation.state": torch.randn(2, states, generator=rng)} if states else {}
    return seen | {"task": ["lift", "lift"]}


@pytest.mark.parametrize("head", ["regression", "flow", "fast", "residual-vq"])
def test_each_acts_in_its_own_numbers(head, roots, tokenizers, tmp_path):
    out, tokens = tmp_path / "p", {"head": "tokens", "tokenizer": tokenizers.get(head)}
    lattok.train(recipe(roots, out, **(tokens if head in tokenizers else {"head": head})))
    policy = lattok.load(out)
    assert (policy.datasets, policy.config.action_widths, policy.config.proprio_widths) == (
        tuple(WIDTHS),
        (3, 2, 5),
        (2, 0, 4),
    )
    assert {*json.loads((out / "held_out.json").read_text())["mixture"]} == {*WIDTHS}
    for name, (actions, states) in WIDTHS.items():
        chosen, seen = policy.for_dataset(name), observation(name)
        found = chosen.predict_chunk(seen)
        assert found.shape == (2, SIZES["horizon"], actions)
        assert (chosen.config.action_names, chosen.config.cameras) == (NAMES[name], SEEN[name])
        assert chosen.config.proprio_dim == states
        actions_alone = WindowOptions(4, size=16, state_key=None, episodes="train")
        windows = PolicyWindows(open_dataset(roots[name]), actions_alone)
        low, high = windows.actions.quantile(torch.tensor([0.01, 0.99]), 0)
        torch.testing.assert_close(chosen.action_normalizer.shift, (low + high) / 2, rtol=1e-4, atol=1e-4)
        alone = lattok.load(chosen.save_pretrained(tmp_path / name))
        assert alone.datasets == ()
        assert torch.equal(alone.predict_chunk(seen), found)
        if head in tokenizers:
            assert alone.codec.tokenizer.config.names == NAMES[name]
        if head == "regression":
            assert torch.equal(alone.select_action(seen), found[:, 0])
    assert main(["evaluate", str(out), str(roots["bare"]), "--device", "cpu"]) == 0


def test_a_robot_teaches_its_own_head_alone_and_acts_as_it_was_taught(roots, tmp_path, capsys):
    """What is missing of a robot, cameras and state, is as missing in training as it is when it acts."""
    made = recipe(roots, tmp_path / "p")
    checks.note.cache_clear()
    data = made.policy_data(made.open())
    assert "note: mix: bare: acts without `observation.state`, which it has not, eye as " in capsys.readouterr().err
    policy = made.learner(data).policy
    samples = data.normalised(policy, data.parts(lambda fps: (), False))
    widths = [actions for actions, _ in WIDTHS.values()]
    ends = np.cumsum([0, *widths])
    for place, name in enumerate(WIDTHS):
        rows = torch.arange(4) + int(sum(samples.sizes[:place]))
        batch = samples.batch(rows)
        assert batch.source is not None
        assert batch.source.tolist() == [place] * 4
        policy.zero_grad()
        loss = policy.train()(batch)["action"]
        loss.backward()
        grad, own = policy.head.out.weight.grad.any(1), slice(ends[place], ends[place + 1])
        assert grad[own].all()
        assert grad.sum() == widths[place]
        policy.use_normalizers(policy.normalizers.in_use())
        chosen = policy.eval().for_dataset(name)
        state = "observation.state" if chosen.config.proprio_dim else None
        own_windows = WindowOptions(4, 16, chosen.config.cameras, "bilinear", state_key=state, episodes="train")
        windows = PolicyWindows(open_dataset(roots[name]), own_windows).batch(torch.arange(4))
        maps = chosen.action_normalizer
        error = maps(chosen.predict_chunk(windows)) - maps(windows.actions)
        torch.testing.assert_close(error.abs()[windows.valid].mean(), loss.detach(), rtol=1e-4, atol=1e-5)
        policy.use_normalizers(policy.normalizers.fresh())


@pytest.mark.parametrize(("kind", "order"), [("fast", "autoregressive"), ("residual-vq", "parallel")])
def test_codes_that_teach_are_those_of_each_in_its_own_units(kind, order, roots, tokenizers, tmp_path):
    tokenizer = lattok.load(tokenizers[kind])
    made = recipe(roots, tmp_path / "p", head="tokens", head_order=order, tokenizer=tokenizers[kind])
    data = made.policy_data(made.open())
    policy = made.learner(data).policy
    samples = data.normalised(policy, data.parts(lambda fps: (), False))
    batch, place = samples.batch(torch.arange(sum(samples.sizes))), 0
    for name, size in zip(WIDTHS, samples.sizes, strict=True):
        mine = slice(place, place := place + size)
        codes = codes_of(tokenizer.for_dataset(name), roots[name])
        width = min(codes.shape[1], batch.tokens.shape[1])
        assert torch.equal(batch.tokens[mine, :width], codes[:, :width])
        assert (batch.tokens[mine, width:] < 0).all()
        assert (codes[:, width:] < 0).all()
        assert len(codes.unique(dim=0)) > 1
    policy.train()(policy.with_tokens(batch))["action"].backward()
    assert policy.head.out.weight.grad.abs().sum() > 0


def codes_of(tokenizer, root: Path) -> torch.Tensor:
    windows = PolicyWindows(open_dataset(root), WindowOptions(4, 16, (), state_key=None, episodes="train"))
    batch = windows.batch(torch.arange(len(windows)))
    return tokenizer.encode(batch.actions, batch.valid)


def test_la_tok_labels_each_by_the_tokenizer_in_its_own_units(roots, tokenizers, tmp_path):
    made = recipe(roots, tmp_path / "p", strategy="la_tok", tokenizer=tokenizers["residual-vq"])
    lattok.train(made)
    tokenizer = lattok.load(tokenizers["residual-vq"])
    parts = made.policy_data(made.open()).parts(lambda fps: (), False)
    for name, part in zip(WIDTHS, parts, strict=True):
        codes = part.batch(torch.arange(len(part))).latent.codes
        assert torch.equal(codes.flatten(1), codes_of(tokenizer.for_dataset(name), roots[name]))
    assert {*json.loads((tmp_path / "p" / "held_out.json").read_text())["mixture"]} == {*WIDTHS}


def test_named_in_another_order_and_continued_it_has_the_same_weights(roots, tmp_path):
    once = lattok.train(recipe(roots, tmp_path / "once", save_every=2))
    turned = dict(reversed(roots.items()))
    with stopped(PolicyBatches, 2):
        lattok.train(recipe(turned, tmp_path / "p", save_every=2))
    again = lattok.train(lattok.VLARecipe.resumed(None, tmp_path / "p", None, {}), resume=True)
    assert again.describe()["weights_sha256"] == once.describe()["weights_sha256"]


def test_what_they_do_not_share_is_said(roots, tmp_path):
    shared = recipe(roots, tmp_path / "p", heads="shared")
    assert "Or give each robot a head: heads=each." in refused("mix", lattok.train, shared)
    refused("`heads`", recipe, {"arm": roots["arm"]}, tmp_path / "p")
    for others in ({"decoder": "idm"}, {"strategy": "la_direct", "stages": "pretrain,finetune"}):
        refused("`heads`", recipe, roots, tmp_path / "p", **others)
