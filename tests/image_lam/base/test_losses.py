"""Losses of the image latent action model against numpy and loops, and what they make of data that does not move."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lattok.image_lam.base import losses
from tests.errors import refused


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Numbers with a mean and a deviation of their own in the last axis."""
    return torch.from_numpy(rng.standard_normal(shape) * np.arange(1, shape[-1] + 1) ** 2 + 3)


def test_prediction_is_the_mean_over_everything(rng):
    predicted, target = normal(rng, 5, 4, 3), normal(rng, 5, 4, 3)
    expected = sum((p - t) ** 2 for p, t in zip(predicted.flatten().tolist(), target.flatten().tolist(), strict=True))
    assert losses.prediction(predicted, target).item() == pytest.approx(expected / 60)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_only_labelled_actions_count(count, rng):
    predicted, actions = normal(rng, 6, 3, 4), normal(rng, 6, 3, 4)
    labelled = torch.from_numpy(rng.permutation(6) < count)
    expected = np.mean([(predicted[i] - actions[i]).numpy() ** 2 for i in range(6) if labelled[i]])
    assert losses.action(predicted, actions, labelled).item() == pytest.approx(expected)


def test_a_batch_without_labels_costs_nothing():
    assert losses.action(torch.ones(6, 4), torch.zeros(6, 4), torch.zeros(6).bool()) == 0


def test_actions_of_another_shape_are_not_broadcast():
    refused("`actions`", losses.action, torch.ones(6, 4), torch.ones(6, 1), torch.ones(6).bool())


@pytest.mark.parametrize(("size", "tokens"), [(2, 2), (9, 2), (9, 4)])
def test_decorrelation_is_made_of_numpys_correlations(size, tokens, rng):
    latents, dim = normal(rng, size, tokens, 3), 3
    correlation = np.corrcoef(latents.reshape(size, -1).numpy(), rowvar=False).reshape(tokens, dim, tokens, dim)
    between = [
        sum(correlation[p, i, q, j] ** 2 for i in range(dim) for j in range(dim)) / dim
        for p in range(tokens)
        for q in range(tokens)
        if p != q
    ]
    assert losses.decorrelation(latents).item() == pytest.approx(np.mean(between))


def test_decorrelation_is_zero_for_independent_and_one_for_equal_tokens(rng):
    free, one = normal(rng, 4000, 3, 4), normal(rng, 4000, 1, 4)
    assert losses.decorrelation(free) < 0.01
    assert losses.decorrelation(one.expand(-1, 3, -1)).item() == pytest.approx(1, abs=0.01)
    assert losses.decorrelation(free[:, :1]) == 0


def test_separation_is_the_mean_of_numpys_correlations(rng):
    one, other = normal(rng, 9, 2, 3), normal(rng, 9, 4, 2)
    both = np.concatenate([part.reshape(9, -1).numpy() for part in (one, other)], 1)
    between = np.corrcoef(both, rowvar=False)[:6, 6:]
    assert losses.separation(one, other).item() == pytest.approx(np.mean(between**2))
    still = torch.ones_like(other).requires_grad_()
    loss = losses.separation(one, still)
    (gradient,) = torch.autograd.grad(loss, still)
    assert loss == 0
    assert gradient.isfinite().all()


def test_a_channel_that_never_moves_shares_nothing_with_others(rng):
    latents = normal(rng, 9, 2, 3)
    latents[:, 0] = 1.0
    latents.requires_grad_()
    loss = losses.decorrelation(latents)
    (gradient,) = torch.autograd.grad(loss, latents)
    assert loss == 0
    assert gradient.isfinite().all()
    assert losses.decorrelation(latents[:1]) == 0  # a single sample does not move either


def test_additivity_against_a_loop(rng):
    """c(0, k+1) = c(0, k) + c(k, k+1) for k = 1 to 3."""
    pairs = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4]]
    latents = normal(rng, 5, len(pairs), 2, 3)
    c = {tuple(pair): latents[:, i].numpy() for i, pair in enumerate(pairs)}
    error = np.mean([(c[0, k + 1] - c[0, k] - c[k, k + 1]) ** 2 for k in (1, 2, 3)])
    spread = np.mean([c[0, k].var(0) for k in (2, 3, 4)])
    assert losses.additivity(latents).item() == pytest.approx(error / spread)


def test_additivity_is_zero_for_latents_that_add_up_and_blind_to_their_scale(rng):
    first, second, third = normal(rng, 500, 3, 2, 4).unbind(1)
    latents = torch.stack([first, first + second, first + second + third, second, third], 1)
    assert losses.additivity(latents) < 1e-10
    wrong = latents + normal(rng, *latents.shape)
    assert losses.additivity(wrong) > 0.5
    torch.testing.assert_close(losses.additivity(100 * wrong), losses.additivity(wrong))
    wrong.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.additivity(wrong), wrong)
    assert abs((wrong * gradient).sum()) < 1e-5  # nor does training shrink them


def test_latents_that_never_move_have_no_infinite_share():
    assert losses.additivity(torch.zeros(5, 3, 2, 4)) == 0
    assert losses.additivity(torch.ones(5, 3, 2, 4)).isfinite()


def test_flow_is_the_share_of_motion_that_is_not_explained(rng):
    motion, noise = normal(rng, 50, 6), rng.standard_normal((50, 6))
    assert losses.flow(motion, motion) == 0
    assert losses.flow(motion.mean().expand(50, 6), motion).item() == pytest.approx(1)
    predicted = motion + torch.from_numpy(noise)
    assert losses.flow(predicted, motion).item() == pytest.approx(np.mean(noise**2) / motion.numpy().var())


def test_a_batch_without_motion_has_no_infinite_share():
    still = torch.zeros(5, 6)
    assert losses.flow(still, still) == 0
    assert losses.flow(still + 1, still).isfinite()


def test_block_flow_finds_a_planted_shift():
    torch.manual_seed(0)
    scene = torch.nn.functional.interpolate(torch.rand(1, 1, 40, 40).round(), 80, mode="bilinear")[0, 0] * 255
    shifts = [(0, 0), (2, 0), (-3, 1), (0, -2)]  # right and down, of the scene

    def view(x, y):
        return scene[8 - y : 40 - y, 8 - x : 40 - x, None].round().to(torch.uint8).expand(-1, -1, 3)

    pairs = torch.stack([torch.stack([view(0, 0), view(*shift)]) for shift in shifts])  # b 2 h w 3
    both = torch.stack([pairs, pairs.flip(1)], 2)  # the second camera sees it backwards
    flow = losses.block_flow(both).reshape(4, 2, 2, 8, 8)
    inner = flow[..., 2:6, 2:6].mean((-1, -2))
    torch.testing.assert_close(inner[:, 0], torch.tensor(shifts).float(), atol=0.35, rtol=0)
    torch.testing.assert_close(inner[:, 1], -torch.tensor(shifts).float(), atol=0.35, rtol=0)
    grey = torch.full((1, 2, 1, 48, 48, 3), 128, dtype=torch.uint8)
    assert losses.block_flow(grey).abs().max() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):  # mixed precision does not blur the target
        assert torch.equal(losses.block_flow(both).reshape(flow.shape), flow)


def test_block_flow_is_the_softmax_of_plain_block_costs():
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (2, 2, 1, 32, 32, 3), dtype=torch.uint8)
    flow = losses.block_flow(frames).reshape(2, 2, 8, 8)
    now, later = frames[:, :, 0].double().mean(-1).numpy().swapaxes(0, 1) / 255
    padded = np.pad(later, [(0, 0), (4, 4), (4, 4)], mode="edge")
    for y, x in [(0, 0), (3, 5), (7, 7)]:
        cell = now[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        shifts = [(dx, dy) for dy in range(-4, 5) for dx in range(-4, 5)]
        cost = np.stack(
            [
                ((padded[:, 4 * y + 4 + dy :, 4 * x + 4 + dx :][:, :4, :4] - cell) ** 2).mean((1, 2))
                + (dx**2 + dy**2) * 1e-4 / 3
                for dx, dy in shifts
            ],
            1,
        )
        weight = np.exp(-(cost - cost.min(1, keepdims=True)) / (0.01 / 3))
        expected = weight / weight.sum(1, keepdims=True) @ np.array(shifts)
        np.testing.assert_allclose(flow[:, :, y, x], expected, atol=1e-4)
