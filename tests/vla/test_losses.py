"""The losses of Eq. 4 to 10, and LatBot's KL, against loops in numpy, their masks, and what an average over shares of
a batch gives."""

import math

import numpy as np
import pytest
import torch

from lattok.nn import losses as means
from lattok.vla import supervision as losses
from tests.errors import refused

B, S, P, K, D = 5, 6, 3, 7, 4


@pytest.fixture
def valid(rng):
    """Some steps of every sample, one of the second, none of the last."""
    mask = rng.random((B, S)) < 0.6
    mask[0, 0], mask[-1] = True, False
    mask[1] = np.arange(S) == 2
    return torch.from_numpy(mask)


def normal(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def by_hand(error_of, valid, reduction: str, size: int):
    """`error_of(b, s)` is the sum of the `size` elements of a step."""
    sums, means = [], []
    for b in range(B):
        steps = [error_of(b, s) for s in range(S) if valid[b, s]]
        sums.append(sum(steps))
        means.append(sum(steps) / (len(steps) * size) if steps else 0.0)
    here = valid.any(1).numpy()  # a sample without labels does not count, with sums as with means
    return {"sum": np.mean(np.array(sums)[here]), "mean": np.mean(np.array(means)[here]), "none": np.array(means)}[
        reduction
    ]


def softmax_nll(logits, code: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - float(logits[code])


def cases(rng):
    """By name: the loss of (target, valid, reduction), a target, the prediction, and by hand what a step costs."""
    actions, chunks = normal(rng, B, S, D), normal(rng, B, S, D)
    states, vectors = normal(rng, B, S, D), normal(rng, B, S, P, D)
    logits, codes = normal(rng, B, S, P, K), torch.from_numpy(rng.integers(0, K, (B, S, P)))
    predicted = normal(rng, B, S, P, D)

    def squared(b, s):
        return sum((float(actions[b, s, i]) - float(chunks[b, s, i])) ** 2 for i in range(D))

    def absolute(b, s):
        return sum(abs(float(actions[b, s, i]) - float(chunks[b, s, i])) for i in range(D))

    def cosine(b, s):
        p = states[b, s].double().numpy()
        c = sum(vectors[b, s, k].double().numpy() for k in range(P)) / P
        return 1 - p @ c / (np.linalg.norm(p) * np.linalg.norm(c))

    def nll(b, s):
        return sum(softmax_nll(logits[b, s, k].double().numpy(), int(codes[b, s, k])) for k in range(P))

    def regression(b, s):
        return sum((float(predicted[b, s, k, i]) - float(vectors[b, s, k, i])) ** 2 for k in range(P) for i in range(D))

    def divergence(b, s):
        own, teacher = (x[b, s].double().softmax(-1).numpy() for x in (predicted, vectors))
        return sum(own[k, i] * math.log(own[k, i] / teacher[k, i]) for k in range(P) for i in range(D))

    return {
        "eq4": (lambda x, t, v, r: means.action_loss(x, t, v, "l2", r), chunks, actions, squared, D),
        "l1": (lambda x, t, v, r: means.action_loss(x, t, v, "l1", r), chunks, actions, absolute, D),
        "eq5": (losses.alignment, vectors, states, cosine, 1),
        "eq7": (losses.code_cross_entropy, codes, logits, nll, P),
        "continuous": (losses.regression, vectors, predicted, regression, P * D),
        "kl": (
            lambda *given: losses.distillation(*given) - losses.regression(*given),
            vectors,
            predicted,
            divergence,
            P,
        ),
    }


NAMES = ("eq4", "l1", "eq5", "eq7", "continuous", "kl")


@pytest.mark.parametrize("reduction", means.REDUCTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_each_equation_by_hand(rng, valid, name, reduction):
    loss, target, predicted, error_of, size = cases(rng)[name]
    expected = by_hand(error_of, valid, reduction, size)
    np.testing.assert_allclose(loss(predicted, target, valid, reduction).numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", means.REDUCTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_valid_changes_neither_loss_nor_gradient(rng, valid, name, reduction):
    loss, target, predicted, _, _ = cases(rng)[name]
    predicted.requires_grad_()
    seen = []
    wrong = (-1, 10**9) if target.dtype == torch.int64 else (math.nan, math.inf, 1e30)
    for other in (None, *wrong):
        changed = target.clone()
        if other is not None:
            changed[~valid] = other
        value = loss(predicted, changed, valid, reduction)
        seen.append((value, *torch.autograd.grad(value.sum(), predicted)))
    for value, gradient in seen[1:]:
        assert torch.equal(value, seen[0][0])
        assert torch.equal(gradient, seen[0][1])
    assert (seen[0][1][~valid] == 0).all()
    assert (seen[0][1][valid] != 0).any()


@pytest.mark.parametrize("reduction", means.REDUCTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_valid_is_nothing(rng, name, reduction):
    loss, target, predicted, _, _ = cases(rng)[name]
    predicted.requires_grad_()
    value = loss(predicted, target, torch.zeros(B, S, dtype=torch.bool), reduction)
    assert torch.equal(value, torch.zeros(B if reduction == "none" else ()))
    (gradient,) = torch.autograd.grad(value.sum(), predicted)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_a_batch_average_to_the_whole(rng, valid, name):
    """As processes do, each with its part of the batch, however many steps of it are valid."""
    loss, target, predicted, _, _ = cases(rng)[name]
    whole = loss(predicted[:4], target[:4], valid[:4], "mean")
    shares = [loss(predicted[a : a + 2], target[a : a + 2], valid[a : a + 2], "mean") for a in (0, 2)]
    assert torch.stack(shares).mean() == pytest.approx(float(whole), rel=1e-6)
    each = loss(predicted, target, valid, "none")
    for b in range(B):
        alone = loss(predicted[b : b + 1], target[b : b + 1], valid[b : b + 1], "mean")
        assert float(each[b]) == pytest.approx(float(alone), rel=1e-6)


def test_losses_are_computed_in_float32(rng, valid):
    for name, (loss, target, predicted, _, _) in cases(rng).items():
        low = predicted.bfloat16()
        value = loss(low, target, valid, "mean")
        assert value.dtype == torch.float32, name
        assert value == loss(low.float(), target, valid, "mean"), name


def test_accuracy(rng, valid):
    logits = normal(rng, B, S, P, K).requires_grad_()
    codes = logits.argmax(-1)
    assert losses.code_accuracy(logits, codes, valid) == 1
    codes[valid] += torch.tensor([0, 1, 0])
    accuracy = losses.code_accuracy(logits, codes, valid)
    assert accuracy == pytest.approx(2 / 3)
    assert not accuracy.requires_grad
    assert losses.code_accuracy(logits, codes, torch.zeros_like(valid)) == 0


def test_words(rng, valid):
    loss, target, predicted, _, _ = cases(rng)["eq5"]
    refused("`reduction`", loss, predicted, target, valid, "average")
    refused("`action_loss`", means.action_loss, predicted, predicted, valid, "huber")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_dimensions_that_a_robot_lacks_change_neither_loss_nor_gradient(rng, reduction):
    """Of sample 0 dimensions 0 and 2 are there, of sample 1 all; whatever stands in the others."""
    predicted, target = (rng.standard_normal((2, 3, 3)).astype("float32") for _ in range(2))
    valid = np.array([[1, 1, 0], [1, 1, 1]], dtype=bool)[..., None] & np.array([[[1, 0, 1]], [[1, 1, 1]]], dtype=bool)
    errors = (predicted - target) ** 2
    reduced = {"mean": np.mean, "sum": np.sum}[reduction]
    steps = [[reduced(errors[i, h][valid[i, h]]) for h in range(3) if valid[i, h].any()] for i in (0, 1)]
    wanted = np.mean([reduced(each) for each in steps])
    gradients = []
    for garbage in (0.0, np.nan, 1e9):
        given = torch.from_numpy(predicted).requires_grad_()
        goal = torch.from_numpy(np.where(valid, target, garbage).astype("float32"))
        loss = means.action_loss(given, goal, torch.from_numpy(valid), reduction=reduction)
        assert float(loss.detach()) == pytest.approx(wanted, rel=1e-6)
        loss.backward()
        gradients.append(given.grad)
    assert all(torch.equal(each, gradients[0]) for each in gradients)
    assert gradients[0] is not None
    assert not gradients[0][~torch.from_numpy(valid)].any()
    both = torch.from_numpy(predicted), torch.from_numpy(np.where(valid, target, np.nan).astype("float32"))
    split = means.gripper_action_loss(*both, torch.from_numpy(valid), [2], reduction)
    share = np.clip(target[..., 2], -1, 1) / 2 + 0.5
    entropy = np.log1p(np.exp(predicted[..., 2])) - share * predicted[..., 2]
    grip = np.mean([reduced(entropy[i][valid[i, :, 2]]) for i in (0, 1)])
    rest = [[reduced(errors[i, h, :2][valid[i, h, :2]]) for h in range(3) if valid[i, h].any()] for i in (0, 1)]
    assert float(split) == pytest.approx(grip + np.mean([reduced(each) for each in rest]), rel=1e-5)
