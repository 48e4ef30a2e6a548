"""Action head that moves noise until it is actions: flow matching (Lipman et al., 2023), as in π0 and GR00T.

    x_t = (1 - t) ε + t a,    v = a - ε           `lattok.nn.flow` draws ε and t
    L   = |v_θ(x_t, t) - v|^2                     over valid steps
    a   = x_1,  x_{t + 1/N} = x_t + v_θ(x_t, t) / N,  x_0 = ε

The blocks are those of the regression head; their steps start from x_t and t too. What regression averages over several
ways to act stays apart here. With action_loss="l2_bce" the grippers' numbers are logits of the same steps instead: no
noise becomes them, x_t is 0 there, and an action has those of the last Euler step (LatBot, 3.3: L_ee + L_gripper).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lattok.nn.blocks import onto, sinusoids
from lattok.nn.flow import TICKS, draw_flow
from lattok.nn.losses import numbers
from lattok.types import FlowDraws, LossTerms, PolicyBatch
from lattok.utils.seeds import derive_seed
from lattok.vla.config import VLAConfig
from lattok.vla.head import ActionHead, States


class FlowActionHead(ActionHead):
    """Hidden states, image tokens and proprio to chunks of normalised actions [B, H, m], drawn out of noise."""

    def __init__(self, hidden_size: int, layers: Sequence[int], config: VLAConfig):
        super().__init__(hidden_size, layers, config)
        dim = config.head.dim
        self.noisy = nn.Linear(config.action_dim, dim)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.steps = config.head.flow_steps

    def learn(
        self,
        states: States,
        proprio: Tensor | None,
        target: Tensor,
        valid: Tensor,
        draws: FlowDraws | None = None,
        known: Tensor | None = None,
    ) -> tuple[LossTerms, list[Tensor]]:
        """Return the term "action", and what each block makes of the noised actions at the drawn times, [B, H, d].

        The term is the squared error of the velocity at `draws`, or at others from torch's generator. Steps that are
        not valid are neither judged nor seen by the others; nor are dimensions, where `valid` has them. Grippers with
        action_loss="l2_bce" are judged by the cross-entropy of their logits, and never seen. The noised actions of a
        sample without any valid step are noise alone, at time 0, where a rollout starts too: in all steps, and in the
        dimensions that are `known` [B, m].
        """
        noise, times = draw_flow(target.shape, device=target.device) if draws is None else draws
        steps = valid if valid.dim() == 2 else valid.any(-1)
        blind = ~steps.any(1)
        target, times = target.masked_fill(~numbers(valid), 0.0), times.masked_fill(blind, 0.0)
        share = times[:, None, None]
        x = (1 - share) * noise + share * target
        if valid.dim() == 3:
            there = blind[:, None, None] if known is None else blind[:, None, None] & known[:, None]
            x = x.masked_fill(~(valid | there), 0.0)
        after = self.follow(self.start(x, times), states, proprio, steps | blind[:, None])
        wanted = target - noise
        for dim in self.gripper:
            wanted[..., dim] = target[..., dim]
        return self.compared(self.out(self.norm(after[-1])), wanted, valid), after

    @torch.no_grad()
    def sample(self, states: States, proprio: Tensor | None, batch: PolicyBatch, seed: int) -> Tensor:
        """Return normalised actions float32 [B, H, m], by Euler's method from noise of `seed` and each sample."""
        chunk = len(self.queries), self.out.out_features
        return self.integrate(onto(noise_of(batch, chunk, seed), self.queries.device), states, proprio, batch.known)

    def integrate(self, noise: Tensor, states: States, proprio: Tensor | None, known: Tensor | None = None) -> Tensor:
        """Follow the velocity from noise [B, H, m] to actions; dimensions that are not `known` [B, m] stay 0."""
        there = torch.ones_like(noise[:, :1], dtype=torch.bool) if known is None else known[:, None]
        x = found = noise.masked_fill(~there, 0.0)
        for step in range(self.steps):
            times = torch.full_like(x[:, 0, 0], step / self.steps)
            found = self.velocity(x, times, states, proprio).float().masked_fill(~there, 0.0)
            x = x + found / self.steps
        for dim in self.gripper:
            x[..., dim] = found[..., dim]
        return self.opened(x)

    def velocity(self, x: Tensor, times: Tensor, states: States, proprio: Tensor | None) -> Tensor:
        """Predict where chunks [B, H, m] at times [B] go, [B, H, m]; in the place of grippers stand their logits."""
        return self.read(self.start(x, times), states, proprio)

    def start(self, x: Tensor, times: Tensor) -> Tensor:
        """Return what the steps [B, H, d] start as: query, chunks [B, H, m] without grippers that have logits, time."""
        kind = self.queries.dtype
        if self.gripper:
            x = x.clone()
        for dim in self.gripper:
            x[..., dim] = 0.0  # the noised truth would say what the logits have to
        when = self.time(sinusoids(TICKS * times, self.queries.shape[1]).to(kind))[:, None]  # b 1 d
        return self.queries + self.noisy(x.to(kind)) + when


def noise_of(batch: PolicyBatch, chunk: tuple[int, int], seed: int) -> Tensor:
    """Draw noise [B, H, m] that follows from `seed` and what each sample shows: it is the same in any batch."""
    rows = []
    for i, text in enumerate(batch.texts):
        digest = hashlib.blake2b(text.encode(), digest_size=8)
        for part in (batch.images, batch.proprio):
            if part is not None:
                digest.update(part[i].contiguous().numpy(force=True).tobytes())
        own = torch.Generator().manual_seed(derive_seed(seed, int.from_bytes(digest.digest(), "big")))
        rows.append(torch.randn(chunk, generator=own))
    return torch.stack(rows)
