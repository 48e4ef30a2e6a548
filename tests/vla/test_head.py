import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.backbones import BackboneOut
from lattok.nn.losses import LATEST, draw_flow
from lattok.types import FlowDraws, PolicyBatch
from lattok.vla.head import ActionHead, FlowActionHead, LayerStates, TokenPositions, pool_codes
from tests.errors import refused
from tests.learning import learn, unlearned
from tests.vla.fakes import batch, config, observation, policy, rows


def head_and_states(proprio: bool = True):
    torch.manual_seed(0)
    made = config(horizon=5, proprio_dim=3 if proprio else 0)
    head = ActionHead(16, (2, 3), made).eval()
    for block in head.blocks:
        torch.nn.init.constant_(block.image_gate, 0.7)
    states = {
        k: LayerStates(torch.randn(2, 6, 16), torch.randn(2, 4, 16), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool())
        for k in (2, 3)
    }
    return head, states, torch.randn(2, 3)


def reference(
    head: ActionHead,
    states: dict[int, LayerStates],
    proprio: torch.Tensor,
    start: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """The head in numpy, sample by sample, attention weights one by one; `start` [B, H, d]: what the steps start as."""
    w = {name: tensor.detach().double().numpy() for name, tensor in head.state_dict().items()}
    erf = np.vectorize(__import__("math").erf)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    def attend(x, keys, name):
        q, (k, v) = linear(x, f"{name}.q"), np.split(linear(keys, f"{name}.kv"), 2, -1)
        d = q.shape[1] // 4
        parts = []
        for h in range(4):
            part = slice(h * d, h * d + d)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(d))
            parts.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        return linear(np.concatenate(parts, -1), f"{name}.out")

    out = []
    for b in range(2):
        token = linear(gelu(linear(proprio[b].double().numpy(), "proprio.0")), "proprio.2")[None]
        x = w["queries"] if start is None else start[b]
        here = slice(None) if valid is None else valid[b]
        for i, state in enumerate(states.values()):
            at = f"blocks.{i}"
            placeholders, image = (part[b].double().numpy() for part in state[:2])
            placed = linear(norm(placeholders, f"{at}.project.0"), f"{at}.project.1")
            steps = norm(x, f"{at}.norm")
            x = x + attend(steps, np.concatenate([steps[here], placed, token]), f"{at}.attention")
            seen = linear(norm(image[state.image_valid[b].numpy()], f"{at}.project_image.0"), f"{at}.project_image.1")
            x = x + np.tanh(w[f"{at}.image_gate"]) * attend(norm(x, f"{at}.norm_image"), seen, f"{at}.image_attention")
            x = x + linear(gelu(linear(norm(x, f"{at}.norm_ff"), f"{at}.ff.0")), f"{at}.ff.3")
        out.append(linear(norm(x, "norm"), "out"))
    return np.stack(out)


def test_the_head_equals_plain_arithmetic():
    head, states, proprio = head_and_states()
    with torch.no_grad():
        np.testing.assert_allclose(head(states, proprio), reference(head, states, proprio), atol=1e-5)


def test_image_tokens_that_are_not_valid_change_nothing():
    head, states, proprio = head_and_states()
    before = head(states, proprio)
    for state in states.values():
        state.image[1, 2:] = 1e3
    torch.testing.assert_close(head(states, proprio), before)


def test_a_sample_without_image_tokens_is_finite():
    head, states, proprio = head_and_states()
    for state in states.values():
        state.image_valid[0] = False
    assert torch.isfinite(head(states, proprio)).all()


def test_a_head_without_image_or_proprio():
    head, states, _ = head_and_states(proprio=False)
    text = {k: LayerStates(state.placeholders, None, None) for k, state in states.items()}
    assert head(text, None).shape == (2, 5, 3)


def test_pooling_is_over_the_codes_of_a_step_and_not_over_time():
    states = torch.arange(12.0).reshape(1, 6, 2)  # three steps of two codes
    pooled = pool_codes(states, 2)
    assert pooled.tolist() == [[[1, 2], [5, 6], [9, 10]]]
    assert pool_codes(states, 2, "none") is states


@pytest.mark.parametrize("second", [[1, 0, 0, 0, 0], [0, 1, 1, 1, 0], None])
def test_image_tokens_and_queries_are_taken_in_order_wherever_they_lie(second):
    hidden = torch.arange(14.0).reshape(2, 7, 1)
    image = None if second is None else torch.tensor([[0, 1, 0, 1, 1, 0, 0], [*second, 0, 0]]).bool()
    chosen = TokenPositions.of(BackboneOut({}, slice(5, 7), torch.ones(2, 7, dtype=torch.bool), image))
    tokens, queries = chosen.take(hidden, torch.float32)
    assert queries[..., 0].tolist() == [[5, 6], [12, 13]]
    if tokens is None:
        assert second is None
        return
    assert tokens[0, :, 0].tolist() == [1, 3, 4]
    valid = torch.ones(2, 3, dtype=torch.bool) if chosen.valid is None else chosen.valid
    assert tokens[1, valid[1], 0].tolist() == [7 + i for i, here in enumerate(second) if here]
    assert (chosen.valid is None) == (sum(second) == 3)


def test_grippers_are_logits_that_cross_entropy_compares():
    """L_ee + L_gripper of LatBot; what is drawn is the mean of what lies between -1 and 1."""
    torch.manual_seed(0)
    made = config(horizon=5, proprio_dim=0, proprio_names=(), action_names=("x", "y", "gripper"), action_loss="l2_bce")
    head, (_, states, _) = ActionHead(16, (2, 3), made).eval(), head_and_states(proprio=False)
    target = torch.rand(2, 5, 3) * 2 - 1
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    with torch.no_grad():
        raw, drawn = head(states, None).numpy(), head.sample(states, None, None, 0).numpy()  # pyright: ignore
        loss = head.learn(states, None, target.masked_fill(~valid[..., None], torch.nan), valid)[0]["action"]
    share, own = 1 / (1 + np.exp(-raw[..., 2])), target.numpy()
    entropy = -(own[..., 2] + 1) / 2 * np.log(share) - (1 - own[..., 2]) / 2 * np.log(1 - share)
    errors = ((raw - own)[..., :2] ** 2).mean(-1) + entropy
    assert float(loss) == pytest.approx(np.mean([errors[0].mean(), errors[1, :3].mean()]), rel=1e-5)
    np.testing.assert_allclose(drawn[..., 2], 2 * share - 1, atol=1e-6)
    np.testing.assert_array_equal(drawn[..., :2], raw[..., :2])
    for kind in ("regression", "flow"):
        refused("`action_loss`", config, action_loss="l2_bce", head=kind)


# flow matching

flowing = partial(policy, head="flow")
GRIPPER = {"action_names": ("x", "y", "gripper"), "action_loss": "l2_bce"}


def flow_head(**changes) -> FlowActionHead:
    torch.manual_seed(0)
    made = FlowActionHead(16, (2, 3), config(horizon=5, proprio_dim=3, head="flow", **changes)).eval()
    for block in made.blocks:
        torch.nn.init.constant_(block.image_gate, 0.7)
    return made


def having(draws: FlowDraws) -> PolicyBatch:
    return PolicyBatch(None, (), None, None, None, draws=draws)  # pyright: ignore


def start(head: FlowActionHead, x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """What the steps start as: their query, the noisy actions and the time, in numpy."""
    w = {name: tensor.detach().double().numpy() for name, tensor in head.state_dict().items()}
    dim = w["queries"].shape[1]
    angles = 1000 * times[:, None] / 10000 ** (np.arange(0, dim, 2) / dim)
    hidden = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(times), dim) @ w["time.0.weight"].T
    hidden = hidden + w["time.0.bias"]
    when = (hidden / (1 + np.exp(-hidden))) @ w["time.2.weight"].T + w["time.2.bias"]
    return w["queries"] + x @ w["noisy.weight"].T + w["noisy.bias"] + when[:, None]


def test_the_loss_equals_plain_arithmetic():
    """Sample 1 ends after three of five steps: what comes then is neither judged nor seen."""
    head, (_, states, proprio) = flow_head(), head_and_states()
    generator = torch.Generator().manual_seed(1)
    actions, draws = torch.randn(2, 5, 3, generator=generator), draw_flow((2, 5, 3), generator)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    given = actions.masked_fill(~valid[..., None], torch.nan)
    loss = head.learn(states, proprio, given, valid, having(draws))[0]["action"]
    a, noise, t, own = (part.double().numpy() for part in (actions, *draws, valid))
    x = (1 - t)[:, None, None] * noise + t[:, None, None] * a
    predicted = reference(head, states, proprio, start(head, x, t), own.astype(bool))
    errors = ((predicted - (a - noise)) ** 2).mean(-1)
    assert float(loss.detach()) == pytest.approx(np.mean([errors[0].mean(), errors[1, :3].mean()]), rel=1e-5)


def test_grippers_are_logits_of_the_same_steps_which_never_see_their_truth():
    """L_ee + L_gripper of LatBot over a flow head: velocities of x and y, cross-entropy of the third."""
    head, (_, states, proprio) = flow_head(**GRIPPER), head_and_states()
    generator = torch.Generator().manual_seed(1)
    actions, draws = 2 * torch.rand(2, 5, 3, generator=generator) - 1, draw_flow((2, 5, 3), generator)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    a, noise, t, own = (part.double().numpy() for part in (actions, *draws, valid))
    x = (1 - t)[:, None, None] * noise + t[:, None, None] * a
    x[..., 2] = 0
    said = reference(head, states, proprio, start(head, x, t), own.astype(bool))
    share, wanted = 1 / (1 + np.exp(-said[..., 2])), (a[..., 2] + 1) / 2
    entropy = -wanted * np.log(share) - (1 - wanted) * np.log(1 - share)
    errors = ((said - (a - noise))[..., :2] ** 2).mean(-1) + entropy
    given, seen = actions.masked_fill(~valid[..., None], torch.nan), []
    head.out.register_forward_hook(lambda module, x, said: seen.append(said.detach()))
    with torch.no_grad():
        loss = head.learn(states, proprio, given, valid, having(draws))[0]["action"]
    assert float(loss) == pytest.approx(np.mean([errors[0].mean(), errors[1, :3].mean()]), rel=1e-5)
    other = torch.cat([given[..., :2], -given[..., 2:]], -1)  # the other way round, with other noise there
    noisy = draws._replace(noise=torch.cat([draws.noise[..., :2], 1 - draws.noise[..., 2:]], -1))
    with torch.no_grad():
        assert abs(float(head.learn(states, proprio, other, valid, having(noisy))[0]["action"] - loss)) > 1e-3
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)


@pytest.mark.parametrize("steps", [1, 4])
def test_an_action_has_the_gripper_of_the_last_step(steps: int):
    head, (_, states, proprio) = flow_head(**GRIPPER, head_flow_steps=steps), head_and_states()
    noise, goal, given = torch.randn(2, 5, 3), torch.randn(2, 5, 3), []

    def field(x: torch.Tensor, times: torch.Tensor, *_) -> torch.Tensor:
        given.append(x)
        moves = (goal - x) / (1 - times[:, None, None])
        return torch.cat([moves[..., :2], (5 * times - 2)[:, None, None].expand(-1, 5, 1)], -1)

    head.velocity = field
    chunk = head.integrate(noise, states, proprio)
    torch.testing.assert_close(chunk[..., :2], goal[..., :2])
    logit = 5 * (steps - 1) / steps - 2
    torch.testing.assert_close(chunk[..., 2], torch.full((2, 5), 2 / (1 + np.exp(-logit)) - 1))
    without = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    chunk = head.integrate(noise, states, proprio, without)
    assert not chunk[0, :, 2].any()
    assert not chunk[1, :, 1].any()
    assert chunk[1, :, 2].all()


def test_times_follow_the_distribution_of_the_papers():
    """t = s (1 - Beta(1.5, 1)); noise is standard normal."""
    noise, times = draw_flow((20_000, 2, 3), torch.Generator().manual_seed(0))
    beta = np.random.default_rng(0).beta(1.5, 1.0, 20_000)
    quantiles = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(np.quantile(times, quantiles), np.quantile(0.999 * (1 - beta), quantiles), atol=0.02)
    assert 0 <= float(times.min()) < float(times.max()) <= LATEST
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_eulers_method_on_fields_that_are_known(steps: int):
    head, (_, states, proprio) = flow_head(head_flow_steps=steps), head_and_states()
    noise, goal = torch.randn(2, 5, 3), torch.randn(2, 5, 3)

    def follow(field) -> torch.Tensor:
        head.velocity = lambda x, times, *_: field(x, times[:, None, None])
        return head.integrate(noise, states, proprio)

    torch.testing.assert_close(follow(lambda x, t: (goal - x) / (1 - t)), goal)  # straight lines to a point
    torch.testing.assert_close(follow(lambda x, t: x), noise * (1 + 1 / steps) ** steps)
    torch.testing.assert_close(follow(lambda x, t: t.expand_as(x)), noise + (steps - 1) / (2 * steps))


def test_strategies_learn_with_it():
    model = flowing("la_cond").train()
    data = batch(model.config)
    data = data._replace(draws=draw_flow(data.actions.shape, torch.Generator().manual_seed(0)))
    first, *_, last = learn(model, lambda: model(data), 20, 3e-3, model.config.loss_weights)
    assert unlearned(model) == []
    assert last["action"] < 0.7 * first["action"]


def test_what_is_not_valid_changes_nothing():
    model = flowing().eval()
    data = batch(model.config)
    draws = draw_flow(data.actions.shape, torch.Generator().manual_seed(0))
    others = draws.noise.masked_scatter(~data.valid[..., None], torch.randn(100))
    assert not torch.equal(others, draws.noise)
    nothing = data.actions.masked_fill(~data.valid[..., None], torch.nan)
    with torch.no_grad():
        before = model(data._replace(draws=draws))
        after = model(data._replace(actions=nothing, draws=FlowDraws(others, draws.times)))
    torch.testing.assert_close(after, before)


def test_noise_follows_from_the_seed_and_the_sample_alone():
    model = flowing().eval()
    data = batch(model.config)
    chunk = model.predict_chunk(data)
    assert torch.equal(model.predict_chunk(data), chunk)
    alone = torch.cat([model.predict_chunk(rows(data, [i])) for i in reversed(range(len(data.images)))]).flip(0)
    torch.testing.assert_close(alone, chunk, atol=1e-5, rtol=0)
    assert (model.predict_chunk(data, seed=1) - chunk).abs().amax((1, 2)).min() > 0.1
    same = data._replace(images=data.images[:1].expand_as(data.images), texts=[data.texts[0]] * len(data.texts))
    same = same._replace(proprio=data.proprio[:1].expand_as(data.proprio))
    torch.testing.assert_close(model.predict_chunk(same), chunk[:1].expand_as(chunk), atol=1e-5, rtol=0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model.select_action(observation(model.config), env_ids=[3, 1, 0, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_saved_and_loaded(tmp_path: Path):
    model = flowing("la_cond", head_flow_steps=5, **GRIPPER).eval()
    model.head.flow_steps = 3
    seen = observation(model.config)
    model.save_pretrained(tmp_path)
    loaded = lattok.load(tmp_path)
    assert (loaded.config.head.name, loaded.head.flow_steps) == ("flow", 3)
    assert torch.equal(loaded.predict_chunk(seen), model.predict_chunk(seen))
    rounded = loaded.to(torch.bfloat16).predict_chunk(seen)
    torch.testing.assert_close(rounded, model.predict_chunk(seen), atol=0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head_flow_steps": 0}, "`head_flow_steps`"),
        ({"head_flow_steps": 10**9}, "`head_flow_steps`"),
        ({"head": "flow", "action_loss": "l1"}, "`action_loss`"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict, text: str):
    refused(re.escape(text), config, **changes)
