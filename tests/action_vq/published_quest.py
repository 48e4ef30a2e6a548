"""QueST's SkillVAE with FSQ from its description, in torch's functions alone: any of its sizes, with random weights.

Names of tensors are those of the published class, whose convolutions have a `.conv` inside where they are causal.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = 8


class SkillVAE(NamedTuple):
    """Settings of one model, named as its class names them, and its tensors."""

    settings: dict
    tensors: dict[str, Tensor]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Kernel and stride of each convolution."""
        twos = int(math.log2(self.settings["downsample_factor"]))
        return [(5, 2), *[(3, 2)] * (twos - 1), (3, 1)] if twos else [(3, 1), (2, 1)]

    def encode(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, H, m] to scalars before rounding [B, P, d] and codes [B, P]."""
        x = self._linear("action_proj", actions).transpose(1, 2)
        causal = self.settings["use_causal_encoder"]
        for i, (kernel, stride) in enumerate(self.blocks):
            name = f"conv_block.blocks.{i}.block"
            weight, bias = (self.tensors[f"{name}.0{'.conv' * causal}.{part}"] for part in ("weight", "bias"))
            length = x.shape[2]
            if causal:  # zeros on both sides; what saw those behind is cut off
                x = F.conv1d(x, weight, bias, stride, padding=kernel - 1)[..., : (length - 1) // stride + 1]
            else:
                x = F.conv1d(x, weight, bias, stride, padding=kernel // 2)
            norm = (self.tensors[f"{name}.2.{part}"] for part in ("weight", "bias"))
            x = F.mish(F.group_norm(x, GROUPS, *norm))
        x = x.transpose(1, 2) + self._places(x.shape[2])
        for i in range(self.settings["encoder_layers"]):
            name = f"encoder.layers.{i}"
            own = self._norm(f"{name}.norm1", x)
            x = x + self._attention(f"{name}.self_attn", own, own, self.settings["encoder_heads"], causal)
            x = x + self._mlp(name, self._norm(f"{name}.norm2", x))
        scalars = self._linear("vq.project_in", x)
        levels = torch.tensor(self.settings["fsq_level_used"])
        half, offset = (levels - 1) * 1.001 / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
        whole = (torch.tanh(scalars + torch.atanh(offset / half)) * half - offset).round()
        step = torch.tensor([math.prod(levels.tolist()[:i]) for i in range(len(levels))])
        return scalars, ((whole + levels // 2) * step).sum(-1).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, P] to actions [B, H, m]."""
        levels, values, rest = self.settings["fsq_level_used"], [], codes
        for count in levels:
            values.append((rest % count - count // 2) / (count // 2))
            rest = rest // count
        memory = self._linear("vq.project_out", torch.stack(values, -1))
        steps = self.settings["skill_block_size"]
        x = self._places(steps).expand(len(codes), -1, -1)
        for i in range(self.settings["decoder_layers"]):
            name, heads = f"decoder.layers.{i}", self.settings["decoder_heads"]
            own = self._norm(f"{name}.norm1", x)
            x = x + self._attention(f"{name}.self_attn", own, own, heads, self.settings["use_causal_decoder"])
            x = x + self._attention(f"{name}.multihead_attn", self._norm(f"{name}.norm2", x), memory, heads, False)
            x = x + self._mlp(name, self._norm(f"{name}.norm3", x))
        return self._linear("action_head", x)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        spread = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
        plain = (x - x.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()
        return plain * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        return self._linear(f"{name}.linear2", F.gelu(self._linear(f"{name}.linear1", x)))

    def _attention(self, name: str, x: Tensor, memory: Tensor, heads: int, causal: bool) -> Tensor:
        weights, biases = (self.tensors[f"{name}.in_proj_{part}"].chunk(3) for part in ("weight", "bias"))
        parts = [source @ w.T + b for source, w, b in zip((x, memory, memory), weights, biases, strict=True)]
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)  # b heads t d
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if causal:
            steps = torch.arange(x.shape[1])
            scores = scores.masked_fill(steps[None] > steps[:, None], -torch.inf)
        return self._linear(f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def _places(self, steps: int) -> Tensor:
        dim = self.settings["encoder_dim"]
        angles = torch.arange(steps)[:, None] / 10_000 ** (torch.arange(0, dim, 2) / dim)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def make(settings: dict, levels: tuple[int, ...], seed: int = 0) -> SkillVAE:
    """A model with random weights; codes of random actions are many."""
    generator, dim, m = torch.Generator().manual_seed(seed), settings["encoder_dim"], settings["action_dim"]
    made = SkillVAE({**settings, "fsq_level_used": levels}, {})

    def add(name: str, *shape: int, norm: bool = False) -> None:
        made.tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5 + norm
        made.tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1

    add("action_proj", dim, m)
    add("action_head", m, dim)
    add("vq.project_in", len(levels), dim)
    add("vq.project_out", dim, len(levels))
    for i, (kernel, _) in enumerate(made.blocks):
        inside = ".conv" if settings["use_causal_encoder"] else ""
        add(f"conv_block.blocks.{i}.block.0{inside}", dim, dim, kernel)
        add(f"conv_block.blocks.{i}.block.2", dim, norm=True)
    for part, kinds in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        for i in range(settings[f"{part}_layers"]):
            name = f"{part}.layers.{i}"
            for kind in kinds:
                add(f"{name}.{kind}.in_proj", 3 * dim, dim)
                for each in ("weight", "bias"):
                    stored = made.tensors.pop(f"{name}.{kind}.in_proj.{each}")
                    made.tensors[f"{name}.{kind}.in_proj_{each}"] = stored
                add(f"{name}.{kind}.out_proj", dim, dim)
            add(f"{name}.linear1", 4 * dim, dim)
            add(f"{name}.linear2", dim, 4 * dim)
            for number in range(1, len(kinds) + 2):
                add(f"{name}.norm{number}", dim, norm=True)
    for name in ("add_positional_emb.penc.inv_freq", "fixed_positional_emb.inv_freq"):
        made.tensors[name] = 1 / 10_000 ** (torch.arange(0, dim, 2) / dim)
    return made
