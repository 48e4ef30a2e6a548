"""A policy with the surface and the call structure of LeRobot's, small enough for any test."""

from collections import deque

import torch
from torch import nn

B, H, M, P, K, D, WIDTH = 4, 5, 3, 4, 16, 8, 24


class Layer(nn.Module):
    """A layer whose forward is never called: SmolVLA and pi0 call its children."""

    def __init__(self):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Linear(WIDTH, WIDTH)


class Model(nn.Module):
    """States of H steps from an observation, and actions from them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(M, WIDTH)
        self.queries = nn.Parameter(torch.randn(H, WIDTH))
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.action_head = nn.Linear(WIDTH, M)

    def forward(self, state):
        hidden = self.embed(state)[:, None] + self.queries  # b h d
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer.mlp(layer.input_layernorm(hidden)))
        return self.action_head(hidden)


class Policy(nn.Module):
    """`forward(batch, reduction)` to (loss, dict), an action queue, parameters for the optimizer in groups."""

    name = "stand-in"

    def __init__(self):
        super().__init__()
        self.config = {"chunk_size": H}
        self.model = Model()
        self.reset()

    def reset(self):
        self._queue = deque()

    def get_optim_params(self):
        return [{"params": list(self.model.parameters()), "lr": 1e-3}]

    def forward(self, batch, reduction: str = "mean"):
        error = (self.model(batch["observation.state"]) - batch["action"]).abs() * ~batch["action_is_pad"][..., None]
        loss = error.mean((1, 2)) if reduction == "none" else error.mean()
        return loss, {"l1_loss": error.mean().item()}

    @torch.no_grad()
    def select_action(self, batch):
        if not self._queue:
            self._queue.extend(self.predict_action_chunk(batch).transpose(0, 1))
        return self._queue.popleft()

    def predict_action_chunk(self, batch):
        return self.model(batch["observation.state"])

    def save_pretrained(self, path):
        torch.save(self.state_dict(), path)


def hooks(policy: nn.Module) -> int:
    """Count the hooks that hang on a policy."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in policy.modules())


def make_batch(steps: int = H) -> dict[str, torch.Tensor]:
    """As LeRobot's loader gives it, with labels of `steps` rows; sample 1 ends two steps before its chunk does."""
    pad = torch.zeros(B, H, dtype=torch.bool)
    pad[1, -2:] = True
    return {
        "observation.state": torch.randn(B, M),
        "action": torch.randn(B, H, M),
        "action_is_pad": pad,
        "latent.codes": torch.randint(0, K, (B, steps, P)),
        "latent.embedding": torch.randn(B, steps, P * D),
        "latent.valid": torch.rand(B, steps) < 0.8,
    }
