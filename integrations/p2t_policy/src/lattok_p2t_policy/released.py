"""Modules of "From Pixels to Tokens" exactly as released, faults included. For the checkpoint converter and its tests.

Nothing is trained with these: lattok's own policy follows the paper (`lattok.vla.head`, `lattok.vla.supervision`). Each
fault that is kept because published weights need it is marked "as released".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.hub import HubModel
from lattok.utils import checks
from lattok.utils.checks import LattokError

VARIANTS = ("base", "pro")
NOISE = 0.02  # as released: of the start tokens in training; the norm after it makes that unit variance


@dataclass(frozen=True)
class ReleasedVLAConfig:
    """Sizes of a published policy's own modules; the defaults are the published ones on LIBERO."""

    variant: str = "base"  # base: no positions in the head; pro: keys and values per source, and positions
    horizon: int = 8  # steps of a chunk, H
    action_dim: int = 7  # m
    dim: int = 2048  # width of the language model, D
    blocks: int = 11  # of the head; it takes blocks + 1 hidden states and leaves the first unread
    heads: int = 8
    image_tokens: int = 512  # how many tokens the head takes for image tokens
    proprio_dim: int = 0  # 0: without a proprio projector
    pooling: bool = False  # has the pooling of LA-Direct
    latent_dim: int = 0  # width of the latent actions of LA-Align's projector; 0: without it
    align_hidden: int = 0  # its inner width

    def __post_init__(self) -> None:
        checks.one_of("variant", self.variant, VARIANTS)
        checks.counts(horizon=self.horizon, action_dim=self.action_dim, dim=self.dim, blocks=self.blocks)
        checks.counts(heads=self.heads, image_tokens=self.image_tokens)
        checks.whole(proprio_dim=self.proprio_dim, latent_dim=self.latent_dim, align_hidden=self.align_hidden)
        if self.dim % self.heads or (self.variant == "pro" and self.dim // self.heads % 2):
            even = ", each head of an even width" if self.variant == "pro" else ""
            checks.fail("heads", f"a divisor of the width {self.dim}{even}", self.heads)
        if bool(self.latent_dim) != bool(self.align_hidden):
            checks.fail("align_hidden", "an inner width where there is a latent_dim", self.align_hidden)


def turned(x: Tensor) -> Tensor:
    """Put position factors on [B, h, n, d], counted from 0. As released: two conventions mixed, so not a rotation.

    The angles are laid out in two equal halves, the partner of a channel is its neighbour.
    """
    count, width = x.shape[-2:]
    frequency = 10000 ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angle = torch.arange(count, device=x.device)[:, None] * torch.cat([frequency, frequency])  # n d
    partner = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * angle.cos().to(x) + partner * angle.sin().to(x)


class ReleasedBlock(nn.Module):
    """Chunk tokens look at themselves, at action tokens with proprio, and at image tokens, in one softmax."""

    def __init__(self, config: ReleasedVLAConfig):
        super().__init__()
        d, self.heads = config.dim, config.heads
        self.positions = config.variant == "pro"
        sources = 3 if self.positions else 1  # keys and values of each source, or one for all
        self.q = nn.Linear(d, d)
        self.k = nn.ModuleList(nn.Linear(d, d) for _ in range(sources))
        self.v = nn.ModuleList(nn.Linear(d, d) for _ in range(sources))
        self.out = nn.Linear(d, d)
        self.gate = nn.Parameter(torch.zeros(1))
        self.norm, self.linear = nn.LayerNorm(d), nn.Linear(d, d)

    def forward(self, x: Tensor, actions: Tensor, image: Tensor) -> Tensor:
        """Update x [B, H, D] from actions [B, a, D] (proprio is the last of them) and image [B, i, D]."""
        sources = (x, actions, image)
        q = self._split(self.q(x))
        keys = [self._split(self.k[i % len(self.k)](source)) for i, source in enumerate(sources)]
        values = [self._split(self.v[i % len(self.v)](source)) for i, source in enumerate(sources)]
        if self.positions:
            q, keys = turned(q), [turned(key) for key in keys]
        scores = [q @ key.mT for key in keys]
        scores[2] = scores[2] * self.gate.tanh()  # as released: scales scores, so a closed gate still mixes
        weights = (torch.cat(scores, -1) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = rearrange(weights @ torch.cat(values, 2), "b h n d -> b n (h d)")
        return self.linear(self.norm(self.out(mixed) + x)).relu()  # as released: no residual around the linear

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)


class ReleasedHead(nn.Module):
    """Action chunk from hidden states [B, blocks + 1, L, D]: image tokens first, then action tokens.

    As released, all queries are zero. "base" has no positions either, so it gives one action H times.
    """

    def __init__(self, config: ReleasedVLAConfig):
        super().__init__()
        start = config.action_dim * config.dim
        self.horizon, self.image_tokens = config.horizon, config.image_tokens
        self.norm_in, self.project = nn.LayerNorm(start), nn.Linear(start, config.dim)
        self.blocks = nn.ModuleList(ReleasedBlock(config) for _ in range(config.blocks))
        self.norm_out, self.out = nn.LayerNorm(config.dim), nn.Linear(config.dim, config.action_dim)

    def forward(self, hidden: Tensor, proprio: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return actions [B, H, m]; `proprio` [B, D] is projected, `noise` [H, m D] is added to queries in training."""
        start = self.norm_in.weight.new_zeros(self.horizon, self.project.in_features)
        start = start if noise is None else start + noise
        x = self.project(self.norm_in(start.expand(len(hidden), -1, -1))).relu()  # b h d
        own = hidden[:, 0, :0] if proprio is None else proprio[:, None]  # b 0|1 d
        for i, block in enumerate(self.blocks):
            layer = hidden[:, i + 1]  # as released: hidden state 0 is not read
            image, actions = layer[:, : self.image_tokens], layer[:, self.image_tokens :]  # as released: a fixed count
            x = block(x, torch.cat([actions, own], 1), image)
        return self.out(self.norm_out(x))


class ReleasedProprio(nn.Module):
    """Robot state [B, s] to a token [B, D]."""

    def __init__(self, config: ReleasedVLAConfig):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(config.proprio_dim, config.dim), nn.Linear(config.dim, config.dim)

    def forward(self, proprio: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(proprio)))


class ReleasedPooling(nn.Module):
    """Softmax pooling by a learned query over axis 1.

    As released it gets [B, H, P, D] and so pools over time: [B, P, D].
    """

    def __init__(self, dim: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        weights = (tokens @ self.query).softmax(1)
        return (weights[..., None] * tokens).sum(1)


class ReleasedAlign(nn.Module):
    """LA-Align's projector, [.., D] to [.., d]. As released: two layers, where the paper has a linear one."""

    def __init__(self, dim: int, latent_dim: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, latent_dim)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(states))))


class ReleasedVLA(HubModel):
    """A published policy's own modules: head, proprio projector, pooling and projector, as far as its file has them.

    Actions are in the normalised units of its training: the file holds no statistics. The language model is not here.
    """

    type = "p2t-released-vla"
    arxiv = "2605.04678"
    config_class = ReleasedVLAConfig
    config: ReleasedVLAConfig

    def __init__(self, config: ReleasedVLAConfig):
        super().__init__()
        self.config = config
        self.head = ReleasedHead(config)
        self.proprio = ReleasedProprio(config) if config.proprio_dim else None
        self.pooling = ReleasedPooling(config.dim) if config.pooling else None
        self.align = ReleasedAlign(config.dim, config.latent_dim, config.align_hidden) if config.latent_dim else None

    def forward(self, hidden: Tensor, proprio: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return actions [B, H, m] of states [B, blocks + 1, L, D] and, if it reads it, the robot state [B, s]."""
        c = self.config
        self._check("hidden", hidden, (None, c.blocks + 1, None, c.dim), "B layers L D")
        if self.proprio is None:
            if proprio is not None:
                raise LattokError(f"`proprio` {list(proprio.shape)} was given, but this policy does not read it.")
            return self.head(hidden, None, noise)
        if proprio is None:
            checks.fail("proprio", f"the robot state [B, {c.proprio_dim}]", "none")
        self._check("proprio", proprio, (len(hidden), c.proprio_dim), "B s")
        return self.head(hidden, self.proprio(proprio), noise)

    @staticmethod
    def _check(name: str, value: Tensor, shape: Sequence[int | None], dims: str) -> None:
        checks.tensor(name, value)
        checks.rank(name, value, dims)
        for axis, got, expected in zip(dims.split(), value.shape, shape, strict=True):
            checks.size(name, f"along {axis}", got, got if expected is None else expected)
