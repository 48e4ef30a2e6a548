"""Hidden states of a policy that is not ours, here a stand-in with LeRobot's surface."""

import pytest
import torch
from torch import nn

from lattok.vla.supervision import AlignLoss
from lattok.vla.tap import Supervised, Tap, find_module
from tests.errors import refused
from tests.vla.stand_in import WIDTH, B, D, H, M, Policy, hooks, make_batch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_what_goes_in_and_what_comes_out():
    policy, batch = Policy(), make_batch()
    with Tap("model.action_head").on(policy) as before, Tap("model.action_head", side="output").on(policy) as after:
        loss, _ = policy(batch)
    states, actions = before.states(), after.states()
    assert states.shape == (B, H, WIDTH)
    assert torch.equal(policy.model.action_head(states), actions)
    assert hooks(policy) == 0
    loss.backward(retain_graph=True)
    assert torch.autograd.grad(states.sum(), policy.model.embed.weight)[0].abs().sum() > 0
    refused("got none", before.states)  # they are given once
    with Tap("model.action_head", keep=2).on(policy) as last:
        policy(batch)
    assert torch.equal(last.states(), states[:, -2:])


def test_children_of_layers_that_are_called_by_hand():
    policy, batch = Policy(), make_batch()
    with Tap("model.layers.1").on(policy) as tapped:
        policy(batch)
    refused("`tap`", tapped.states)
    with Tap("model.layers.1.input_layernorm").on(policy) as tapped:
        policy(batch)
    assert tapped.states().shape == (B, H, WIDTH)


def test_names():
    policy = Policy()
    assert find_module(policy, "model.layers.0.mlp") is policy.model.layers[0].mlp
    refused("a module of Policy, got 'action_head'. Did you mean", lambda: Tap("action_head").on(policy).__enter__())
    refused("got 'model.action_hed'. Did you mean", lambda: Supervised(policy, "model.action_hed", AlignLoss(WIDTH, D)))
    refused("got 'xyzzy'. At the top there are model", find_module, policy, "xyzzy")
    refused("`side`", Tap, "model", side="in")
    refused("`call`", lambda: Tap("model", call="all"))
    refused("`keep`", Tap, "model", keep=0)


class Loop(nn.Module):
    """Calls the same module twice, as a policy with weights that are shared."""

    def __init__(self):
        super().__init__()
        self.block, self.pooled = nn.Linear(M, M), nn.Linear(M, M)

    def forward(self, x, times=2):
        for _ in range(times):
            x = self.block(input=x)
        return self.pooled(x.mean(1))


def test_several_calls():
    policy, x = Loop(), torch.randn(B, H, M)
    with (
        Tap("block", call="first").on(policy) as first,
        Tap("block", call="last").on(policy) as last,
        Tap("block").on(policy) as only,
        Tap("block", "output", "last").on(policy) as out,
    ):
        policy(x.requires_grad_())
    assert torch.equal(first.states(), x)
    second = policy.block(x)
    assert torch.equal(last.states(), second)
    assert torch.equal(out.states(), policy.block(second))
    refused('expected one call of `block` in a forward pass, got 2. call="last" or', only.states)


def test_convolutions_over_time():
    policy, x = nn.Sequential(nn.Conv1d(M, WIDTH, 1), nn.Conv1d(WIDTH, M, 1)), torch.randn(B, M, H)
    with Tap("1", channels_first=True, keep=2).on(policy) as tapped:
        policy(x)
    assert torch.equal(tapped.states(), policy[0](x).transpose(1, 2)[:, -2:])


def test_states_of_another_shape():
    policy = Loop()
    with Tap("pooled").on(policy) as tapped:
        policy(torch.randn(B, H, M))
    refused(r"states \[B, n, D\] as the input of `pooled`, got shape \[4, 3\]. Name a", tapped.states)
    with Tap("block", call="last", keep=H + 1).on(policy) as tapped:
        policy(torch.randn(B, H, M))
    refused("`keep`", tapped.states)


class Wrapped(nn.Module):
    """Gives its states in a dictionary, in a tuple, or none at all."""

    def __init__(self, wrap):
        super().__init__()
        self.block, self.wrap = nn.Identity(), wrap
        self.block.register_forward_hook(lambda module, args, out: wrap(out))

    def forward(self, x):
        return self.block(x)


def test_states_in_a_tuple_or_a_dictionary():
    x = torch.randn(B, H, M, requires_grad=True)
    for wrap in (lambda y: (None, y), lambda y: {"mask": None, "hidden": y}):
        policy = Wrapped(wrap)
        with Tap("block", "output").on(policy) as tapped:
            policy(x)
        assert torch.equal(tapped.states(), x)
    policy = Wrapped(lambda y: (None,))
    with Tap("block", "output").on(policy) as tapped:
        policy(x)
    refused("expected a tensor as the output of `block`, got none in its calls", tapped.states)


def test_calls_without_gradient_are_passed_over():
    """Denoising loops and target networks inside a training step; but a validation step has no gradient at all."""
    policy, batch = Policy(), make_batch()
    with Tap("model.action_head").on(policy) as tapped:
        policy.select_action(batch)
        policy(batch)
        policy.select_action(batch)
    assert tapped.states().requires_grad
    with Tap("model.action_head").on(policy) as tapped:
        policy.reset()
        policy.select_action(batch)
    refused("expected a call of `model.action_head` with gradients, got 1 without", tapped.states)
    with torch.no_grad(), Tap("model.action_head").on(policy) as tapped:
        policy(batch)
    assert not tapped.states().requires_grad
