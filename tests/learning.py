"""A few steps of gradient descent."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lattok.types import LossTerms


def learn(
    module: nn.Module | list[Tensor],
    terms: Callable[[], LossTerms],
    steps: int,
    lr: float,
    weights: Mapping[str, float] | None = None,
) -> list[dict[str, float]]:
    """Let a module, or tensors, learn from `terms`: from their sum, or those with `weights`. Returns the terms of every
    step; the gradients of the last one are left."""
    parameters = module.parameters() if isinstance(module, nn.Module) else module
    optimizer = torch.optim.AdamW([each for each in parameters if each.requires_grad], lr)
    seen = []
    for _ in range(steps):
        found = terms()
        optimizer.zero_grad()
        known = weights or dict.fromkeys(found, 1.0)
        torch.stack([known[name] * value for name, value in found.items() if name in known]).sum().backward()
        optimizer.step()
        seen.append({name: float(value.detach()) for name, value in found.items()})
    return seen


def unlearned(module: nn.Module) -> list[str]:
    """Which parameters got no gradient in the last step."""
    return [name for name, parameter in module.named_parameters() if parameter.grad is None]
