from __future__ import annotations

import numpy as np
import pytest
import torch

from lattok import LattokError
from lattok.backbones import BackboneOut
from lattok.vla.head import ActionHead, LayerStates, TokenPositions, pool_codes
from tests.vla.fakes import config


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


def test_steps_differ_from_the_start():
    """The published head repeats one action over the chunk at test time."""
    head, states, proprio = head_and_states()
    chunk = head(states, proprio)
    assert (chunk[:, 1:] - chunk[:, :1]).abs().amax(-1).min() > 1e-2


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
        with pytest.raises(LattokError, match="`action_loss`: expected l2_bce for actions with a .gripper., got with"):
            config(action_loss="l2_bce", head=kind)
